"""Fixed-size batches of pixels, rays and silhouettes for one DMTet step (numpy, host)."""
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from sgm.geometry.topology import face_neighbors
from sgm.reconstruct.dmtet import marching_tets, rasterizer, tet_grid

UNIT = 1024         # lengths are multiples of this
SPARE = 1.2         # room for growth when a length is first fixed
# cells: how far along the ray, this way or that, the color field is evaluated a second time
AHEAD = 0.5

# A batch has E edges of the grid, M faces, N colored pixels, the first G of which move the surface,
# and Q outlines. All are filled up to a fixed length. Vectors are stored by component, so that no
# kernel works on rows of three.


class Edges(NamedTuple):
    """Edges of the grid that the surface crosses: values and places of their ends a, b, (E,)."""
    s_a: np.ndarray
    s_b: np.ndarray
    ax: np.ndarray
    ay: np.ndarray
    az: np.ndarray
    bx: np.ndarray
    by: np.ndarray
    bz: np.ndarray


class Points(NamedTuple):
    """Where the field is evaluated, as `Field.encode` returns it.

    These are the N colored points, and points further along the rays of the first G of them.
    """
    indices: np.ndarray
    weights: np.ndarray
    further_indices: np.ndarray
    further_weights: np.ndarray


class Faces(NamedTuple):
    """Vertices of the faces' three corners, (M,) int32."""
    i: np.ndarray
    j: np.ndarray
    k: np.ndarray


class Outlines(NamedTuple):
    """Pairs of pixels between which a silhouette passes, see `rasterizer.Outline`.

    Rows of the pixels near, far and receiver and vertices p, q of the edge are (Q,) int32; across
    (Q,), functionals (9, Q) and eyes (3, Q), the cameras' places, are float32.
    """
    near: np.ndarray
    far: np.ndarray
    receiver: np.ndarray
    p: np.ndarray
    q: np.ndarray
    across: np.ndarray
    functionals: np.ndarray
    eyes: np.ndarray


class Pixels(NamedTuple):
    """Goals of the rows: the N colored pixels, then the background pixels that outlines blend with.

    target (N + Q, 3): colors; wanted (N + Q,): alpha; shares (N + Q,): weights in the loss;
    backdrop (Q, 3): the colors of the background pixels.
    """
    target: np.ndarray
    wanted: np.ndarray
    shares: np.ndarray
    backdrop: np.ndarray


class Rays(NamedTuple):
    """The rays of the first G pixels.

    Each meets the triangle of vertices i, j, k (G,) int32. directions, eyes (3, G); moves (G,): how
    often a pixel counts, divided by the distance to its further point.
    """
    i: np.ndarray
    j: np.ndarray
    k: np.ndarray
    directions: np.ndarray
    eyes: np.ndarray
    moves: np.ndarray


class Pairs(NamedTuple):
    """Neighboring pixels whose normals are compared: rows first and second (G,) int32.

    even (G,): weights, smaller where the picture has an edge.
    """
    first: np.ndarray
    second: np.ndarray
    even: np.ndarray


class Batch(NamedTuple):
    """All arguments of `refinement.Loss`."""
    edges: Edges
    points: Points
    faces: Faces
    outlines: Outlines
    pixels: Pixels
    rays: Rays
    pairs: Pairs

    def arrays(self):
        """Return all arrays in a row, as a compiled graph takes them."""
        return [array for group in self for array in group]




@dataclass(frozen=True, eq=False)
class Surface:
    """The mesh of a grid.

    edges (E, 2) of the grid, faces (M, 3), around (M, 3) the faces' neighbors, values (2, E) at the
    edges' ends, places (2, E, 3) of these, vertices (E, 3).
    """
    edges: np.ndarray
    faces: np.ndarray
    around: np.ndarray
    values: np.ndarray
    places: np.ndarray
    vertices: np.ndarray


def surface_of(sdf, half, deformation=None, bound=0.0):
    """Return the Surface of a sealed grid.

    Its vertices are moved by `tet_grid.deformed` if there is a deformation ((R + 1)^3, 3).
    """
    resolution = sdf.shape[0] - 1
    edges, faces = marching_tets.march(sdf)
    values = sdf.reshape(-1)[edges.T]
    if deformation is None:
        places = np.stack([tet_grid.positions(resolution, half, ends) for ends in edges.T])
    else:
        places = np.stack(
            [tet_grid.deformed(resolution, half, ends, deformation, bound) for ends in edges.T]
        )
    vertices = marching_tets.crossings(*values, *places).astype(np.float32)
    return Surface(edges, faces, face_neighbors(faces), values, places, vertices)


def picture(surface, field, views, view):
    """Return view number `view` of a surface in the colors of a field.

    rgb (h, w, 3) float32 premultiplied, covered (h, w) bool. Not antialiased: one ray through the
    middle of each pixel.
    """
    c2w = views.c2w[view]
    ids, depth = rasterizer.face_ids(
        surface.vertices, surface.faces, c2w, views.intrinsics, views.w, views.h
    )
    pixels = np.flatnonzero(ids.reshape(-1) >= 0)
    rgb = np.zeros((ids.size, 3), np.float32)
    if len(pixels):
        points = c2w[:3, 3] + depth.reshape(-1, 1)[pixels] * rasterizer.pixel_rays(
            pixels, views.w, c2w, views.intrinsics
        )
        rgb[pixels] = field.evaluate(points.astype(np.float32))[1]
    return rgb.reshape(views.h, views.w, 3), ids >= 0


class Lengths:
    """The static lengths of a device graph.

    Each is fixed with some room to spare when first needed, and grows if necessary (the graph is
    then compiled again).
    """

    def __init__(self):
        self.fixed = {}

    def of(self, name, count):
        """Return a length of at least `count`."""
        if count > self.fixed.get(name, 0):
            self.fixed[name] = -(-int(max(count, 1) * SPARE) // UNIT) * UNIT
        return self.fixed[name]


def geometry_rows(settings):
    """Return how many of the colored pixels move the surface by color and normal."""
    return int(settings.geometry * settings.pixels) // 2 * 2


def padded(array, length, fill=0):
    """Return the array with its last axis filled up to a length, contiguous."""
    out = np.full((*array.shape[:-1], length), fill, array.dtype)
    out[..., :array.shape[-1]] = array
    return out


class PixelBatcher:
    """Makes batches for `refinement.Loss` of views of one size.

    resolution: cells per side of the grid over [-half, half]^3. settings: a `DMTetSpec`. lengths: a
    `Lengths`, which all sizes of views share. importance (V, H, W): factors on the pixels' errors;
    with it pictures are compared on white instead of random colors. None: all 1.
    """

    def __init__(self, views, half, resolution, settings, lengths, importance=None):
        self.views, self.settings, self.lengths = views, settings, lengths
        self.importance = importance
        self.ahead = AHEAD * 2 * half / resolution
        gray = [
            cv2.cvtColor(rgb + (1 - mask)[..., None], cv2.COLOR_RGB2GRAY)
            for rgb, mask in zip(views.rgb, views.mask)
        ]
        slopes = [
            np.hypot(cv2.Sobel(g, cv2.CV_32F, 1, 0), cv2.Sobel(g, cv2.CV_32F, 0, 1)) for g in gray
        ]
        self.flat = np.exp(-3 * np.stack(slopes))      # 1 where the picture is even, 0 at its edges

    def batch(self, surface, chosen, encode, rng):
        """Return the Batch of the views `chosen` of a surface.

        encode(points, further) returns four arrays: what `Field.encode` makes of the points (N, 3)
        that are colored, and of points (G, 3) a little before or behind the first G of these.
        """
        views, settings, count = self.views, self.settings, len(chosen)
        h, w = views.h, views.w
        background = rng.random_sample((count, 3)).astype(np.float32)
        if self.importance is not None:
            background[:] = 1

        # What each pixel shows, and where silhouettes pass. Pixels are numbered through all views.
        ids, depth = np.empty((count, h * w), np.int32), np.empty((count, h * w))
        found_outlines = []
        for b, k in enumerate(chosen):
            found = rasterizer.face_ids(
                surface.vertices, surface.faces, views.c2w[k], views.intrinsics, w, h
            )
            ids[b], depth[b] = found[0].reshape(-1), found[1].reshape(-1)
            found_outlines.append(
                rasterizer.outline(
                    surface.vertices,
                    surface.faces,
                    surface.around,
                    *found,
                    views.c2w[k],
                    views.intrinsics,
                )
            )
        ids, depth = ids.reshape(-1), depth.reshape(-1)
        near, far = (
            np.concatenate(
                [
                    getattr(o, name).astype(np.int64) + b * h * w
                    for b, o in enumerate(found_outlines)
                ]
            )
            for name in ("near", "far")
        )

        # Rows: the colored pixels, room for more of them, then the background pixels that outlines
        # blend with.
        known = None if views.known is None else views.known[chosen].reshape(-1)
        pixels, weight, others = self._chosen_pixels(ids, near, far, known, rng)
        n = settings.pixels
        row_of = np.full(len(ids), -1, np.int32)
        row_of[pixels] = np.arange(len(pixels))
        behind = np.unique(far[ids[far] < 0])
        row_of[behind] = n + np.arange(len(behind))
        eyes = views.c2w[chosen, :3, 3].astype(np.float32)
        outlines = self._outlines(found_outlines, near, far, row_of, eyes)
        targets = self._pixels(chosen, pixels, weight, behind, background, len(outlines.near))

        # Points of the surface, and those ahead of them.
        points = np.zeros((n, 3), np.float32)
        direction = np.zeros((len(pixels), 3), np.float32)
        for b, k in enumerate(chosen):
            mine = np.flatnonzero(pixels // (h * w) == b)
            direction[mine] = rasterizer.pixel_rays(
                pixels[mine] % (h * w), w, views.c2w[k], views.intrinsics
            )
        points[: len(pixels)] = (
            eyes[pixels // (h * w)] + depth[pixels, None].astype(np.float32) * direction
        )
        g = geometry_rows(settings)
        pairs = self._pairs(pixels[:g], ids, depth, row_of, g, rng, self.flat[chosen].reshape(-1))
        # Before and behind the surface in turn: where it has not been yet, the field knows less,
        # which must not count more.
        ahead = np.float32(self.ahead if rng.random_sample() < 0.5 else -self.ahead)
        rays = self._rays(surface, pixels[:g], ids, direction[:g], eyes, others, g, ahead)
        return Batch(
            self._edges(surface),
            Points(*encode(points, points[:g] + ahead * rays.directions.T[:g])),
            self._faces(surface),
            outlines,
            targets,
            rays,
            pairs,
        )

    def _edges(self, surface):
        length = self.lengths.of("edges", len(surface.edges))
        places = padded(np.ascontiguousarray(surface.places.transpose(0, 2, 1)), length).reshape(
            6, -1
        )
        return Edges(*padded(surface.values, length, 1), *places)

    def _faces(self, surface):
        length = self.lengths.of("faces", len(surface.faces))
        return Faces(*padded(np.ascontiguousarray(surface.faces.T), length))

    def _outlines(self, found, near, far, row_of, eyes):
        """Return the Outlines both of whose pixels have a row."""
        kept = (row_of[near] >= 0) & (row_of[far] >= 0)
        length = self.lengths.of("outlines", len(near))
        view = np.repeat(np.arange(len(found)), [len(o.near) for o in found])[kept]
        ends, across, place, functionals = (np.concatenate([getattr(o, name) for o in found])[kept]
                                            for name in ("ends", "across", "place", "functionals"))
        near, far = row_of[near[kept]], row_of[far[kept]]
        return Outlines(
            padded(near, length),
            padded(far, length),
            padded(np.where(place > 0.5, far, near), length),
            padded(ends[:, 0], length),
            padded(ends[:, 1], length),
            padded(across, length),
            padded(np.ascontiguousarray(functionals.T), length),
            padded(np.ascontiguousarray(eyes[view].T), length),
        )

    def _pixels(self, chosen, pixels, weight, behind, background, length):
        """Return the Pixels: the colored ones with their weights, and up to `length` others."""
        views, n = self.views, self.settings.pixels
        area = views.h * views.w
        shown = np.concatenate([pixels, behind])
        rows = np.concatenate([np.arange(len(pixels)), n + np.arange(len(behind))])
        mask = views.mask[chosen].reshape(-1)
        target, wanted = np.zeros((n + length, 3), np.float32), np.zeros(n + length, np.float32)
        shares, backdrop = np.zeros(n + length, np.float32), np.zeros((length, 3), np.float32)
        wanted[rows] = mask[shown]
        target[rows] = (
            views.rgb[chosen].reshape(-1, 3)[shown]
            + (1 - mask[shown])[:, None] * background[shown // area]
        )
        shares[rows[len(pixels):]] = 1
        shares[:len(pixels)] = weight
        if views.known is not None:     # it may blend with what is known, but is not compared
            shares[rows] *= views.known[chosen].reshape(-1)[shown]
        if self.importance is not None:
            shares[rows] *= self.importance[chosen].reshape(-1)[shown]
        backdrop[:len(behind)] = background[behind // area]
        return Pixels(target, wanted, shares / max(mask.sum(), 1), backdrop)

    def _chosen_pixels(self, ids, near, far, known, rng):
        """Choose the covered and known pixels that are colored; known: bool, or None for all.

        Return their numbers, their weights, and how many are not at outlines (these come first).
        Blocks of 2 x 2 pixels are drawn in random order, so that neighbors can be compared.
        """
        views, n = self.views, self.settings.pixels
        h, w = views.h, views.w
        at_outline = np.zeros(len(ids), bool)
        at_outline[near] = at_outline[far] = True
        inner = (ids >= 0) & ~at_outline
        covered = np.flatnonzero(inner if known is None else inner & known)
        fixed = np.flatnonzero((ids >= 0) & at_outline)[:n]
        row, column = np.divmod(covered % (h * w), w)
        block = (covered // (h * w) * ((h + 1) // 2) + row // 2) * ((w + 1) // 2) + column // 2
        luck = rng.random_sample(int(block.max()) + 1 if len(block) else 0).astype(np.float32)[
            block
        ]
        order = np.argsort(luck, kind="stable")[:n - len(fixed)]
        weight = np.ones(len(order) + len(fixed), np.float32)
        weight[:len(order)] = len(covered) / max(len(order), 1)
        return np.concatenate([covered[order], fixed]), weight, len(order)

    def _pairs(self, pixels, ids, depth, row_of, g, rng, flat):
        """Return the Pairs of the first g rows that are neighbors on one surface."""
        views, count = self.views, len(pixels)
        h, w = views.h, views.w
        pairs = []
        for step in (1, w):
            a = np.flatnonzero(pixels % w < w - 1 if step == 1 else pixels // w % h < h - 1)
            b = row_of[pixels[a] + step]
            a, b = a[(b >= 0) & (b < count)], b[(b >= 0) & (b < count)]
            one, two = depth[pixels[a]], depth[pixels[b]]
            near = np.abs(one - two) < rasterizer.JUMP * np.minimum(one, two) / views.fl_x
            good = (ids[pixels[a]] != ids[pixels[b]]) & near
            pairs.append(np.stack([a[good], b[good]]))
        pairs = np.concatenate(pairs, axis=1)
        if pairs.shape[1] > g:
            pairs = pairs[:, rng.permutation(pairs.shape[1])[:g]]
        even = flat[pixels[pairs]].min(axis=0) / max(pairs.shape[1], 1)
        length = max(g, 2)  # a graph takes no arrays of length 0
        return Pairs(
            *padded(pairs.astype(np.int32), length), padded(even.astype(np.float32), length)
        )

    def _rays(self, surface, pixels, ids, direction, eyes, others, g, ahead):
        """Return the Rays of the first g rows.

        The first `others` of them are not at outlines and move the surface.
        """
        length, moving = max(g, 2), min(others, len(pixels))
        moves = np.zeros(length, np.float32)
        moves[:moving] = others / max(moving, 1)
        moves /= ahead
        return Rays(
            *padded(np.ascontiguousarray(surface.faces[ids[pixels]].T), length),
            padded(np.ascontiguousarray(direction.T), length),
            padded(np.ascontiguousarray(eyes[pixels // (self.views.h * self.views.w)].T), length),
            moves,
        )
