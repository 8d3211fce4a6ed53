"""Makes the arrays of the diffusion loss from clips: views in order, condition view, scalars."""
import numpy as np

from sgm.views.cameras import wrap_degrees


def shuffled(seed, count, step, batch):
    """Return the `batch` indices below `count` of step `step` (from 0), a new order in each epoch.

    They follow from the step's number alone.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    orders = {epoch: np.random.RandomState((seed * 1000003 + epoch) % 2 ** 32).permutation(count)
              for epoch in set(positions // count)}
    return [int(orders[p // count][p % count]) for p in positions]


def view_order(rng, num_frames, random_start):
    """Return the order of a clip's views, with a random start view and direction if `random_start`.

    On regular orbits the frame's number alone gives the azimuth, and a network then learns to read
    the number.
    """
    if not random_start:
        return np.arange(num_frames)
    return (rng.integers(num_frames) + rng.choice((-1, 1)) * np.arange(num_frames)) % num_frames


def choose_views(rng, azimuths_deg, num_frames, condition):
    """Return which of V views make an orbit of `num_frames` T that ends on the view `condition`.

    These are their numbers, in ascending azimuth from it. V = k T views: every k-th (SV3D, arXiv
    2403.12008 app. B: any of the 84 first, then every fourth); any other V > T: T of them at
    random. V < T is not supported.
    """
    count = len(azimuths_deg)
    if count % num_frames == 0:
        chosen = (condition + count // num_frames * np.arange(num_frames)) % count
    else:
        others = np.delete(np.arange(count), condition)
        chosen = np.append(rng.choice(others, num_frames - 1, replace=False), condition)
    relative = wrap_degrees(azimuths_deg[chosen] - azimuths_deg[condition])
    relative[chosen == condition] = 360
    return chosen[np.argsort(relative, kind="stable")]


def choose_places(rng, num_frames, count, shown):
    """Return `count` of the places 0 .. T-1 of a clip, ascending.

    They are `shown`, the place of the condition view, and others at random.
    """
    others = np.delete(np.arange(num_frames), shown)
    return np.sort(np.append(rng.choice(others, count - 1, replace=False), shown))


class Example:
    """One clip of a batch, reduced to the views that are used.

    views: their numbers in order; places: their places in the clip's T views; condition: the
    condition view's number; values: {name: number, or one for each view}.
    """

    def __init__(self, index, views, condition, values, places):
        self.index, self.views, self.condition = index, views, condition
        self.values, self.places = values, places


class Examples:
    """Batches of the diffusion loss from clips; `LatentClips` and `PixelClips` provide the latents.

    condition: "last" view of an orbit, "any" of them, or the "first" frame of a video. num_frames:
    frames of an example. augment: () or (mean, std): the condition image gets noise of standard
    deviation s, ln s ~ N(mean, std^2), which is the network's cond_aug (arXiv 2311.15127 app. D);
    without it, no noise and the model's own cond_aug.
    """

    def __init__(self, clips, engine, condition="last", num_frames=None, augment=()):
        self.clips, self.engine = clips, engine
        self.condition, self.augment = condition, tuple(augment)
        self.num_frames = num_frames or clips.num_frames
        spec = engine.spec
        self.scale = np.float32(spec.vae.scale_factor)
        self.latent_shape = (spec.vae.z_channels, clips.height // spec.vae_factor,
                             clips.width // spec.vae_factor)

    def __len__(self):
        return len(self.clips)

    def batch(self, rng, indices, drop, random_start=0.0, frames=0):
        """Return x0 (F, z, h, w), crossattn (F, 1, D), concat (F, z, h, w), vector (F, V).

        F = clips * T. x0 is sampled and scaled. With probability `drop` a clip loses its token and
        its latent together, as guidance needs. With probability `random_start` the views of an
        orbit start anywhere and run either way; otherwise an orbit ends on the condition view, and
        a video starts with it. All randomness is `rng`'s.

        frames: number of views of each clip that are used, the condition view and others drawn each
        time; 0 for all. With it F = clips * frames, crossattn is that of whole clips, (clips *
        T, 1, D), and there is a fifth array, rows (F,) int32: the places in it of the views that
        are used (see `DiffusionLoss`).
        """
        count = frames or self.num_frames
        noise = rng.standard_normal((len(indices), count, *self.latent_shape), dtype=np.float32)
        loaded = [self.load(rng, index, random_start, frames) for index in indices]
        mean, log_variance = (np.stack([part[k] for _, part in loaded]) for k in (0, 1))
        x0 = (mean + np.exp(0.5 * log_variance) * noise) * self.scale
        x0 = x0.reshape(-1, *self.latent_shape)
        conditions = self.conditions(rng, loaded, drop)
        if not frames:
            return x0, *conditions
        rows = [k * self.num_frames + example.places for k, (example, _) in enumerate(loaded)]
        return x0, *conditions, np.concatenate(rows).astype(np.int32)

    def conditions(self, rng, loaded, drop):
        """Return crossattn, concat and vector, as `batch` does, from what `load` returned."""
        keep = (rng.random(len(loaded)) >= drop).astype(np.float32)
        levels = [self.engine.spec.condition.cond_aug] * len(loaded)
        latents = [part[2] for _, part in loaded]
        if self.augment:
            levels = np.exp(self.augment[0] + self.augment[1] * rng.standard_normal(len(loaded)))
            latents = self.noisy_conditions(rng, [example for example, _ in loaded], levels)
        tokens = np.stack([part[3] for _, part in loaded])
        crossattn = np.repeat(tokens * keep[:, None, None], self.num_frames, 0)
        concat = np.stack(latents) * keep[:, None, None, None]
        concat = np.repeat(concat, len(loaded[0][0].views), 0)
        vector = np.concatenate([
            self.vector({**example.values, "cond_aug": level}, len(example.views))
            for (example, _), level in zip(loaded, levels)
        ])
        return crossattn, concat, vector

    def pick(self, rng, index, random_start, frames=0):
        """Return an Example of clip `index`: its views in order, and its scalars but motion."""
        clip = self.clips[index]
        if clip.angles is None:
            places = np.arange(self.num_frames)
            if frames:
                places = choose_places(rng, self.num_frames, frames, 0)
            return Example(index, places, 0, {"fps_id": clip.fps} if clip.fps else {}, places)
        azimuths, elevations = clip.angles
        condition = rng.integers(clip.num_views) if self.condition == "any" else clip.num_views - 1
        views = choose_views(rng, azimuths, self.num_frames, condition)
        views = views[view_order(rng, self.num_frames, rng.random() < random_start)]
        places = np.arange(self.num_frames)
        if frames:
            places = choose_places(rng, self.num_frames, frames,
                                   int(np.flatnonzero(views == condition)[0]))
            views = views[places]
        relative = wrap_degrees(azimuths[views] - azimuths[condition])
        return Example(index, views, condition, {"polars_rad": np.deg2rad(90 - elevations[views]),
                                                 "azimuths_rad": np.deg2rad(relative)}, places)

    def vector(self, values, count):
        """Return the vector condition (count, V) float32 of {name: number or (count,)}.

        The sinusoids stand next to each other in the spec's order.
        """
        spec = self.engine.spec
        return np.concatenate([
            sinusoids(spec.vector_scale(name) * np.broadcast_to(values[name], (count,)), width)
            for name, width in spec.vector_widths.items()
        ], 1)

    def noisy_conditions(self, rng, examples, levels):
        """Return the latents (z, h, w) of the examples' condition views with noise, encoded now.

        levels: the standard deviations of the noise.
        """
        latents = []
        for example, level in zip(examples, levels):
            image = self.clips[example.index].frames([example.condition])
            image = image + np.float32(level) * rng.standard_normal(image.shape, dtype=np.float32)
            latents.append(self.engine.encode_moments(image, 1)[0][0])
        return latents


def sinusoids(values, width, max_period=10000.0):
    """Return cosines, then sines of (n,) values: (n, width) float32.

    This is the numpy twin of `ops.timestep_embedding`.
    """
    half = width // 2
    frequencies = np.exp(-np.log(max_period) * np.arange(half, dtype=np.float32) / half)
    frequencies = frequencies.astype(np.float32)
    angles = np.asarray(values, np.float32)[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


class Encoders:
    """The engine's two image encoders over any number of frames.

    They take `chunk` at a time: one compiled shape for all clips.
    """

    def __init__(self, engine, chunk):
        self.engine, self.chunk = engine, chunk

    def moments(self, frames):
        """Return mean and log variance, each (n, z, h, w), of frames (n, 3, H, W)."""
        parts = [self.engine.encode_moments(piece, self.chunk) for piece in self._pieces(frames)]
        return tuple(np.concatenate([part[k] for part in parts])[:len(frames)] for k in (0, 1))

    def tokens(self, frames):
        """Return CLIP tokens (n, 1, D) of frames (n, 3, H, W); a single one is not filled up."""
        from sgm import ops  # MindSpore, which reading clips does without
        clip = self.engine.conditioner.embedder("cond_frames_without_noise")
        pieces = [frames] if len(frames) == 1 else self._pieces(frames)
        return np.concatenate([ops.fetch(clip.embed(piece)) for piece in pieces])[:len(frames)]

    def _pieces(self, frames):
        short = -len(frames) % self.chunk
        padded = np.concatenate([frames, np.repeat(frames[-1:], short, 0)]) if short else frames
        return [padded[k:k + self.chunk] for k in range(0, len(padded), self.chunk)]
