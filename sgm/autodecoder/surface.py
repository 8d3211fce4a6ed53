"""The mesh of a volume: where its density passes a level, with the volume's colors as texture.

Arrays on the host (numpy only). A volume fills the box [-0.5, 0.5]^3, see
`sgm.autodecoder.ray_marching`.
"""
import numpy as np
from scipy.ndimage import map_coordinates

from sgm.common.errors import InputError
from sgm.config.reconstruction import CleanSpec
from sgm.geometry import cleaning
from sgm.geometry.textured_mesh import TexturedMesh
from sgm.reconstruct.dmtet import marching_tets, tet_grid
from sgm.reconstruct.texture.atlas import unwrap
from sgm.reconstruct.texture.baking import spread, texels

HALF = 0.5
# Raw density at which a ray loses half of its light along one voxel: softplus(LEVEL - 5) = ln 2.
LEVEL = 5.0
FINER = 2               # cells of the marched grid in a voxel, each way
PADDING = 2             # free texels around a chart


def read_volume(volume, points):
    """Return the rows (N, 4) of a volume (side^3, 4) between its voxels, at points (N, 3) x, y, z.

    Trilinear; beyond the middles of the outermost voxels as these.
    """
    side = round(len(volume) ** (1 / 3))
    places = (np.asarray(points, np.float64)[:, ::-1].T + HALF) * side - 0.5      # z, y, x
    return np.stack([map_coordinates(channel.reshape(side, side, side), places, order=1,
                                     mode="nearest") for channel in volume.T], 1)


def level_set(volume):
    """Return where the raw density of a volume (side^3, 4) passes the level: vertices, faces.

    The surface is closed and in the volume's box, and not cleaned. Raises InputError if there is
    none.
    """
    side = round(len(volume) ** (1 / 3))
    resolution = FINER * side
    points = tet_grid.positions(resolution, HALF)
    density = read_volume(volume[:, :1], points).reshape((resolution + 1,) * 3)
    if not density.max() > LEVEL:
        raise InputError(f"found an empty volume (raw density up to {density.max():.3g}, expected"
                         f" some above {LEVEL:g}): no object was made; take another seed or more"
                         " steps, or train longer")
    values = tet_grid.sealed(LEVEL - density, HALF)
    edges, faces = marching_tets.march(values)
    ends = [tet_grid.positions(resolution, HALF, end) for end in edges.T]
    return marching_tets.crossings(*values.reshape(-1)[edges.T], *ends), faces


def surface_of(volume):
    """Return the TexturedMesh of a volume (side^3, 4), raw density first.

    It is closed and in the volume's box; its faces and texels grow with the volume's area. Raises
    InputError if no density passes the level.
    """
    side = round(len(volume) ** (1 / 3))
    vertices, faces = level_set(volume)
    vertices, faces = cleaning.clean(vertices, faces, CleanSpec(faces=6 * side * side))
    return _painted(vertices, faces, volume, 8 * side)


def _painted(vertices, faces, volume, size):
    """Return the TexturedMesh of a surface in a volume; size: texels a side."""
    uv, face_uv = unwrap(vertices, faces, size, PADDING)
    face, weights = texels(uv, face_uv, size)
    row, column = np.nonzero(face >= 0)
    w = weights[row, column].astype(np.float64)
    w = np.concatenate([1 - w.sum(1, keepdims=True), w], 1)[..., None]
    points = (vertices[faces[face[row, column]]] * w).sum(1)
    image = np.zeros((size, size, 3), np.float32)
    image[row, column] = 1 / (1 + np.exp(-read_volume(volume[:, 1:4], points)))
    image = spread(image, face >= 0)
    return TexturedMesh(vertices, faces, uv, face_uv, np.round(image * 255).astype(np.uint8))
