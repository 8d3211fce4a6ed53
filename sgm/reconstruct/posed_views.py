"""Views with known cameras, for reconstruction.

The convention is that of sgm/views/cameras.py: OpenGL camera-to-world, z up, pixel centers at +0.5.
"""
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from sgm.common.errors import InputError

HALF = 0.55                 # the object lies in |x|, |y|, |z| <= HALF; the grids end there
MIN_VIEWS = 3
TOUCHED = 0.01              # share of a picture's side from which an object reaches past it


class ShapeError(InputError):
    """Views that cannot be reconstructed; one line names the file or flag and the remedy."""


@dataclass(frozen=True, eq=False)
class PosedViews:
    """V pictures of one object, equally large, with cameras in the normalized box |x| <= HALF.

    rgb (V, H, W, 3) float32 in [0, 1]: levels as stored (sRGB-coded), PREMULTIPLIED by alpha, so
    that a view on the background b is rgb + (1 - mask) b. mask (V, H, W) float32 in [0, 1]: alpha.
    c2w (V, 4, 4) float64 OpenGL camera-to-world. fl_x, fl_y, cx, cy: pixels, of all views. h, w:
    pixels.
    scale, center: box = (world - center) * scale. files: V paths.
    known (V, H, W) bool: where a picture tells something: not where a mask says to ignore it, nor
    outside of what its lens showed. There is neither object nor background there: nothing is carved
    and nothing compared. rgb and mask are 0 there. None: everything is known.
    upright (3, 3): the rotation from the world of the file to this one, whose z is up; applied
    (4, 4): what the file says was done to its world before, see `CameraFile`.
    """
    rgb: np.ndarray
    mask: np.ndarray
    c2w: np.ndarray
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    scale: float = 1.0
    center: np.ndarray = field(default_factory=lambda: np.zeros(3))
    files: tuple = ()
    known: np.ndarray | None = None
    upright: np.ndarray = field(default_factory=lambda: np.eye(3))
    applied: np.ndarray = field(default_factory=lambda: np.eye(4))

    def __len__(self):
        return len(self.rgb)

    @property
    def h(self):
        """Return the height in pixels."""
        return self.rgb.shape[1]

    @property
    def w(self):
        """Return the width in pixels."""
        return self.rgb.shape[2]

    @property
    def intrinsics(self):
        """Return (4,) float64: fl_x, fl_y, cx, cy."""
        return np.array([self.fl_x, self.fl_y, self.cx, self.cy])

    def cut_off(self):
        """Return at which sides of its picture each object is cut off, (V, 4) bool.

        The sides are left, right, top, bottom. What lies past such a side is unknown; past one that
        the object does not touch there is background.
        """
        solid = self.mask > 0.5
        sides = solid[:, :, 0], solid[:, :, -1], solid[:, 0], solid[:, -1]
        return np.stack([side.mean(axis=1) > TOUCHED for side in sides], axis=1)

    def moved(self, scale, center):
        """Return the same views with box' = (box - center) * scale."""
        c2w = self.c2w.copy()
        c2w[:, :3, 3] = (c2w[:, :3, 3] - center) * scale
        return replace(
            self,
            c2w=c2w,
            scale=self.scale * scale,
            center=self.center + np.asarray(center) / self.scale,
        )

    def resized(self, side):
        """Return the views, reduced by area so that the longer side has at most `side` pixels."""
        factor = side / max(self.w, self.h)
        if factor >= 1:
            return self
        w, h = max(1, round(self.w * factor)), max(1, round(self.h * factor))
        both = np.concatenate([self.rgb, self.mask[..., None]], axis=-1)
        both = np.stack([cv2.resize(view, (w, h), interpolation=cv2.INTER_AREA) for view in both])
        sx, sy = w / self.w, h / self.h
        return replace(
            self,
            rgb=np.ascontiguousarray(both[..., :3]),
            mask=np.ascontiguousarray(both[..., 3]),
            fl_x=self.fl_x * sx,
            fl_y=self.fl_y * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
            known=None,
        ).ignoring(None if self.known is None else [reduced(known, (w, h)) for known in self.known])

    def ignoring(self, known):
        """Return the views, of which only what `known` (V, H, W) bool says is known; None: all."""
        if known is None:
            return replace(self, known=None)
        known = np.stack(known)
        return replace(self, known=known, rgb=np.where(known[..., None], self.rgb, np.float32(0)),
                       mask=np.where(known, self.mask, np.float32(0)))

    def known_of(self, k):
        """Return where view k is known, (H, W) bool, or None: everywhere."""
        return None if self.known is None else self.known[k]

    def turned(self, upright):
        """Return the views in a world turned by the rotation `upright` (3, 3)."""
        c2w = self.c2w.copy()
        c2w[:, :3] = upright @ c2w[:, :3]
        return replace(self, c2w=c2w, upright=upright @ self.upright)

    def subset(self, indices):
        """Return the views of these indices."""
        return replace(self, rgb=self.rgb[indices], mask=self.mask[indices], c2w=self.c2w[indices],
                       files=tuple(self.files[k] for k in indices) if self.files else (),
                       known=None if self.known is None else self.known[indices])

    def rays(self, view, rows, columns):
        """Return rays through pixel centers: origins, unit directions (N, 3) float32.

        view, rows, columns: (N,) int.
        """
        local = np.stack([(columns + 0.5 - self.cx) / self.fl_x, (self.cy - rows - 0.5) / self.fl_y,
                          -np.ones(len(rows))], axis=-1)
        directions = np.einsum("nij,nj->ni", self.c2w[view, :3, :3], local)
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        return self.c2w[view, :3, 3].astype(np.float32), directions.astype(np.float32)


def reduced(known, size):
    """Return (H, W) bool at another size (w, h): a pixel is known if all of its area is."""
    return cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
