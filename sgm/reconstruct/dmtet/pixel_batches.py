"""What one step of the refinement looks at: the arrays of fixed length that its device graph takes (numpy, host)."""
from dataclasses import dataclass

import cv2
import numpy as np

from sgm.geometry.topology import face_neighbors
from sgm.reconstruct.dmtet import marching_tets, rasterizer, tet_grid

UNIT = 1024         # lengths are multiples of this
SPARE = 1.2         # room for growth when a length is first fixed
AHEAD = 0.5         # cells: how far along the ray, this way or that, the colour field is asked a second time


@dataclass(frozen=True, eq=False)
class Surface:
    """The mesh of a grid: edges (E, 2) of the grid, faces (M, 3), around (M, 3) their neighbours, values (2, E) at the
    edges' ends, places (2, E, 3) of these, vertices (E, 3)."""
    edges: np.ndarray
    faces: np.ndarray
    around: np.ndarray
    values: np.ndarray
    places: np.ndarray
    vertices: np.ndarray


def surface_of(sdf, half, deformation=None, bound=0.0):
    """The Surface of a sealed grid, its vertices moved by `tetgrid.deformed` if there is a deformation ((R + 1)^3, 3)."""
    resolution = sdf.shape[0] - 1
    edges, faces = marching_tets.march(sdf)
    values = sdf.reshape(-1)[edges.T]
    if deformation is None:
        places = np.stack([tet_grid.positions(resolution, half, ends) for ends in edges.T])
    else:
        places = np.stack([tet_grid.deformed(resolution, half, ends, deformation, bound) for ends in edges.T])
    vertices = marching_tets.crossings(*values, *places).astype(np.float32)
    return Surface(edges, faces, face_neighbors(faces), values, places, vertices)


def picture(surface, field, views, view):
    """View number `view` of a surface in the colours of a field -> rgb (h, w, 3) float32 premultiplied, covered (h, w) bool.

    Not antialiased: one ray through the middle of each pixel.
    """
    c2w = views.c2w[view]
    ids, depth = rasterizer.face_ids(surface.vertices, surface.faces, c2w, views.intrinsics, views.w, views.h)
    pixels = np.flatnonzero(ids.reshape(-1) >= 0)
    rgb = np.zeros((ids.size, 3), np.float32)
    if len(pixels):
        points = c2w[:3, 3] + depth.reshape(-1, 1)[pixels] * rasterizer.pixel_rays(pixels, views.w, c2w, views.intrinsics)
        rgb[pixels] = field.evaluate(points.astype(np.float32))[1]
    return rgb.reshape(views.h, views.w, 3), ids >= 0


class Lengths:
    """The static lengths of a device graph: each is fixed with room to spare when first asked for, and grows if need be
    (the graph is then compiled again)."""

    def __init__(self):
        self.fixed = {}

    def of(self, name, count):
        """A length of at least `count`."""
        if count > self.fixed.get(name, 0):
            self.fixed[name] = -(-int(max(count, 1) * SPARE) // UNIT) * UNIT
        return self.fixed[name]


def geometry_rows(settings):
    """How many of the coloured pixels move the surface by colour and normal."""
    return int(settings.geometry * settings.pixels) // 2 * 2


def padded(array, length, fill=0):
    """The array with its last axis filled up to a length, contiguous."""
    out = np.full((*array.shape[:-1], length), fill, array.dtype)
    out[..., :array.shape[-1]] = array
    return out


class Shading:
    """Batches of views (of one size) for `dmtet.Loss`."""

    def __init__(self, views, half, resolution, settings):
        self.views, self.settings = views, settings
        self.ahead = AHEAD * 2 * half / resolution
        grey = [cv2.cvtColor(rgb + (1 - mask)[..., None], cv2.COLOR_RGB2GRAY) for rgb, mask in zip(views.rgb, views.mask)]
        slopes = [np.hypot(cv2.Sobel(g, cv2.CV_32F, 1, 0), cv2.Sobel(g, cv2.CV_32F, 0, 1)) for g in grey]
        self.flat = np.exp(-3 * np.stack(slopes))      # 1 where the picture is even, 0 at its edges

    def batch(self, surface, chosen, lengths, rng):
        """The views `chosen` of a surface -> {name: array} in the order in which `dmtet.Loss` takes them, the points (N, 3)
        that are coloured, and points (G, 3) a little before or behind the first G of these."""
        views, settings, count = self.views, self.settings, len(chosen)
        h, w = views.h, views.w
        background = rng.random_sample((count, 3)).astype(np.float32)
        ids, depth = np.empty((count, h * w), np.int32), np.empty((count, h * w))
        outlines = []
        for b, k in enumerate(chosen):
            found = rasterizer.face_ids(surface.vertices, surface.faces, views.c2w[k], views.intrinsics, w, h)
            ids[b], depth[b] = found[0].reshape(-1), found[1].reshape(-1)
            outlines.append(rasterizer.outline(surface.vertices, surface.faces, surface.around, *found, views.c2w[k],
                                           views.intrinsics))
        near, far = (np.concatenate([getattr(o, name).astype(np.int64) + b * h * w for b, o in enumerate(outlines)])
                     for name in ("near", "far"))
        ids, depth = ids.reshape(-1), depth.reshape(-1)
        pixels, weight, others = self._chosen_pixels(ids, near, far, rng)
        # Rows: the coloured pixels, room for more of them, then the background pixels that outlines blend with.
        n = settings.pixels
        row_of = np.full(len(ids), -1, np.int32)
        row_of[pixels] = np.arange(len(pixels))
        behind = np.unique(far[ids[far] < 0])
        row_of[behind] = n + np.arange(len(behind))
        kept = (row_of[near] >= 0) & (row_of[far] >= 0)
        q = lengths.of("outlines", len(near))
        view = np.repeat(np.arange(count), [len(o.near) for o in outlines])[kept]
        ends, across, place, functionals = (np.concatenate([getattr(o, name) for o in outlines])[kept]
                                            for name in ("ends", "across", "place", "functionals"))
        near, far = row_of[near[kept]], row_of[far[kept]]
        eyes = views.c2w[chosen, :3, 3].astype(np.float32)
        batch = {
            "near": padded(near, q), "far": padded(far, q), "receiver": padded(np.where(place > 0.5, far, near), q),
            "p": padded(ends[:, 0], q), "q": padded(ends[:, 1], q), "across": padded(across, q),
            "functionals": padded(np.ascontiguousarray(functionals.T), q),
            "outline_eyes": padded(np.ascontiguousarray(eyes[view].T), q),
        }
        shown = np.concatenate([pixels, behind])
        all_rows = np.concatenate([np.arange(len(pixels)), n + np.arange(len(behind))])
        rows = n + q
        mask = views.mask[chosen].reshape(-1)
        target, wanted, weights = np.zeros((rows, 3), np.float32), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
        wanted[all_rows] = mask[shown]
        target[all_rows] = (views.rgb[chosen].reshape(-1, 3)[shown]
                            + (1 - mask[shown])[:, None] * background[shown // (h * w)])
        weights[all_rows[len(pixels):]] = 1
        weights[:len(pixels)] = weight
        backdrop = np.zeros((q, 3), np.float32)
        backdrop[:len(behind)] = background[behind // (h * w)]
        batch.update(target=target, wanted=wanted, weights=weights / max(mask.sum(), 1), backdrop=backdrop)
        points = np.zeros((n, 3), np.float32)
        direction = np.zeros((len(pixels), 3), np.float32)
        for b, k in enumerate(chosen):
            mine = np.flatnonzero(pixels // (h * w) == b)
            direction[mine] = rasterizer.pixel_rays(pixels[mine] % (h * w), w, views.c2w[k], views.intrinsics)
        points[:len(pixels)] = eyes[pixels // (h * w)] + depth[pixels, None].astype(np.float32) * direction
        g = geometry_rows(settings)
        batch.update(self._geometry(surface, pixels[:g], ids, depth, direction[:g], eyes, row_of, others, g, rng,
                                    self.flat[chosen].reshape(-1)))
        # Before and behind the surface in turn: where it has not been yet, the field knows less, which must not count more.
        ahead = np.float32(self.ahead if rng.random_sample() < 0.5 else -self.ahead)
        batch["moves"] /= ahead
        return batch, points, points[:g] + ahead * batch["directions"].T[:g]

    def _chosen_pixels(self, ids, near, far, rng):
        """Which covered pixels are coloured -> numbers, weights, how many are not at outlines (these come first).

        Blocks of 2 x 2 pixels are drawn at random, so that neighbours are there to compare, and in random order.
        """
        views, n = self.views, self.settings.pixels
        h, w = views.h, views.w
        at_outline = np.zeros(len(ids), bool)
        at_outline[near] = at_outline[far] = True
        covered = np.flatnonzero((ids >= 0) & ~at_outline)
        fixed = np.flatnonzero((ids >= 0) & at_outline)[:n]
        row, column = np.divmod(covered % (h * w), w)
        block = (covered // (h * w) * ((h + 1) // 2) + row // 2) * ((w + 1) // 2) + column // 2
        luck = rng.random_sample(int(block.max()) + 1 if len(block) else 0).astype(np.float32)[block]
        order = np.argsort(luck, kind="stable")[:n - len(fixed)]
        weight = np.ones(len(order) + len(fixed), np.float32)
        weight[:len(order)] = len(covered) / max(len(order), 1)
        return np.concatenate([covered[order], fixed]), weight, len(order)

    def _geometry(self, surface, pixels, ids, depth, direction, eyes, row_of, others, g, rng, flat):
        """The first g rows' triangles and rays, and the pairs of them whose normals are compared."""
        views, count, length = self.views, len(pixels), max(g, 2)       # a graph takes no arrays of length 0
        h, w = views.h, views.w
        pairs = []
        for step in (1, w):
            a = np.flatnonzero(pixels % w < w - 1 if step == 1 else pixels // w % h < h - 1)
            b = row_of[pixels[a] + step]
            a, b = a[(b >= 0) & (b < count)], b[(b >= 0) & (b < count)]
            one, two = depth[pixels[a]], depth[pixels[b]]
            good = (ids[pixels[a]] != ids[pixels[b]]) & (np.abs(one - two) < rasterizer.JUMP * np.minimum(one, two) / views.fl_x)
            pairs.append(np.stack([a[good], b[good]]))
        pairs = np.concatenate(pairs, axis=1)
        if pairs.shape[1] > g:
            pairs = pairs[:, rng.permutation(pairs.shape[1])[:g]]
        even = flat[pixels[pairs]].min(axis=0) / max(pairs.shape[1], 1)
        moving = min(others, count)
        moves = np.zeros(length, np.float32)
        moves[:moving] = others / max(moving, 1)
        corners = padded(np.ascontiguousarray(surface.faces[ids[pixels]].T), length)
        first, second = padded(pairs.astype(np.int32), length)
        return {"a": corners[0], "b": corners[1], "c": corners[2],
                "directions": padded(np.ascontiguousarray(direction.T), length),
                "eyes": padded(np.ascontiguousarray(eyes[pixels // (h * w)].T), length), "moves": moves,
                "first": first, "second": second, "even": padded(even.astype(np.float32), length)}
