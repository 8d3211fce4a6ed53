"""Varied forms of an object to train on, so that no shape, color or front can be learned by heart.
"""
from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from sgm.geometry.mesh import Mesh, linear_from_srgb, srgb_from_linear
from sgm.render.primitives import rotated

STRETCH = 0.15          # largest share by which an axis is made longer or shorter
HUE_DEG = 30.0          # largest turn of the hue about the gray axis
BRIGHTNESS = (0.7, 1.3)     # range of the factor on linear light


@dataclass(frozen=True)
class Variation:
    """What is done to one form of an object.

    stretch: factors on the object's own axes; is_mirrored: left and right change places; yaw:
    degrees that it is then turned about the vertical; hue: degrees; gain: factor on linear light.
    """
    stretch: tuple[float, ...]
    is_mirrored: bool
    yaw: float
    hue: float
    gain: float

    def of_mesh(self, mesh: Mesh) -> Mesh:
        """Return the mesh stretched, mirrored and turned. Its front is +x, z is up."""
        side = -1.0 if self.is_mirrored else 1.0
        varied = mesh.transformed(np.diag([*self.stretch, 1.0]) @ np.diag([1.0, side, 1.0, 1.0]))
        if self.is_mirrored:
            varied = replace(varied, faces=varied.faces[:, ::-1])
        return rotated(varied, self.yaw)

    def of_colors(self, views: np.ndarray) -> np.ndarray:
        """Return views (..., 4) uint8 as if the object had other colors.

        Lights are white, so the hue may be turned, and the light scaled, in the pictures.
        """
        c, s = np.cos(np.radians(self.hue)), np.sin(np.radians(self.hue)) / np.sqrt(3)
        gray = (1 - c) / 3
        turn = np.array([[c + gray, gray - s, gray + s], [gray + s, c + gray, gray - s],
                         [gray - s, gray + s, c + gray]], np.float32)
        seen = views[..., 3] > 0
        light = LINEAR[views[seen][:, :3]] @ (np.float32(self.gain) * turn.T)
        varied = views.copy()
        varied[seen, :3] = CODED[np.round(np.clip(light, 0, 1) * (len(CODED) - 1)).astype(np.int32)]
        return varied


# linear light of the levels 0 to 255, and levels of linear light in fine steps
LINEAR = linear_from_srgb(np.arange(256) / 255)
CODED = np.round(255 * srgb_from_linear(np.linspace(0, 1, 1 << 16))).astype(np.uint8)


def variation_of(name: str, seed: int) -> Variation:
    """Return the variation of an object's form, drawn from its name and the seed alone."""
    rng = np.random.RandomState(zlib.crc32(f"{seed}/{name}/variation".encode("utf-8",
                                                                             "surrogateescape")))
    return Variation(tuple(rng.uniform(1 - STRETCH, 1 + STRETCH, 3)), bool(rng.rand() < 0.5),
                     rng.uniform(0, 360), rng.uniform(-HUE_DEG, HUE_DEG), rng.uniform(*BRIGHTNESS))
