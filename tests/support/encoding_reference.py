"""The encoding of points in float64, vertex by vertex."""
import numpy as np

from sgm.reconstruct.nerf import encoding

HALF = 0.55
LEVELS = {"dense": encoding.dense_levels([4, 9], 4), "hash": encoding.hash_levels(4, 2, 10, 4, 40)}


def hash_of(x, y, z, size):
    """Equation 4 of the Instant-NGP paper with Python's unbounded integers, products modulo 2^32 as its uint32 has them."""
    primes = (1, 2654435761, 805459861)
    value = 0
    for coordinate, prime in zip((x, y, z), primes):
        value ^= coordinate * prime % 2 ** 32
    return value % size


def reference(points, table, levels):
    """The encoding (N, L F) in float64, vertex by vertex."""
    out = np.zeros((len(points), len(levels), levels.features))
    for n, point in enumerate(points.astype(np.float64)):
        for level in range(len(levels)):
            r, size = int(levels.resolution[level]), int(levels.size[level])
            place = np.clip((point + HALF) / (2 * HALF), 0, 1) * r
            low = np.minimum(np.floor(place), r - 1)
            for a in (0, 1):
                for b in (0, 1):
                    for c in (0, 1):
                        i, j, k = (low + [a, b, c]).astype(int)
                        weight = np.prod(1 - np.abs(place - [i, j, k]))
                        index = hash_of(i, j, k, size) if levels.hashed[level] else (i * (r + 1) + j) * (r + 1) + k
                        out[n, level] += weight * table[levels.first[level] + index]
    return out.reshape(len(points), -1)


def some_points(count=40, seed=0):
    points = np.random.RandomState(seed).uniform(-HALF, HALF, (count, 3)).astype(np.float32)
    points[0], points[1], points[2] = HALF, -HALF, 0.7         # corners of the box, and a point outside it
    return points
