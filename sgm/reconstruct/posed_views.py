"""Views with known cameras, read for reconstruction.

Any transforms.json is read, of any scale, with alpha or without. The convention is that of
sgm/views/cameras.py: OpenGL camera-to-world, z up, pixel centers at +0.5.
"""
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from sgm.common.errors import InputError
from sgm.common.files import check_file
from sgm.common.progress import each
from sgm.views.images import ImageError, load_image, read_image
from sgm.views.matting import alpha_from_white, matte
from sgm.views.transforms import read_transforms

HALF = 0.55                 # the object lies in |x|, |y|, |z| <= HALF; the grids end there
MIN_VIEWS = 3
EMPTY, FULL = 0.0005, 0.98  # a mask that covers less, or more, of its image shows no object
log = logging.getLogger("sgm")


class ShapeError(InputError):
    """Views that cannot be reconstructed; one line names the file or flag and the remedy."""


@dataclass(frozen=True, eq=False)
class PosedViews:
    """V pictures of one object, equally large, with cameras in the normalized box |x| <= HALF.

    rgb (V, H, W, 3) float32 in [0, 1]: levels as stored (sRGB-coded), PREMULTIPLIED by alpha, so
    that a view on the background b is rgb + (1 - mask) b. mask (V, H, W) float32 in [0, 1]: alpha.
    c2w (V, 4, 4) float64 OpenGL camera-to-world. fl_x, fl_y, cx, cy: pixels, of all views. h, w:
    pixels.
    scale, center: box = (world - center) * scale, where world is that of the file.
    files: V paths.
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
        )

    def subset(self, indices):
        """Return the views of these indices."""
        return replace(self, rgb=self.rgb[indices], mask=self.mask[indices], c2w=self.c2w[indices],
                       files=tuple(self.files[k] for k in indices) if self.files else ())

    def rays(self, view, rows, columns):
        """Return rays through pixel centers: origins, unit directions (N, 3) float32.

        view, rows, columns: (N,) int.
        """
        local = np.stack([(columns + 0.5 - self.cx) / self.fl_x, (self.cy - rows - 0.5) / self.fl_y,
                          -np.ones(len(rows))], axis=-1)
        directions = np.einsum("nij,nj->ni", self.c2w[view, :3, :3], local)
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        return self.c2w[view, :3, 3].astype(np.float32), directions.astype(np.float32)


def read_views(path, side=576, most=120, method="auto", progress=False):
    """Read a views folder or a transforms.json (ours, nerfstudio's, Blender's) as it is.

    Return PosedViews, not yet normalized (see `scene_box.framed`). side: the longer side of the
    pictures is reduced to this many pixels. most: if there are more views, this many are used,
    evenly spread. method: how an object is cut out of a picture without alpha, see
    `sgm.views.matting.matte`. Raises CameraError, ImageError, ShapeError.
    """
    path = Path(path)
    check_file(path, ShapeError)
    if not path.exists():
        raise ShapeError(
            f"{path}: no such file or folder; give a folder of views with its transforms.json"
        )
    if path.is_dir() and not (path / "transforms.json").is_file():
        raise ShapeError(
            f"{path}: found no transforms.json in it, expected the cameras of its views; sample"
            " with sv3d_u or"
            " sv3d_p, render with tools/render_orbits.py, or export from nerfstudio or Blender"
        )
    # Cameras, and which of them are used.
    posed = read_transforms(path)
    if len(posed.files) < MIN_VIEWS:
        raise ShapeError(
            f"{path}: found {len(posed.files)} views, expected at least {MIN_VIEWS} (20 and more"
            " are good);"
            " add views around the object"
        )
    chosen = np.unique(
        np.linspace(0, len(posed.files) - 1, min(most, len(posed.files))).round().astype(int)
    )
    if len(chosen) < len(posed.files):
        log.warning(
            "%s: %d of its %d views are used, evenly spread", path, len(chosen), len(posed.files)
        )
    # Pictures: cut out, of one shape and size, each with an object.
    aspect = posed.width / posed.height
    scale = min(1.0, side / max(posed.width, posed.height))
    size = max(1, round(posed.width * scale)), max(1, round(posed.height * scale))
    pictures, how = [], {}
    for k in each(chosen, "views", "view", quiet=not progress):
        file = posed.files[k]
        picture, said = _picture(file, posed.masks[k], method)
        how[said] = how.get(said, 0) + 1
        height, width = picture.shape[:2]
        if abs(width - height * aspect) > max(1.5, 0.01 * width):
            raise ShapeError(
                f"{file}: found {width} x {height} pixels, expected the shape of w {posed.width}, h"
                f" {posed.height} in {path}; use the pictures that belong to these cameras"
            )
        if (width, height) != size:
            shrinks = width > size[0]
            picture = cv2.resize(
                picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        covered = float((picture[..., 3] > 0.5).mean())
        if not EMPTY < covered < FULL:
            raise ShapeError(
                f"{file}: the object's mask ({said}) covers {covered:.1%} of the picture, expected"
                " a part of it;"
                " give pictures with alpha, or on a plain background, or take the view out of"
                " transforms.json"
            )
        pictures.append(picture)
    if len(how) > 1 or not any(said.startswith("alpha") for said in how):
        log.info("cut out: %s", ", ".join(f"{count} by {said}" for said, count in how.items()))
    pictures = np.stack(pictures)
    sx, sy = size[0] / posed.width, size[1] / posed.height
    return PosedViews(
        np.ascontiguousarray(pictures[..., :3]),
        np.ascontiguousarray(pictures[..., 3]),
        posed.poses[chosen],
        posed.fl * sx,
        posed.fl * sy,
        posed.cx * sx,
        posed.cy * sy,
        files=tuple(posed.files[k] for k in chosen),
    )


def _picture(file, mask, method):
    """Return premultiplied RGBA (H, W, 4) float32 in [0, 1], and how it was cut out."""
    image = load_image(file)
    try:
        if mask is not None:
            alpha = read_image(mask, lambda opened: opened.convert("L"))
            if alpha.size != image.size:
                raise ShapeError(
                    f"{mask}: found {alpha.width} x {alpha.height} pixels, expected the"
                    f" {image.width} x"
                    f" {image.height} of {file}; give the mask that belongs to it"
                )
            image.putalpha(alpha)
            how, rgba = "alpha of its mask_path", np.asarray(image)
        elif image.getchannel("A").getextrema()[0] < 128:
            how, rgba = "alpha of its own", np.asarray(image)
        elif method == "auto" and _has_white_border(np.asarray(image)):
            how, rgba = "white background", alpha_from_white(np.asarray(image.convert("RGB")))
        else:
            full = image.size
            image, how = matte(image, method)
            rgba = np.asarray(image)
            if image.size != full:      # matte works on reduced pictures
                rgba = cv2.resize(rgba, full, interpolation=cv2.INTER_LINEAR)
    except ImageError as error:
        raise ShapeError(f"{file}: {error}") from None
    rgba = rgba.astype(np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    return rgba, how


def _has_white_border(rgba):
    """Return whether the border of a picture is white."""
    ring = np.concatenate(
        [
            rgba[:2].reshape(-1, 4),
            rgba[-2:].reshape(-1, 4),
            rgba[:, :2].reshape(-1, 4),
            rgba[:, -2:].reshape(-1, 4),
        ]
    )
    return (ring[:, :3].min(axis=-1) >= 250).mean() > 0.95
