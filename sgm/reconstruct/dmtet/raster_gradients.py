"""The device's half of the rasterizer, all differentiable.

Depth, barycentric weights, normals and antialiased outlines. Elementwise but for gathers and their
sums back, on static lengths, with what `rasterizer` found on the host. A vector is a tuple of its
components x, y, z, tensors (N,) each: no kernel then works on rows of three.
"""
from mindspore import ops as P

from sgm.ops import scatter

# cosine of the ray with the normal below which a depth's gradient, which grows as 1 / cosine, is
# cut
GRAZING = 0.08


def cross(a, b):
    """Return cross products."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def dot(a, b):
    """Return inner products (N,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def minus(a, b):
    """Return differences."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def take(vectors, index):
    """Return vectors at an index (N,) int32."""
    return (
        scatter.take(vectors[0], index),
        scatter.take(vectors[1], index),
        scatter.take(vectors[2], index),
    )


def unit(a, eps=1e-20):
    """Return vectors of length 1; those shorter than sqrt(eps) stay short."""
    scale = 1.0 / P.sqrt(dot(a, a) + eps)
    return a[0] * scale, a[1] * scale, a[2] * scale


def intersect(a, b, c, eye, direction):
    """Intersect rays with the planes of triangles a, b, c.

    Return the distance (N,) in lengths of `direction`, and the weights of b and c. The weights are
    barycentric in space, so interpolation with them is correct in perspective. A grazing ray's
    distance has no gradient (`GRAZING`); a triangle of no area gets the distance 0 and finite
    weights.
    """
    u, v = minus(b, a), minus(c, a)
    normal = cross(u, v)
    square = dot(normal, normal)
    facing = dot(normal, direction)
    empty = (P.abs(facing) < 1e-18).astype(square.dtype)       # padding, or exactly from the side
    distance = dot(normal, minus(a, eye)) / (facing + empty)
    steep = (facing * facing > GRAZING**2 * square * dot(direction, direction)).astype(square.dtype)
    distance = P.stop_gradient(distance) + steep * (distance - P.stop_gradient(distance))
    point = (eye[0] + distance * direction[0] - a[0], eye[1] + distance * direction[1] - a[1],
             eye[2] + distance * direction[2] - a[2])
    scale = 1.0 / (square + (square < 1e-30).astype(square.dtype))
    return distance, dot(cross(point, v), normal) * scale, dot(cross(u, point), normal) * scale


def interpolate(a, b, c, of_b, of_c):
    """Return vectors at corners a, b, c, weighted by 1 - of_b - of_c, of_b, of_c."""
    return (
        a[0] + of_b * (b[0] - a[0]) + of_c * (c[0] - a[0]),
        a[1] + of_b * (b[1] - a[1]) + of_c * (c[1] - a[1]),
        a[2] + of_b * (b[2] - a[2]) + of_c * (c[2] - a[2]),
    )


def vertex_normals(vertices, corners, count):
    """Return unit normals of `count` vertices, the mean of the faces around weighted by area.

    corners: three (M,) int32.
    """
    a, b, c = take(vertices, corners[0]), take(vertices, corners[1]), take(vertices, corners[2])
    normal = cross(minus(b, a), minus(c, a))
    where = P.concat((corners[0], corners[1], corners[2]), 0)
    x, y, z = normal
    return unit(
        (
            scatter.put(P.concat((x, x, x), 0), where, count),
            scatter.put(P.concat((y, y, y), 0), where, count),
            scatter.put(P.concat((z, z, z), 0), where, count),
        )
    )


def place(p, q, eye, functionals):
    """Return where outlines cross their pairs, (Q,): 0 at near's center and 1 at far's.

    p, q: the ends of the edges. functionals: three vectors; the first is zero on the plane of the
    eye and the line through both pixel centers, the second times a point over the third times it is
    the place.
    """
    p, q = minus(p, eye), minus(q, eye)
    across, along, ahead = functionals
    low, high = dot(across, p), dot(across, q)
    difference = low - high
    part = low / (difference + (difference == 0).astype(low.dtype))
    depth = dot(ahead, p) + part * (dot(ahead, q) - dot(ahead, p))
    return (dot(along, p) + part * (dot(along, q) - dot(along, p))) / (
        depth + (depth == 0).astype(depth.dtype)
    )


def antialias(colors, near, far, receiver, across, place):
    """Return colors (A, C) of pixels, blended where outlines pass.

    near, far (Q,) int32: rows of the pairs; receiver: row of the pixel in which the outline lies,
    far's if place > 0.5. across (Q,): see `rasterizer.Outline`; 0 in padding. The blend is zero
    when the outline passes half way between the centers, so it is continuous when the receiver
    changes.
    """
    difference = scatter.take(colors, near) - scatter.take(colors, far)
    share = (across * (place - 0.5)).reshape(-1, 1)
    return colors + scatter.put(share * difference, receiver, colors.shape[0])
