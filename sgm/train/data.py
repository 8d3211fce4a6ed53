"""Training data: packed orbits, and the latents, tokens and angles that the diffusion loss needs, encoded once."""
import hashlib
import json
from pathlib import Path

import numpy as np

from sgm import ops
from sgm.cameras import Orbit
from sgm.config import ConfigError


class PackedOrbits:
    """The arrays of `tools/render_orbits.py --pack` folders, memory-mapped and read as one."""

    def __init__(self, folders):
        if not folders:
            raise ConfigError("data: found no folder, expected those of tools/render_orbits.py --pack (--set data=[...])")
        self.parts = []
        for folder in map(Path, folders):
            try:
                arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r" if name == "clips" else None)
                          for name in ("clips", "azimuths", "elevations")}
            except (OSError, ValueError) as error:
                raise ConfigError(f"data: {folder} is not a finished packed set ({error}); "
                                  "make one with tools/render_orbits.py procedural --pack") from None
            self.parts.append(arrays)
        if len({part["clips"].shape[1:] for part in self.parts}) > 1:
            raise ConfigError(f"data: {', '.join(folders)} differ in frames or size; expected the same")
        self.starts = np.cumsum([0] + [len(part["clips"]) for part in self.parts])
        self.num_frames, self.size = self.parts[0]["clips"].shape[1:3]

    def __len__(self):
        return int(self.starts[-1])

    def locate(self, index):
        """The number of the folder that holds clip `index`, and the clip's row in it."""
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return part, index - self.starts[part]

    def frames(self, index, views=slice(None)):
        """Views of clip `index` as float32 (T, 3, H, W) in [-1, 1]."""
        part, row = self.locate(index)
        return frames_of(self.parts[part], row, views)

    def orbit(self, index):
        """The cameras of clip `index`."""
        part, row = self.locate(index)
        return orbit_of(self.parts[part], row)


def frames_of(part, row, views=slice(None)):
    """Views of a packed folder's clip as float32 (T, 3, H, W) in [-1, 1]."""
    return (part["clips"][row][views].astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)


def orbit_of(part, row):
    """The cameras of a packed folder's clip."""
    return Orbit.from_lists(part["azimuths"][row].astype(np.float64), part["elevations"][row].astype(np.float64))


class LatentOrbits:
    """Per clip: latent moments of all views, the condition view's latent and CLIP token, the vector condition.

    Encoded once into `cache`, folder by folder (each is named after its data and the encoders' weights), then
    memory-mapped.
    """

    FIELDS = ("mean", "log_variance", "token", "vector")

    def __init__(self, orbits, engine, cache, progress):
        """progress(iterable, description) wraps the loops over clips."""
        encoders = hashlib.sha256()
        for name, parameter in engine.conditioner.parameters_dict().items():
            encoders.update(name.encode() + parameter.asnumpy().tobytes())
        self.parts = []
        for part in orbits.parts:
            folder = Path(cache) / fingerprint(part, encoders.copy())
            if not (folder / "done").exists():
                encode(part, engine, folder, progress)
            self.parts.append({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.FIELDS})
        self.orbits = orbits
        self.scale = np.float32(engine.spec.vae.scale_factor)
        self.num_frames = orbits.num_frames

    def __len__(self):
        return len(self.orbits)

    def batch(self, rng, indices, drop, roam=0.0):
        """x0 (F, z, h, w) sampled and scaled, crossattn (F, 1, D), concat (F, z, h, w), vector (F, V); F = clips * T.

        With probability `drop` a clip loses its token and its latent together, as guidance needs. With probability
        `roam` its views start anywhere on the orbit and run either way; else they end on the condition view.
        """
        rows = [(self.parts[part], row) for part, row in map(self.orbits.locate, indices)]
        mean, log_variance, token, vector = (np.stack([part[name][row] for part, row in rows]) for name in self.FIELDS)
        noise, condition = rng.standard_normal(mean.shape, dtype=np.float32), mean[:, -1]
        order = np.stack([walk(rng, self.num_frames, rng.random() < roam) for _ in indices])
        clip = np.arange(len(indices))[:, None]
        mean, log_variance, vector = mean[clip, order], log_variance[clip, order], vector[clip, order]
        x0 = (mean + np.exp(0.5 * log_variance) * noise) * self.scale
        keep = (rng.random(len(indices)) >= drop).astype(np.float32)
        token = np.repeat(token * keep[:, None, None], self.num_frames, 0)
        latent = np.repeat(condition * keep[:, None, None, None], self.num_frames, 0)
        return x0.reshape(-1, *x0.shape[2:]), token, latent, vector.reshape(-1, vector.shape[-1])


def walk(rng, num_frames, roams):
    """The order of a clip's views. One that roams starts at any of them and runs either way round.

    On regular orbits the frame's number alone tells the azimuth, and a network then learns to read the number.
    """
    if not roams:
        return np.arange(num_frames)
    return (rng.integers(num_frames) + rng.choice((-1, 1)) * np.arange(num_frames)) % num_frames


def fingerprint(part, digest):
    """The name of a packed folder's cache; `digest` has seen the encoders' weights."""
    digest.update(str(part["clips"].shape).encode() + part["azimuths"].tobytes() + part["elevations"].tobytes())
    digest.update(part["clips"][:: max(1, len(part["clips"]) // 16)].tobytes())
    return digest.hexdigest()[:16]


def encode(part, engine, folder, progress):
    """Write the arrays of `LatentOrbits.FIELDS` for a packed folder's clips, and `done` when they are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, (count, num_frames, size) = engine.spec, part["clips"].shape[:3]
    side = size // spec.vae_factor
    shapes = {"mean": (num_frames, spec.vae.z_channels, side, side), "token": (1, spec.clip.embed_dim),
              "vector": (num_frames, sum(spec.vector_widths.values()))}
    shapes["log_variance"] = shapes["mean"]
    arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count,) + shape)
              for name, shape in shapes.items()}
    clip = engine.conditioner.embedder("cond_frames_without_noise")
    for index in progress(range(count), "encoding clips"):
        frames, orbit = frames_of(part, index), orbit_of(part, index)
        arrays["mean"][index], arrays["log_variance"][index] = engine.encode_moments(frames, num_frames)
        arrays["token"][index] = ops.fetch(clip.embed(frames[-1:]))[0]
        values = {"cond_aug": spec.condition.cond_aug, "polars_rad": orbit.polars_rad,
                  "azimuths_rad": orbit.azimuths_rad}
        arrays["vector"][index] = ops.fetch(engine.conditioner.vector(values, num_frames))
    for array in arrays.values():
        array.flush()
    (folder / "done").write_text(json.dumps({"clips": count}))


def shuffled(seed, count, step, batch):
    """The `batch` indices below `count` that step `step` (from 0) sees: an order anew each epoch, known from the step."""
    positions = np.arange(step * batch, (step + 1) * batch)
    orders = {epoch: np.random.RandomState((seed * 1000003 + epoch) % 2 ** 32).permutation(count)
              for epoch in set(positions // count)}
    return [int(orders[p // count][p % count]) for p in positions]
