"""From planes to a mesh that stands upright in our world, and to views of it.

A network's own frame is that of the camera it assumes (`rays.CANONICAL`), which is level. Its
result is turned back by the elevation of its input, so that up is up whatever the network.
"""
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from sgm.config.reconstruction import CleanSpec
from sgm.feedforward import rays
from sgm.geometry.cleaning import clean
from sgm.geometry.textured_mesh import ColoredMesh, TexturedMesh
from sgm.reconstruct.texture.atlas import unwrap
from sgm.reconstruct.texture.baking import spread, texels
from sgm.views.cameras import DISTANCE, Orbit, camera_to_world
from sgm.views.folder import Views
from sgm.views.images import as_levels, composite

PADDING = 2             # texels around a chart
FACES = 20_000          # of a mesh, unless another number is asked for
COARSE = 64             # points along a side of the grid that finds how large the object is


class Placement(NamedTuple):
    """Where a field is in our world: world = (turn field - center) scale."""
    turn: np.ndarray                # (3, 3), a rotation
    center: np.ndarray              # (3,), of the turned field
    scale: float

    def world(self, points):
        """Return points (N, 3) of the field in the world."""
        return (points @ self.turn.T - self.center) * self.scale

    def poses(self, poses):
        """Return cameras (V, 4, 4) of the world in the field: their distances are its own, too."""
        found = np.array(poses, np.float64)
        found[:, :3, :3] = self.turn.T @ found[:, :3, :3]
        found[:, :3, 3] = (found[:, :3, 3] / self.scale + self.center) @ self.turn
        return found


def turn_upright(spec, elevation):
    """Return the rotation (3, 3) from a network's frame to ours, whose input is at azimuth 0.

    elevation: of the input's camera, degrees.
    """
    if spec.upright:
        return np.eye(3)
    # TripoSR is told no camera; its program begins its turn where VFusion3D's input is
    assumed = np.float64(rays.CANONICAL.get(spec.family, rays.CANONICAL["vfusion3d"]))[:, :3]
    return camera_to_world([0], [elevation], DISTANCE)[0, :3, :3] @ assumed.T


def placed(vertices, turn, sphere=False):
    """Return the Placement that centers vertices (N, 3) of the field's surface, turned.

    Their longest side is 1, or with `sphere` the farthest of them 0.5 away from the middle.
    """
    turned = vertices @ turn.T
    low, high = turned.min(0), turned.max(0)
    center = (low + high) / 2
    size = 2 * np.linalg.norm(turned - center, axis=1).max() if sphere else (high - low).max()
    return Placement(turn, center.astype(np.float64), 1 / float(size))


class Scene:
    """What a network made of one picture: planes, and from which elevation it was seen.

    model: a `Reconstructor`; image (1, 3, S, S): its input; planes (1, 3, C, R, R); elevation:
    degrees.
    """

    def __init__(self, model, image, planes, elevation):
        self.model, self.planes, self.elevation = model, planes, float(elevation)
        opaque = np.ones_like(image[0, :1])
        self.source = as_levels(np.concatenate([image[0], opaque]).transpose(1, 2, 0))
        self.turn = turn_upright(model.spec, self.elevation)

    def mesh(self, resolution=None, faces=FACES, texture=0, stage=nullcontext, on_slab=None):
        """Return a mesh, upright in our world, its longest side 1.

        It is a ColoredMesh, or with `texture`, texels of a side, a TexturedMesh. resolution,
        on_slab: see `Reconstructor.grid`; faces: the most it has, if that can be reached;
        stage(name) is a context manager around each step. Raises InputError if there is no surface,
        or its charts do not fit into the texture.
        """
        with stage("grid"):
            vertices, triangles = self.model.surface(self.planes, resolution, on_slab)
        with stage("clean"):
            vertices, triangles = clean(vertices, triangles, CleanSpec(faces=faces))
        place = placed(vertices, self.turn)
        with stage("color"):
            if texture:
                return self._textured(vertices, triangles, place, texture)
            colors = self.colors(vertices)
            return ColoredMesh(np.float32(place.world(vertices)), triangles, colors)

    def _textured(self, vertices, triangles, place, texture):
        """Return the TexturedMesh of a cleaned surface in the field."""
        uv, face_uv = unwrap(vertices, triangles, texture, PADDING)
        face, weights = texels(uv, face_uv, texture)
        row, column = np.nonzero(face >= 0)
        w = np.concatenate([1 - weights.sum(2, keepdims=True), weights], 2)[row, column, :, None]
        image = np.zeros((texture, texture, 3), np.uint8)
        image[row, column] = self.colors((vertices[triangles[face[row, column]]] * w).sum(1))
        return TexturedMesh(np.float32(place.world(vertices)), triangles, uv, face_uv,
                            spread(image, face >= 0))

    def colors(self, points):
        """Return the colors (N, 3) uint8 of points (N, 3) of the field."""
        return as_levels(self.model.field(self.planes, np.float32(points)[None])[1][0])

    def views(self, orbit=None, size=256, on_chunk=None):
        """Return `sgm.views.folder.Views` of the object, in SV3D's cameras on an orbit.

        orbit: an `Orbit`, by default 21 views at the elevation of the picture; its last view, at
        azimuth 0, is rendered like the others. size: pixels of a side. An upright network shows the
        object as large as it takes it to be, the others one of radius 0.5. on_chunk: see
        `Reconstructor.render`. Raises InputError if there is no surface.
        """
        orbit = orbit or Orbit.static(self.elevation)
        if self.model.spec.upright:
            place = Placement(self.turn, np.zeros(3), 1 / rays.UPRIGHT_SCALE)
        else:
            place = placed(self.model.surface(self.planes, COARSE)[0], self.turn, sphere=True)
        images, opacity, _ = self.model.render(self.planes, place.poses(orbit.poses()),
                                               rays.SV3D_INTRINSICS, (size, size),
                                               on_chunk=on_chunk)
        cut = with_opacity(images, opacity)
        run = {"model": self.model.spec.name, "elevation": self.elevation}
        return Views(np.stack([composite(view) for view in cut]), self.source, orbit, run, cut=cut)


def with_opacity(images, opacity):
    """Return views (V, H, W, 4) uint8, straight alpha, of images (V, H, W, 3) on white.

    opacity (V, H, W); both as `Reconstructor.render` gives them.
    """
    opacity = opacity[..., None]
    color = (images - (1 - opacity)) / np.maximum(opacity, 1e-3)
    return as_levels(np.concatenate([color, opacity], -1))
