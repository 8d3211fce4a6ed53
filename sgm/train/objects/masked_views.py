"""Views of objects with their opacity and cameras, from the packed sets of `render_orbits.py`."""
import hashlib

import numpy as np

from sgm.autodecoder.noted import NAMES
from sgm.common.errors import InputError
from sgm.train.data.clips import DataError
from sgm.train.data.packed import PackedOrbits
from sgm.train.data.sources import expand, find
from sgm.train.objects.object_describing import names_of
from sgm.views.cameras import AZIMUTH_SIGN, DISTANCE, FOV_DEG, camera_to_world, focal_length, rays

PACK = "tools/render_orbits.py --pack"


class MaskedViews:
    """The objects of a recipe's data, in the order of its sets and their rows.

    places: paths and globs, the recipe's `key`; size: pixels of a side, None for the stored ones.
    `shared`: whether all objects are seen by the same cameras. Raises DataError: no packed set is
    found, or one has no opacity.
    """

    def __init__(self, places, size=None, key="data"):
        found = [item for place in expand(places, key)
                 for item in find(place, is_orbit=True)["train"]]
        other = [str(path) for kind, path in found if kind != "packed"]
        if other:
            raise DataError(f"{key}: {other[0]} is no packed set, expected those of {PACK}, whose"
                            " cameras are known")
        self.packed = PackedOrbits([path for _, path in found], size)
        self.size, self.num_frames = self.packed[0].size, self.packed.num_frames
        self.angles = np.stack([np.stack(clip.angles, 1) for clip in self.packed.items])
        self.shared = bool((self.angles == self.angles[0]).all())
        opaque = [clip.folder for clip in self.packed.items if clip.arrays["clips"].shape[-1] == 3]
        if opaque:
            raise DataError(f"{key}: {opaque[0]} has no opacity, expected views with alpha, which"
                            f" tell an object from what is behind it; render it again with {PACK}")

    def __len__(self):
        return len(self.packed)

    def names_hash(self):
        """Return a hash of the objects' names in their order; "" where a set has no names."""
        try:
            names = names_of(self.packed)
        except InputError:
            return ""
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

    def check_trained_on(self, model, ckpt):
        """Raise InputError unless the weights `ckpt` of an ObjectModel are of these objects."""
        if len(self) != model.spec.objects:
            raise InputError(f"{ckpt}: found weights of {model.spec.objects} objects, expected"
                             f" those of the {len(self)} of the data; train on the same sets")
        noted, found = model.notes.get(NAMES), self.names_hash()
        if noted and found and noted != found:
            raise InputError(f"{ckpt}: found weights of other objects, expected those of the data;"
                             " give the sets that were trained on, in their order")

    def pictures(self, index, views, size=None):
        """Return views of an object, (n, 4, S, S) float32 in [0, 1].

        Colors are premultiplied, opacity is last. size: pixels of a side, by default the usual
        ones; a divisor of the stored ones.
        """
        clip, size = self.packed[index], size or self.size
        rgba = np.float32(clip.arrays["clips"][clip.row][views]) / 255
        rgba[..., :3] *= rgba[..., 3:]
        block = rgba.shape[1] // size
        if block > 1:                       # the mean of blocks of pixels
            rgba = rgba.reshape(-1, size, block, size, block, 4).mean((2, 4))
        return rgba.transpose(0, 3, 1, 2)

    def poses(self, index, views=slice(None)):
        """Return the cameras of an object's views, camera to world: (n, 4, 4)."""
        azimuths, elevations = self.angles[index][views].T
        return camera_to_world(AZIMUTH_SIGN * azimuths, elevations, DISTANCE)

    def rays(self, index, views):
        """Return the rays of an object's views: origins and directions, (n, S, S, 3) each."""
        return rays(self.poses(index, views), self.size, self.size,
                    focal_length(self.size, FOV_DEG))

    def split(self, hold_out):
        """Return the numbers of the views that are trained on, and of those that are held out.

        hold_out: every so many-th view is held out, from the first on; 0: none.
        """
        views = np.arange(self.num_frames)
        held = views % hold_out == 0 if hold_out else np.zeros(len(views), bool)
        return views[~held], views[held]
