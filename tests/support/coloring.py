"""Solids whose color is a smooth function of the place."""
import numpy as np
import trimesh

from sgm.geometry.mesh import Mesh
from sgm.geometry.textured_mesh import TexturedMesh
from sgm.reconstruct.texture.atlas import unwrap
from sgm.reconstruct.texture.baking import spread, texels


def color_of(points, fine=1):
    """A smooth color in [0, 1] of a place."""
    return 0.5 + 0.4 * np.sin(np.asarray(points) * (9, 11, 13) * fine + (0, 1, 2))


def colored(solid, fine=1):
    """The solid drawn with `color_of` at its (many) vertices."""
    return Mesh(solid.vertices, solid.faces, colors=color_of(solid.vertices, fine).astype(np.float32))


def textured_brick():
    """A closed brick in the world, whose texture tells the place: red grows with x, green with y, blue with z."""
    box = trimesh.creation.box((1.0, 0.6, 0.4)).subdivide().subdivide()
    vertices = box.vertices.astype(np.float32)
    uv, face_uv = unwrap(vertices, box.faces, 128, 2)
    face, weights = texels(uv, face_uv, 128)
    inside = face >= 0
    w = np.concatenate([1 - weights.sum(-1, keepdims=True), weights], -1)[inside][..., None]
    image = np.zeros((128, 128, 3), np.float32)
    image[inside] = ((vertices[box.faces] / (1.0, 0.6, 0.4) + 0.5)[face[inside]] * w).sum(1)
    image = np.round(spread(image, inside) * 255).astype(np.uint8)
    return TexturedMesh(vertices, box.faces.astype(np.int32), uv, face_uv, image)
