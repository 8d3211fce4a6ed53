"""The rasterizer: ids against ray casting, outlines by hand."""
import numpy as np
import pytest
from support.surfaces import FOCAL, FRONT, SIZE, extract, found_outline, rectangle, spheres, triple

from sgm.reconstruct.dmtet import raster_gradients, rasterizer
from sgm.views.cameras import camera_to_world, rays


def cast(vertices, faces, origin, direction):
    """The nearest outward face met by a ray, by trying all (Moeller and Trumbore 1997) -> number or -1, distance."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    u, v = b - a, c - a
    p = np.cross(direction, v)
    det = np.einsum("ni,ni->n", u, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.einsum("ni,ni->n", origin - a, p) / det
        q = np.cross(origin - a, u)
        t = (q @ direction) / det
        distance = np.einsum("ni,ni->n", v, q) / det
        hit = (det > 0) & (s >= 0) & (t >= 0) & (s + t <= 1) & (distance > 0)
    if not hit.any():
        return -1, np.inf
    best = np.where(hit, distance, np.inf).argmin()
    return best, distance[best]


def test_ids_are_those_of_brute_force_ray_casting():
    vertices, faces, _ = extract(spheres(12, ((0, 0.1, 0), 0.3), ((0.3, -0.15, 0.1), 0.17)))
    vertices = vertices.astype(np.float64)
    width, height, intrinsics = 44, 30, np.array([60.0, 52.0, 19.3, 17.8])      # neither square nor centerd
    c2w = camera_to_world(20.0, 25.0, 1.8)
    ids, depth = rasterizer.face_ids(vertices, faces, c2w, intrinsics, width, height)
    assert ids.shape == depth.shape == (height, width)
    directions = rasterizer.pixel_rays(np.arange(width * height), width, c2w, intrinsics).astype(np.float64)
    seen = 0
    for k, direction in enumerate(directions):
        number, distance = cast(vertices, faces, c2w[:3, 3], direction)
        found = ids.reshape(-1)[k]
        if found != number:         # on an edge both faces are right; at an outline a ray may pass by
            assert found >= 0 and number >= 0, k
        if number >= 0:
            seen += 1
            assert depth.reshape(-1)[k] == pytest.approx(distance, rel=1e-5)
    assert 200 < seen < 1000


def test_rays_of_pixels_are_those_of_the_cameras():
    c2w = camera_to_world(50.0, -20.0, 2.0)
    _, unit = rays(c2w, 40, 30, 50.0, 18.0, 16.0)
    ours = rasterizer.pixel_rays(np.arange(1200), 40, c2w, np.array([50.0, 50.0, 18.0, 16.0]))
    np.testing.assert_allclose(ours / np.linalg.norm(ours, axis=1, keepdims=True), unit.reshape(-1, 3), atol=1e-6)
    np.testing.assert_allclose(ours @ -c2w[:3, 2], 1, atol=1e-6)


def on_device(edge, vertices, c2w):
    eye = triple(np.broadcast_to(c2w[:3, 3], (len(edge.near), 3)))
    p, q = (triple(vertices[edge.ends[:, i]]) for i in (0, 1))
    return raster_gradients.place(p, q, eye, [triple(edge.functionals[:, 3 * i:3 * i + 3]) for i in range(3)])


def test_outline_of_a_rectangle_by_hand():
    vertices, faces = rectangle(20.3 / FOCAL * 2, 10.6 / FOCAL * 2)       # from 51.7 to 92.3 and 61.4 to 82.6 pixels
    ids, _, edge = found_outline(vertices, faces)
    rows, columns = np.nonzero(ids >= 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (61, 82, 52, 91)
    assert len(edge.near) == 2 * (22 + 40)
    np.testing.assert_allclose(edge.across, 1, atol=1e-6)
    place = on_device(edge, vertices, FRONT).asnumpy()
    np.testing.assert_allclose(place, edge.place, atol=2e-4)
    for step, where in ((-1, 52.5 - 51.7), (1, 92.3 - 91.5), (-SIZE, 61.5 - 61.4), (SIZE, 82.6 - 82.5)):
        np.testing.assert_allclose(edge.place[edge.far - edge.near == step], where, atol=1e-6)


def test_inner_outlines_but_no_creases():
    front, faces = rectangle(0.1, 0.1, 0.3)
    back, _ = rectangle(0.3, 0.3, -0.1)
    vertices, faces = np.concatenate([back, front]), np.concatenate([faces, faces + 4])
    ids, depth, edge = found_outline(vertices, faces)
    inner = ids.reshape(-1)[edge.far] >= 0
    assert inner.any() and (~inner).any()
    assert (ids.reshape(-1)[edge.near[inner]] >= 2).all() and (ids.reshape(-1)[edge.far[inner]] < 2).all()
    fold = np.array([(0, -0.3, -0.3), (0, -0.3, 0.3), (0.3, 0, -0.3), (0.3, 0, 0.3), (0, 0.3, -0.3), (0, 0.3, 0.3)], float)
    ids, depth, edge = found_outline(fold, np.array([[0, 2, 3], [0, 3, 1], [2, 4, 5], [2, 5, 3]], np.int32))
    assert (ids.reshape(-1)[edge.far] == -1).all()                        # the crease towards the camera is no outline
