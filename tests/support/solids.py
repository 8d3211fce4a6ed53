"""Solids as arrays of vertices and faces."""
import numpy as np
import trimesh


def ball(radius, center=(0, 0, 0), subdivisions=3):
    solid = trimesh.creation.icosphere(subdivisions, radius)
    solid.vertices += center
    return solid


def cube_arrays():
    v = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    f = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4),
         (1, 5, 7), (1, 7, 3)]
    return v, np.array(f)
