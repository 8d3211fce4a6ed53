"""Meshes with a texture or colors: what files hold and the turntable shows (numpy only)."""
from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sgm.geometry.mesh import Material, Mesh
from sgm.geometry.topology import vertex_normals


@dataclass(frozen=True, eq=False)
class TexturedMesh:
    """Triangles and one picture of their surface; a vertex stays one vertex at texture seams.

    vertices (N, 3) float32; faces (M, 3) int32, counter-clockwise seen from outside.
    uv (K, 2) float32 in [0, 1], v up; face_uv (M, 3) int32: the corners' rows of `uv`.
    texture (S, S, 3) uint8, sRGB-coded, row 0 at v = 1; it holds the light of the views.
    coverage: the share of the surface's area whose color was seen in a view; the rest is guessed
    from the colors around it. upright (3, 3): the rotation to a world with z up, which GLB needs.
    albedo (S, S, 3) uint8: the texture without that light, for a GLB; None if it is not known.
    """
    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    face_uv: np.ndarray
    texture: np.ndarray
    coverage: float = 1.0
    upright: np.ndarray = field(default_factory=lambda: np.eye(3))
    albedo: np.ndarray | None = None

    def placed(self, scale: float, center) -> TexturedMesh:
        """Return the mesh in the views' own world: vertices / scale + center, float64."""
        return replace(
            self,
            vertices=np.asarray(self.vertices, np.float64) / scale + np.asarray(center, np.float64),
        )

    def turned_back(self, upright) -> TexturedMesh:
        """Return the mesh in the world that the rotation `upright` (3, 3) turns to z up."""
        if np.array_equal(upright, np.eye(3)):
            return self
        return replace(self, vertices=self.vertices @ upright, upright=self.upright @ upright)

    def undone(self, applied) -> TexturedMesh:
        """Return the mesh in the world that `applied` (4, 4), which may scale and mirror, is of.
        """
        back = np.linalg.inv(applied)
        # The nearest rotation, or rotation and mirror image, of what was applied.
        u, _, v = np.linalg.svd(applied[:3, :3])
        mirrors = np.linalg.det(back[:3, :3]) < 0
        return replace(
            self,
            vertices=self.vertices @ back[:3, :3].T + back[:3, 3],
            faces=self.faces[:, ::-1] if mirrors else self.faces,
            face_uv=self.face_uv[:, ::-1] if mirrors else self.face_uv,
            upright=self.upright @ u @ v,
        )

    def split(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return one vertex for every pair of a place and a texture coordinate, as glTF needs it.

        That is vertices (L, 3), unit normals (L, 3) float32 (smooth, without a step at seams), uv
        (L, 2), faces (M, 3) int32.
        """
        pairs = self.faces.reshape(-1).astype(np.int64) * len(self.uv) + self.face_uv.reshape(-1)
        pairs, corner = np.unique(pairs, return_inverse=True)
        place, coordinate = pairs // len(self.uv), pairs % len(self.uv)
        normals = vertex_normals(self.vertices, self.faces)
        normals[~normals.any(1)] = 0, 0, 1
        return (self.vertices[place], normals[place].astype(np.float32), self.uv[coordinate],
                corner.reshape(-1, 3).astype(np.int32))

    def save(self, path, obj_up=None):
        """Write the mesh, placed in the input's world, as .glb, .obj or .ply.

        obj_up: the axis that is up in an .obj, "y" or "z"; None: as in the input's world. See
        `sgm.geometry.mesh_writer.save`.
        """
        from sgm.geometry import mesh_writer  # which needs this class
        return mesh_writer.save(self, path, obj_up)

    def drawable(self) -> Mesh:
        """Return the Mesh to render; light it with UNLIT, for the texture already holds the light.
        """
        vertices, normals, uv, faces = self.split()
        opaque = np.full((*self.texture.shape[:2], 1), 255, np.uint8)
        return Mesh(
            vertices,
            faces,
            normals,
            uv=uv,
            materials=(Material(texture=np.dstack([self.texture, opaque])),),
        )

    def vertex_colors(self) -> np.ndarray:
        """Return (N, 3) uint8: the texture at every vertex, the mean over the sides of a seam."""
        height, width = self.texture.shape[:2]
        x = np.clip(np.round(self.uv[:, 0] * width - 0.5).astype(int), 0, width - 1)
        y = np.clip(np.round((1 - self.uv[:, 1]) * height - 0.5).astype(int), 0, height - 1)
        color = self.texture[y, x].astype(np.float64)[self.face_uv.reshape(-1)]
        corner = self.faces.reshape(-1)
        count = np.maximum(np.bincount(corner, minlength=len(self.vertices)), 1)
        sums = np.stack([np.bincount(corner, color[:, k], len(self.vertices)) for k in range(3)], 1)
        return np.round(sums / count[:, None]).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ColoredMesh:
    """Triangles with a color at each vertex.

    vertices (N, 3) float32, z up; faces (M, 3) int32, counter-clockwise seen from outside; colors
    (N, 3) uint8, sRGB-coded, with the light of the picture that they are from. The other names are
    those of a `TexturedMesh`, which has what this one does not.
    """
    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    upright: np.ndarray = field(default_factory=lambda: np.eye(3))
    albedo = texture = None

    def split(self) -> tuple[np.ndarray, np.ndarray, None, np.ndarray]:
        """Return vertices (N, 3), smooth unit normals (N, 3) float32, None, faces (M, 3)."""
        normals = vertex_normals(self.vertices, self.faces)
        normals[~normals.any(1)] = 0, 0, 1
        return self.vertices, normals.astype(np.float32), None, self.faces

    def save(self, path, obj_up=None):
        """Write the mesh as .glb, .obj or .ply; see `TexturedMesh.save`."""
        from sgm.geometry import mesh_writer  # which needs this module
        return mesh_writer.save(self, path, obj_up)

    def drawable(self) -> Mesh:
        """Return the Mesh to render; light it with UNLIT, for the colors already hold the light."""
        vertices, normals, _, faces = self.split()
        return Mesh(vertices, faces, normals, np.float32(self.colors) / 255)

    def vertex_colors(self) -> np.ndarray:
        """Return (N, 3) uint8."""
        return self.colors
