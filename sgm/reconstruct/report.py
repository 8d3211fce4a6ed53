"""Figures and pictures of a mesh: as the views saw it, on a turntable, next to its inputs."""
from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import ConvexHull

from sgm.common.files import atomic
from sgm.geometry.mesh import Mesh, srgb_from_linear
from sgm.geometry.textured_mesh import TexturedMesh
from sgm.geometry.topology import describe, vertex_normals
from sgm.reconstruct import light
from sgm.reconstruct.dmtet import pixel_batches
from sgm.reconstruct.texture import visibility
from sgm.render.framing import normalized, viewing_distance
from sgm.render.zbuffer import Lighting, render_views
from sgm.views import metrics
from sgm.views.cameras import FOV_DEG, Orbit
from sgm.views.images import composite, save_png
from sgm.views.media import contact_sheet, write_gif, write_video

# the texture holds the light of the views
UNLIT = Lighting(ambient=1.0, key=0.0, fill=0.0, sky=0.0)
ELEVATION = 15.0
log = logging.getLogger("sgm")


def render_like(mesh: Mesh, views, lighting: Lighting = UNLIT) -> np.ndarray:
    """Render a mesh, in the box of `views`, from their cameras: (V, h, w, 4) uint8, straight alpha.

    views: `sgm.reconstruct.posed_views.PosedViews`.
    """
    size = max(views.h, views.w)
    focal = 0.5 * size / np.tan(np.radians(FOV_DEG) / 2)
    # The renderer knows square pictures of one focal length with the axis in their middle: shear
    # the world until ours are.
    shear = np.diag([views.fl_x / focal, views.fl_y / focal, 1, 1])
    shear[0, 2], shear[1, 2] = (size / 2 - views.cx) / focal, (views.cy - size / 2) / focal
    cameras = np.asarray(views.c2w, np.float64)
    if np.allclose(shear, shear[0, 0] * np.diag([1, 1, 0, 0]) + np.diag([0, 0, 1, 1])):
        fov = float(np.degrees(2 * np.arctan(0.5 * size / views.fl_x)))
        return render_views(mesh, cameras, size, fov, lighting=lighting)[:, :views.h, :views.w]
    return np.stack(
        [
            render_views(
                mesh.transformed(c2w @ shear @ np.linalg.inv(c2w)),
                c2w[None],
                size,
                FOV_DEG,
                lighting=lighting,
            )[0, : views.h, : views.w]
            for c2w in cameras
        ]
    )


def clay(mesh: TexturedMesh) -> Mesh:
    """Return the mesh without its texture, which shows the shape alone."""
    vertices, normals, _, faces = mesh.split()
    return Mesh(vertices, faces, normals, np.full((len(vertices), 3), 0.8, np.float32))


def pictures(views) -> np.ndarray:
    """Return the views as (V, h, w, 4) uint8, straight alpha."""
    rgb = np.stack(
        [visibility.unpremultiply(view, mask) for view, mask in zip(views.rgb, views.mask)]
    )
    return np.round(np.clip(np.concatenate([rgb, views.mask[..., None]], -1), 0, 1) * 255).astype(
        np.uint8
    )


def view_metrics(mesh: Mesh | TexturedMesh, views) -> dict[str, float]:
    """Return the metrics of a mesh's renders against the views, means over these.

    They are PSNR, foreground PSNR, SSIM and silhouette IoU (sgm.views.metrics); what a picture does
    not know is not compared.
    """
    renders = render_like(mesh if isinstance(mesh, Mesh) else mesh.drawable(), views)
    if views.known is not None:
        renders = np.where(views.known[..., None], renders, np.uint8(0))
    return metrics.mean_metrics([metrics.compare(a, b) for a, b in zip(renders, pictures(views))])


def facts(mesh: TexturedMesh) -> dict:
    """Return what report.json says of a mesh.

    That is `sgm.geometry.topology.describe`, texels per side and texture_coverage.
    """
    return describe(mesh.vertices, mesh.faces) | dict(texture=list(mesh.texture.shape[:2]),
                                                      texture_coverage=round(mesh.coverage, 4))


def turntable(mesh: TexturedMesh, frames: int = 60, size: int = 384) -> np.ndarray:
    """Render one turn on white, (frames, size, 2 size, 3) uint8: the mesh, and its shape alone."""
    orbit = Orbit.static(ELEVATION, frames)
    sides = [(mesh.drawable(), dict(lighting=UNLIT)), (clay(mesh), {})]
    sides = [(normalized(side), options) for side, options in sides]
    distance = viewing_distance(sides[0][0], orbit)
    turns = [
        render_views(side, orbit.poses(distance), size, FOV_DEG, **options)
        for side, options in sides
    ]
    return np.stack([np.hstack([composite(left), composite(right)]) for left, right in zip(*turns)])


def write_turntable(folder, frames: np.ndarray, fps: int = 20) -> list[Path]:
    """Write turntable.mp4 and turntable.gif to `folder`. Return the files.

    The first is left out, with a warning, where it cannot be encoded.
    """
    folder = Path(folder)
    partial = folder / ".turntable.mp4"
    files = []
    if write_video(partial, frames, fps):
        files.append(partial.replace(folder / "turntable.mp4"))
    half = np.stack([cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
                     for frame in frames[::2]])
    path = folder / "turntable.gif"
    with atomic(path) as temporary:
        write_gif(temporary, half, fps / 2)
    return [*files, path]


def write_contact_sheet(
    path, mesh: TexturedMesh, views, columns: int = 7, thumb: int = 192
) -> Path:
    """Write a picture of the inputs, below each the mesh from the same camera and its shape alone.
    """
    rows = [
        pictures(views),
        render_like(mesh.drawable(), views),
        render_like(clay(mesh), views, Lighting()),
    ]
    scale = thumb / max(views.h, views.w)
    small = (max(1, round(views.w * scale)), max(1, round(views.h * scale)))
    rows = [
        [cv2.resize(composite(view), small, interpolation=cv2.INTER_AREA) for view in row]
        for row in rows
    ]
    blank = np.full_like(rows[0][0], 255)
    cells = []
    for first in range(0, len(views), columns):
        for row in rows:
            part = row[first:first + columns]
            cells += part + [blank] * (columns - len(part))
    save_png(Path(path), contact_sheet(np.stack(cells), columns))
    return Path(path)


SIDE, SHOWN = 160, 3    # pixels of a picture's longer side, and how many stand side by side


def shown(count):
    """Return which of `count` views are shown, evenly spread, (SHOWN,) int."""
    return np.linspace(0, count, SHOWN, endpoint=False).astype(int)


def premultiplied_on_white(rgb, mask):
    """Return a premultiplied picture (..., 3) with its mask (...) on white, uint8."""
    return np.round((rgb + 1 - mask[..., None]) * 255).clip(0, 255).astype(np.uint8)


def stacked(*rows):
    """Return rows of equally large pictures as one, uint8 (rows * h, SHOWN * w, 3), from above."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def of_light(mesh, found, views):
    """Return views, and below each the mesh's albedo, its shading, and a ball in the same light.

    uint8 (4 h, SHOWN w, 3). mesh: a `TexturedMesh` with its albedo, in the box of `views`; found:
    its `light.Light`. The shading is divided by the light's brightest.
    """
    small = views.subset(shown(len(views))).resized(SIDE)
    sphere = light.fibonacci_sphere(1000)
    brightest = light.shading(found, sphere).max()

    def shaded(vertices, normals, faces):
        level = srgb_from_linear(light.shading(found, normals) / brightest)
        return Mesh(vertices, faces, normals, np.repeat(level[:, None], 3, 1))

    vertices, normals, _, faces = mesh.split()
    rows = [
        replace(mesh, texture=mesh.albedo).drawable(),
        shaded(vertices, normals, faces),
        shaded(0.45 * sphere, sphere, ConvexHull(sphere).simplices),
    ]
    return stacked(
        premultiplied_on_white(small.rgb, small.mask),
        *[map(composite, render_like(row, small)) for row in rows],
    )


def of_field(trainer, samples=24):
    """Return views, and below each the field of a NerfTrainer, uint8 (2 h, SHOWN w, 3)."""
    chosen = shown(len(trainer.views))
    small = trainer.views.subset(chosen).resized(SIDE)
    return stacked(
        premultiplied_on_white(small.rgb, small.mask),
        [trainer.render(k, SIDE, samples) for k in chosen],
    )


def of_surface(surface, field, views):
    """Return views, the surface in its field's colors, its shape alone, uint8 (3 h, SHOWN w, 3).

    surface: a `pixel_batches.Surface` in the box of `views`; field: a `field.Field`.
    """
    small = views.subset(shown(len(views))).resized(SIDE)
    colored = [
        premultiplied_on_white(*pixel_batches.picture(surface, field, small, k))
        for k in range(len(small))
    ]
    vertices = np.asarray(surface.vertices, np.float32)
    gray = Mesh(vertices, surface.faces, vertex_normals(vertices, surface.faces).astype(np.float32),
                np.full((len(vertices), 3), 0.8, np.float32))
    return stacked(
        premultiplied_on_white(small.rgb, small.mask),
        colored,
        map(composite, render_like(gray, small, Lighting())),
    )
