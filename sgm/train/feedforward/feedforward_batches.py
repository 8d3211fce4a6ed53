"""The arrays of every step of a feed-forward network's training: one view in, others to render."""
import numpy as np

from sgm.autodecoder.perceptual import LEAST_SIDE
from sgm.config.yaml_reader import ConfigError
from sgm.feedforward.preparation import upright_image, upright_intrinsics
from sgm.feedforward.rays import (
    SV3D_INTRINSICS,
    camera_vectors,
    pixel_rays,
    through_box,
    upright_poses,
)
from sgm.train.data import DataError, shuffled
from sgm.train.feedforward import lpips
from sgm.views.cameras import AZIMUTH_SIGN

BACKGROUNDS = (0.0, 0.5, 1.0)       # of what is rendered; the input is on white
NEAR = 0.75                         # share of the squares that are near the object
SHARES = (0.75, 0.9)    # of the side of a recentered input that its object takes up


def input_view(clips, spec, rng, index, view, recentered=0.0):
    """Return the input (3, S, S) of a network of an LrmSpec and its (fx, fy, cx, cy).

    It is a view of an object, on white. clips: the MaskedViews of objects; recentered: with which
    probability it is placed and scaled as a photograph's object is.
    """
    if rng.random() < recentered:
        clip = clips.packed[index]
        rgba, share = clip.arrays["clips"][clip.row][view], rng.uniform(*SHARES)
        return (upright_image(rgba, spec.image_size, share),
                upright_intrinsics(rgba, share, SV3D_INTRINSICS))
    picture, = clips.pictures(index, [view], spec.image_size)
    return picture[:3] + 1 - picture[3:], SV3D_INTRINSICS


def check_size(clips, **sizes):
    """Raise DataError unless all sizes, {key: pixels}, divide the views' side."""
    for key, size in sizes.items():
        if clips.size % size:
            raise DataError(f"{key}: found {size}, expected a divisor of {clips.size}, the pixels"
                            " of a side of the data's views")


class ViewsOfInputs:
    """Batches of objects: an input view, and squares of other views with their rays.

    spec: an LrmSpec of an upright network; clips: the MaskedViews of the objects; inputs, targets:
    the numbers of the views that they are drawn from; together: batches that make one step. The
    world of each object is turned so that its input is at azimuth 0. still: to measure; inputs are
    the last of their numbers, as they were rendered, cameras are exact, and samples lie in the
    middles of their stretches. Raises ConfigError, DataError for sizes that do not fit the data.
    """

    def __init__(self, recipe, spec, clips, inputs, targets, together=1, still=False):
        self.recipe, self.spec, self.clips, self.together = recipe, spec, clips, together
        self.inputs, self.targets, self.still = inputs, targets, still
        self.recentered = 0.0 if still else recipe.recentered
        self.stages = recipe.stages or [clips.size]
        self.side = recipe.crop or min(self.stages)
        unit = lpips.LEAST_SIDE if recipe.lpips else LEAST_SIDE["gradients"]
        if self.side > min(self.stages) or self.side % unit:
            raise ConfigError(f"crop: found {self.side}, expected a multiple of {unit} up to"
                              f" {min(self.stages)}, the smallest of stages; or 0 for whole views")
        check_size(clips, image_size=spec.image_size)
        for size in self.stages:
            check_size(clips, stages=size)
        if not still and recipe.views > len(targets):
            raise ConfigError(f"views: found {recipe.views}, expected at most {len(targets)}, the"
                              " views of an object that are trained on")

    def clip_indices(self, number):
        """Return the objects of batch `number` (from 0)."""
        return shuffled(self.recipe.seed, len(self.clips), number, self.recipe.batch)

    def stage(self, number):
        """Return the pixels of a side of the views that batch `number` is of, and its progress.

        The progress is the share of the steps, 0 to 1, that are done before it.
        """
        if self.still:
            return self.stages[-1], 1.0
        progress = min(number / (self.recipe.steps * self.together), 1.0)
        return self.stages[min(int(progress * len(self.stages)), len(self.stages) - 1)], progress

    def __call__(self, number):
        """Return the arrays that `sgm.feedforward.training_loss.ReconstructionLoss` takes."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, number])
        size, progress = self.stage(number)
        images, cameras, found, targets = [], [], [], []
        for index in self.clip_indices(number):
            source = self.inputs[-1] if self.still else rng.choice(self.inputs)
            views = np.resize(rng.permutation(self.targets), recipe.views)
            image, intrinsics = input_view(self.clips, self.spec, rng, index, source,
                                           self.recentered)
            images.append(image)
            cameras.append(self.camera(rng, index, source, intrinsics))
            pictures = self.clips.pictures(index, views, size)
            for picture, pose in zip(pictures, self.poses(index, source, views)):
                y, x = self.place(rng, picture[3])
                part = slice(y, y + self.side), slice(x, x + self.side)
                rays = pixel_rays(pose[None], SV3D_INTRINSICS, size, size)
                found.append([r.reshape(size, size, 3)[part].reshape(-1, 3) for r in rays])
                targets.append(picture[:, part[0], part[1]])
        rays = through_box(*map(np.concatenate, zip(*found)), self.spec.family, 1.0)[:4]
        background = np.full(len(targets), 1.0) if self.still else rng.choice(BACKGROUNDS,
                                                                              len(targets))
        arrays = (np.stack(images), np.concatenate(cameras), np.stack(targets),
                  background.reshape(-1, 1, 1, 1), progress >= recipe.perceptual_from, *rays,
                  *self.samples(rng, len(rays[0])))
        return tuple(np.array(array, np.float32) for array in arrays)

    def camera(self, rng, index, view, intrinsics=SV3D_INTRINSICS):
        """Return what the network is told of its input's camera, (1, 16)."""
        pose = upright_poses([0], [self.clips.angles[index][view][1]])
        noise = rng.uniform(-1, 1, (1, 16)) * self.recipe.camera_noise
        return camera_vectors(pose, intrinsics) + noise * (not self.still)

    def poses(self, index, source, views):
        """Return the cameras (n, 4, 4) of views, the input `source` at azimuth 0."""
        azimuths, elevations = self.clips.angles[index][views].T
        azimuths = AZIMUTH_SIGN * (azimuths - self.clips.angles[index][source][0])
        return upright_poses(azimuths, elevations)

    def place(self, rng, opacity):
        """Return the corner (row, column) of a square of a view.

        Most have their middle near the object; the others see that there is nothing elsewhere.
        """
        around = opacity if rng.random() < NEAR else np.zeros_like(opacity)
        rows, columns = (np.flatnonzero(around.any(axis)) for axis in (1, 0))
        corner = []
        for hit in (rows, columns):
            low, high = (hit[0], hit[-1] + 1) if len(hit) else (0, len(opacity))
            start = round(rng.uniform(low, high) - self.side / 2)
            corner.append(min(max(start, 0), len(opacity) - self.side))
        return corner

    def samples(self, rng, rays):
        """Return where samples lie in their stretches, and in the cumulative distribution.

        Both are (rays, samples of a pass) in [0, 1].
        """
        each = self.recipe.samples // 2
        if self.still:
            return (np.full((rays, each), 0.5, np.float32),
                    np.tile(np.linspace(0, 1, each, dtype=np.float32), (rays, 1)))
        uniform = (np.arange(each) + rng.random((rays, each), np.float32)) / each
        return rng.random((rays, each), np.float32), uniform
