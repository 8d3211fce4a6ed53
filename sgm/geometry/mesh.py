"""Triangle meshes with colors: what the renderer draws and the loader reads."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from sgm.common.errors import InputError

MAX_MEETING = 4096      # faces at one point whose normals are compared


class MeshError(InputError):
    """A mesh that cannot be used.

    The one-line message names the file or array, what was found and what to do.
    """


@dataclass(frozen=True)
class Material:
    """Base color of a surface: factor times texture times vertex color, without metal or gloss.

    color: RGBA in [0, 1], sRGB-coded. texture: (h, w, 4) uint8 RGBA, sRGB-coded, or None.
    alpha_cutoff: texture samples of less alpha are holes (glTF alphaMode MASK); 0 = opaque.
    """
    color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: np.ndarray | None = None
    alpha_cutoff: float = 0.0


@dataclass
class Mesh:
    """V vertices and F triangles; a sharp edge or a change of color is two vertices at one place.

    vertices (V, 3); faces (F, 3) int; normals (V, 3) unit, or None: derived, with edges over 40
    degrees kept sharp (which may split vertices); colors (V, 3) in [0, 1] sRGB-coded or None
    (white); uv (V, 2) with v up, or None; face_material (F,) index into `materials`, or None (all
    0). Raises MeshError on impossible arrays.
    """
    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    face_material: np.ndarray | None = None
    materials: tuple[Material, ...] = field(default_factory=lambda: (Material(),))

    def __post_init__(self):
        self.vertices = np.ascontiguousarray(self.vertices, np.float32)
        self.faces = np.ascontiguousarray(self.faces, np.int32)
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3 or not len(self.vertices):
            raise MeshError(
                f"mesh vertices have shape {self.vertices.shape}, expected (V, 3) with V > 0"
            )
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or not len(self.faces):
            raise MeshError(
                f"mesh faces have shape {self.faces.shape}, expected (F, 3) with F > 0: "
                "a point cloud cannot be rendered"
            )
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise MeshError(
                f"mesh faces name vertex {self.faces.max()}, but there are {len(self.vertices)}"
                " vertices"
            )
        if not np.isfinite(self.vertices).all():
            raise MeshError("mesh vertices hold NaN or infinity: repair the file")
        if self.face_material is None:
            self.face_material = np.zeros(len(self.faces), np.int32)
        if self.normals is None:
            self._derive_normals()

    def _derive_normals(self):
        corners = crease_normals(self.vertices, self.faces).reshape(-1, 3)
        # Corners of one vertex whose normals agree stay one vertex; the others become vertices of
        # their own.
        keys = np.concatenate([self.faces.reshape(-1, 1).astype(np.int64),
                               np.round(corners * 512).astype(np.int64)], 1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        source = self.faces.reshape(-1)[first]
        self.vertices, self.normals = (
            self.vertices[source],
            np.ascontiguousarray(corners[first], np.float32),
        )
        self.colors = None if self.colors is None else self.colors[source]
        self.uv = None if self.uv is None else self.uv[source]
        self.faces = inverse.reshape(-1, 3).astype(np.int32)

    def transformed(self, matrix: np.ndarray) -> Mesh:
        """Return the mesh under a (4, 4) affine matrix; normals follow its inverse transpose."""
        linear = np.asarray(matrix, np.float64)[:3, :3]
        normals = self.normals @ np.linalg.inv(linear)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return Mesh(
            self.vertices @ linear.T + np.asarray(matrix)[:3, 3],
            self.faces,
            normals.astype(np.float32),
            self.colors,
            self.uv,
            self.face_material,
            self.materials,
        )


def merge(meshes: list[Mesh]) -> Mesh:
    """Return one mesh of several; missing colors become white, missing texture coordinates 0."""
    if not meshes:
        raise MeshError("no mesh to merge")
    first = np.cumsum([0] + [len(m.vertices) for m in meshes])
    first_material = np.cumsum([0] + [len(m.materials) for m in meshes])
    colors = (
        None
        if all(m.colors is None for m in meshes)
        else np.concatenate(
            [
                np.ones((len(m.vertices), 3), np.float32) if m.colors is None else m.colors
                for m in meshes
            ]
        )
    )
    uv = None if all(m.uv is None for m in meshes) else np.concatenate(
        [np.zeros((len(m.vertices), 2), np.float32) if m.uv is None else m.uv for m in meshes])
    return Mesh(np.concatenate([m.vertices for m in meshes]),
                np.concatenate([m.faces + k for m, k in zip(meshes, first)]),
                np.concatenate([m.normals for m in meshes]), colors, uv,
                np.concatenate([m.face_material + k for m, k in zip(meshes, first_material)]),
                tuple(material for m in meshes for material in m.materials))


def crease_normals(vertices: np.ndarray, faces: np.ndarray, crease_deg: float = 40.0) -> np.ndarray:
    """Return unit normals of every corner, (F, 3, 3) float32.

    They are area-weighted over the faces at the same PLACE that lie within `crease_deg` of the
    corner's own face. Vertices at one place count as one, so seams do not show. Where more than
    MAX_MEETING faces meet, as in the middle of a polygon of thousands of corners, each keeps its
    own normal: the comparison of all with all would take minutes.
    """
    p = np.asarray(vertices, np.float64)
    _, place = np.unique(
        np.round(p / max(np.ptp(p, axis=0).max(), 1e-30) * 1e6), axis=0, return_inverse=True
    )
    place = place.reshape(-1)[faces].astype(np.int64)
    p = p[faces]
    area_normals = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    order = np.argsort(place.reshape(-1), kind="stable")
    start = np.searchsorted(place.reshape(-1)[order], np.arange(place.max() + 2))
    return _corner_normals(area_normals, place, order, start, np.cos(np.radians(crease_deg)))


@njit(cache=True)
def _corner_normals(area_normals, place, order, start, cosine):
    out = np.zeros((len(place), 3, 3), np.float32)
    lengths = np.sqrt((area_normals ** 2).sum(1))
    for f in range(len(place)):
        for k in range(3):
            x, y, z = 0.0, 0.0, 0.0
            first, last = start[place[f, k]], start[place[f, k] + 1]
            if last - first > MAX_MEETING:
                x, y, z = area_normals[f, 0], area_normals[f, 1], area_normals[f, 2]
                last = first
            for q in range(first, last):
                g = order[q] // 3
                dot = (area_normals[f] * area_normals[g]).sum()
                if g == f or dot >= cosine * lengths[f] * lengths[g]:
                    x, y, z = x + area_normals[g, 0], y + area_normals[g, 1], z + area_normals[g, 2]
            norm = np.sqrt(x * x + y * y + z * z)
            if norm > 0.0:
                out[f, k, 0], out[f, k, 1], out[f, k, 2] = x / norm, y / norm, z / norm
            else:
                out[f, k, 2] = 1.0
    return out


def linear_from_srgb(coded: np.ndarray) -> np.ndarray:
    """Return linear light in [0, 1], float32, of sRGB-coded values in [0, 1] (IEC 61966-2-1)."""
    coded = np.asarray(coded, np.float32)
    return np.where(
        coded <= 0.04045, coded / 12.92, ((np.maximum(coded, 0) + 0.055) / 1.055) ** 2.4
    ).astype(np.float32)


def srgb_from_linear(linear: np.ndarray) -> np.ndarray:
    """Return sRGB-coded values in [0, 1], float32, of linear light in [0, 1] (IEC 61966-2-1)."""
    linear = np.clip(np.asarray(linear, np.float32), 0, 1)
    return np.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
    ).astype(np.float32)
