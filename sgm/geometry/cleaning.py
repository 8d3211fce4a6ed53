"""Mesh cleanup before texturing: weld, orient, drop floaters, decimate."""
from __future__ import annotations

import logging

import numpy as np
from numba import njit

from sgm.common.errors import InputError
from sgm.geometry.decimation import decimate
from sgm.geometry.topology import (
    MERGE,
    areas,
    edge_groups,
    face_components,
    heights,
    turned_alike,
    weld,
)

log = logging.getLogger("sgm")
# Edges under this share of the bounding box's longest side are collapsed even within the budget:
# marching leaves slivers.
SHORTEST = 5e-4


def clean(vertices: np.ndarray, faces: np.ndarray, settings,
          needed=None) -> tuple[np.ndarray, np.ndarray]:
    """Return the cleaned mesh: vertices (K, 3) float32, faces (L, 3) int32.

    L is within the budget if that can be reached. In this order: vertices at one place are merged,
    unusable faces removed, faces oriented alike and outwards, floaters and parts inside others
    removed, edges collapsed. A closed mesh stays closed and keeps its handles.
    vertices (N, 3), faces (M, 3). settings: a `CleanSpec`. needed: a function that returns which
    parts are no floaters, however small: of vertices, faces, the part (M,) of each face, and the
    parts, largest first. Raises InputError if there is no usable triangle.
    """
    vertices, faces = usable(np.asarray(vertices, np.float64), np.asarray(faces, np.int32))
    if not len(faces):
        raise InputError(
            "the mesh has no triangle with an area, so there is nothing to clean or texture; let"
            " the stage before find a surface (a lower density threshold, more steps, views with"
            " the object in them)"
        )
    faces = outwards(vertices, turned_alike(faces))
    kept = kept_parts(vertices, faces, settings.floaters, needed)
    parts = int(face_components(faces).max()) + 1
    faces = faces[kept]
    if not kept.all():
        log.info("removed %d floaters and hidden parts of %d (%.1f %% of the faces)",
                 parts - int(face_components(faces).max()) - 1, parts, 100 * (1 - kept.mean()))
    extent = np.ptp(vertices[faces.reshape(-1)], axis=0).max()
    vertices, faces = decimate(vertices, faces, settings.faces, SHORTEST * extent)
    return vertices.astype(np.float32), faces


def usable(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and faces without what no later step can use.

    What is left is finite, has one vertex per place, no face that names a place twice and no face
    twice. Sheets that only touch stay apart: the vertices of a mesh without open edges are not
    merged.
    """
    faces = faces[np.isfinite(vertices).all(1)[faces].all(1)]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    if not len(faces):
        return vertices, faces
    if (np.diff(edge_groups(faces)[1]) == 1).any():
        vertices, faces = weld(vertices, faces)
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
        _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
        faces = faces[np.sort(first)]
    if len(faces) and not (heights(vertices, faces) > MERGE).any():
        faces = faces[:0]
    return vertices, faces


def outwards(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Turn parts inside out whose enclosed volume is negative.

    The volume of an open part is measured from its own center.
    """
    label = face_components(faces)
    p = vertices[faces]
    weight = np.bincount(label)
    center = np.stack([np.bincount(label, p[..., k].mean(1)) / weight for k in range(3)], 1)
    p = p - center[label][:, None]
    signed = np.bincount(label, np.einsum("ij,ij->i", p[:, 0], np.cross(p[:, 1], p[:, 2])))
    return np.where((signed < 0)[label][:, None], faces[:, ::-1], faces)


def kept_parts(vertices: np.ndarray, faces: np.ndarray, floaters: float,
               needed=None) -> np.ndarray:
    """Return bool (M,): faces of parts that are large enough by area and not inside a larger part.

    needed: see `clean`.
    """
    label = face_components(faces)
    area = np.bincount(label, areas(vertices, faces))
    keep = area >= floaters * area.max()
    keep[area.argmax()] = True
    solid = np.ascontiguousarray(vertices[faces])
    ranks = np.argsort(-area, kind="stable")
    if needed is not None:
        keep[needed(vertices, faces, label, ranks)] = True
    for rank, part in enumerate(ranks):
        if not keep[part] or rank == 0:
            continue
        point = vertices[faces[label == part][0]].mean(0)
        for larger in ranks[:rank]:
            if keep[larger] and _crossings(solid[label == larger], point) % 2:
                keep[part] = False
                break
    return keep[label]


@njit(cache=True)
def _crossings(triangles, point):
    """Count the triangles (M, 3, 3) that a ray from the point, in a generic direction, crosses."""
    direction = np.array([0.40673664, 0.17364818, 0.89687274])
    count = 0
    for f in range(len(triangles)):
        a, b, c = triangles[f, 0] - point, triangles[f, 1] - point, triangles[f, 2] - point
        # signs of the volumes the ray makes with the three sides: inside if they agree (Segura and
        # Feito 2001)
        u = (np.cross(b, c) * direction).sum()
        v = (np.cross(c, a) * direction).sum()
        w = (np.cross(a, b) * direction).sum()
        if (u >= 0 and v >= 0 and w >= 0) or (u < 0 and v < 0 and w < 0):
            total = u + v + w
            if total != 0 and ((a * u + b * v + c * w) * direction).sum() / total > 0:
                count += 1
    return count
