"""The rasterizer: ids against ray casting, depth and normals against the renderer and the objects' ground truth,
outlines by hand, gradients of silhouettes against finite differences."""
import cv2
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support.goldens import GOLDEN

from sgm.geometry import topology
from sgm.geometry.mesh import Mesh
from sgm.reconstruct.dmtet import marching_tets, raster_gradients, rasterizer, tet_grid
from sgm.render.zbuffer import render_geometry
from sgm.views.cameras import camera_to_world, focal_length, rays

SIZE = 144
FOCAL = focal_length(SIZE)
CENTERED = np.array([FOCAL, FOCAL, SIZE / 2, SIZE / 2])
FRONT = camera_to_world(0.0, 0.0, 2.0)


def triple(array):
    """(N, 3) as three tensors."""
    return tuple(Tensor(np.ascontiguousarray(array[:, i], np.float32)) for i in range(3))


def together(vectors):
    return np.stack([v.asnumpy() for v in vectors], axis=-1)


def extract(sdf, half=0.55):
    """Vertices, faces and edges of a grid."""
    sdf = tet_grid.sealed(sdf, half)
    edges, faces = marching_tets.march(sdf)
    a, b = (tet_grid.positions(sdf.shape[0] - 1, half, edges[:, i]) for i in (0, 1))
    flat = sdf.reshape(-1)
    return marching_tets.crossings(flat[edges[:, 0]], flat[edges[:, 1]], a, b), faces, edges


def spheres(resolution, *balls):
    p = tet_grid.positions(resolution, 0.55).astype(np.float64)
    return np.min([np.linalg.norm(p - center, axis=1) - radius for center, radius in balls], axis=0).reshape(
        [resolution + 1] * 3)


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


def device_geometry(vertices, faces, normals, c2w, intrinsics, size):
    """Depth and interpolated normals of a picture through the device's half."""
    ids, _ = rasterizer.face_ids(vertices, faces, c2w, intrinsics, size, size)
    pixels = np.flatnonzero(ids.reshape(-1) >= 0)
    corners = faces[ids.reshape(-1)[pixels]]
    eye = np.broadcast_to(c2w[:3, 3], (len(pixels), 3))
    direction = rasterizer.pixel_rays(pixels, size, c2w, intrinsics)
    depth, of_b, of_c = raster_gradients.intersect(*(triple(vertices[corners[:, i]]) for i in range(3)), triple(eye),
                                         triple(direction))
    normal = raster_gradients.unit(raster_gradients.interpolate(*(triple(normals[corners[:, i]]) for i in range(3)), of_b, of_c))
    return pixels, depth.asnumpy(), together(normal)


def test_depth_and_normals_against_the_renderer():
    vertices, faces, _ = extract(spheres(24, ((0, 0, 0), 0.4)))
    mesh = Mesh(vertices.astype(float), faces.astype(int))
    corners = [Tensor(np.ascontiguousarray(faces[:, i])) for i in range(3)]
    normals = together(raster_gradients.vertex_normals(triple(vertices), corners, len(vertices)))
    radial = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    assert np.degrees(np.arccos(np.clip((normals * radial).sum(1), -1, 1))).max() < 8
    pixels, depth, normal = device_geometry(vertices, faces, radial, FRONT, CENTERED, SIZE)
    theirs, _ = render_geometry(mesh, FRONT, SIZE, 33.8)
    assert (np.flatnonzero(theirs > 0) == pixels).all()
    np.testing.assert_allclose(depth, theirs.reshape(-1)[pixels], rtol=2e-6)
    points = FRONT[:3, 3] + depth[:, None] * rasterizer.pixel_rays(pixels, SIZE, FRONT, CENTERED)
    np.testing.assert_allclose(normal, points / np.linalg.norm(points, axis=1, keepdims=True), atol=4e-3)


@pytest.mark.parametrize("name, view", [("panda", 4), ("panda", 20), ("mug", 4), ("mug", 20)])
def test_depth_and_normals_of_the_objects(name, view):
    """Every eighth pixel of the ground truth that came with the development objects."""
    meshes, truth = np.load(GOLDEN / "meshes.npz"), np.load(GOLDEN / "geometry.npz")
    vertices, faces = meshes[f"{name}_vertices"], meshes[f"{name}_faces"].astype(np.int32)
    true, normals = truth[f"{name}_{view}_depth"].reshape(-1), truth[f"{name}_{view}_normal"].reshape(-1, 3)
    intrinsics = np.array([focal_length(576), focal_length(576), 288, 288])
    pixels, depth, normal = device_geometry(vertices, faces, topology.vertex_normals(vertices, faces).astype(np.float32),
                                            truth[f"{name}_{view}_camera"], intrinsics, 576)
    every = np.flatnonzero((pixels // 576 % 8 == 0) & (pixels % 8 == 0))
    number = pixels[every] // 576 // 8 * 72 + pixels[every] % 576 // 8
    assert len(number) > 300 and (np.flatnonzero(true > 0) == number).all()
    np.testing.assert_allclose(depth[every], true[number], atol=1e-5)
    angle = np.degrees(np.arccos(np.clip((normal[every] * normals[number]).sum(1), -1, 1)))
    assert np.median(angle) < 2             # theirs weigh the faces round a vertex otherwise


def rectangle(half_y, half_z, x=0.0):
    vertices = np.array([(x, -half_y, -half_z), (x, half_y, -half_z), (x, half_y, half_z), (x, -half_y, half_z)], float)
    return vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def found_outline(vertices, faces, c2w=FRONT, intrinsics=CENTERED, size=SIZE):
    ids, depth = rasterizer.face_ids(vertices, faces, c2w, intrinsics, size, size)
    around = topology.face_neighbors(faces)
    return ids, depth, rasterizer.outline(vertices, faces, around, ids, depth, c2w, intrinsics)


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


class Silhouette:
    """sum of weight x antialiased color over a picture of spheres, and its gradient by the grid's values."""

    def __init__(self, size, colors, weight):
        self.size, self.colors, self.weight = size, colors, weight
        self.intrinsics = CENTERED * size / SIZE

    def parts(self, sdf, c2w):
        vertices, faces, edges = extract(sdf)
        ids, depth, edge = found_outline(vertices, faces, c2w, self.intrinsics, self.size)
        hit = ids.reshape(-1) >= 0
        point = c2w[:3, 3] + depth.reshape(-1, 1).clip(0, 9) * rasterizer.pixel_rays(np.arange(self.size ** 2), self.size, c2w,
                                                                               self.intrinsics)
        return vertices, edges, edge, np.where(hit, self.colors(point), 0).astype(np.float32)

    def exact(self, sdf, c2w, fine=8):
        """The same sum of the picture without antialiasing, fine times finer."""
        vertices, faces, _ = extract(sdf)
        n = self.size * fine
        ids, depth = rasterizer.face_ids(vertices, faces, c2w, self.intrinsics * fine, n, n)
        point = c2w[:3, 3] + depth.reshape(-1, 1).clip(0, 9) * rasterizer.pixel_rays(np.arange(n * n), n, c2w,
                                                                               self.intrinsics * fine)
        image = np.where(ids.reshape(-1) >= 0, self.colors(point), 0).reshape(n, n)
        weight = cv2.resize(self.weight, (n, n), interpolation=cv2.INTER_LINEAR)
        return float((image * weight).sum() / fine ** 2)

    def gradient(self, sdf, c2w):
        """-> antialiased picture (H, W), gradient of the weighted sum by the grid's values."""
        vertices, edges, edge, image = self.parts(sdf, c2w)
        grid = tet_grid.sealed(sdf, 0.55)
        side = len(grid) - 1
        ends = [grid.reshape(-1)[edges[:, i]] for i in (0, 1)]
        for i in (0, 1):
            ends += list(tet_grid.positions(side, 0.55, edges[:, i]).T)
        ends = [Tensor(np.ascontiguousarray(x, np.float32)) for x in ends]
        p, q, near, far = (Tensor(np.ascontiguousarray(x)) for x in (*edge.ends.T, edge.near, edge.far))
        receiver = Tensor(np.where(edge.place > 0.5, edge.far, edge.near).astype(np.int32))
        functionals = [triple(edge.functionals[:, 3 * i:3 * i + 3]) for i in range(3)]
        eye = triple(np.broadcast_to(c2w[:3, 3], (len(edge.near), 3)))
        weight, across, colors = Tensor(self.weight.reshape(-1, 1)), Tensor(edge.across), Tensor(image[:, None])

        def total(s_a, s_b):
            points = marching_tets.device_crossings((s_a, s_b, *ends[2:]))
            place = raster_gradients.place(raster_gradients.take(points, p), raster_gradients.take(points, q), eye, functionals)
            blended = raster_gradients.antialias(colors, near, far, receiver, across, place)
            return (blended * weight).sum(), blended

        (_, blended), (g_a, g_b) = ms.value_and_grad(total, (0, 1), has_aux=True)(*ends[:2])
        found = np.zeros(grid.size)
        np.add.at(found, edges[:, 0], g_a.asnumpy().astype(np.float64))
        np.add.at(found, edges[:, 1], g_b.asnumpy().astype(np.float64))
        return blended.asnumpy().reshape(self.size, self.size), found


def slope(size):
    """A weight that varies over the picture, so that a displacement counts, not only an area."""
    y, x = np.mgrid[:size, :size] / size
    return (1 + x + 0.5 * y).astype(np.float32)


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
def test_gradient_of_a_silhouette(size):
    scene = Silhouette(size, lambda p: np.ones(len(p)), slope(size))
    c2w = camera_to_world(33.0, 12.0, 2.0)
    sdf = spheres(32, ((0.02, 0.01, 0.0), 0.35))
    image, gradient = scene.gradient(sdf, c2w)
    for step in (1e-3, 4e-3):                       # d / d radius: every value falls by one
        ratio = -gradient.sum() / ((scene.exact(sdf - step, c2w) - scene.exact(sdf + step, c2w)) / (2 * step))
        assert 0.97 < ratio < 1.03, ratio
    # and of a shift along y, by the chain rule of values
    shift = (spheres(32, ((0.02, 0.011, 0), 0.35)) - spheres(32, ((0.02, 0.009, 0), 0.35))) / 0.002
    central = (scene.exact(spheres(32, ((0.02, 0.014, 0), 0.35)), c2w)
               - scene.exact(spheres(32, ((0.02, 0.006, 0), 0.35)), c2w)) / 0.008
    assert 0.97 < (gradient * shift.reshape(-1)).sum() / central < 1.03
    coverage = cv2.resize((rasterizer.face_ids(*extract(sdf)[:2], c2w, scene.intrinsics * 8, size * 8, size * 8)[0] >= 0)
                          .astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    rim = (coverage > 0) & (coverage < 1)
    assert np.sqrt(((image - coverage)[rim] ** 2).mean()) < 0.08
    np.testing.assert_allclose(image[~rim], coverage[~rim], atol=0.05)


def test_gradient_of_an_occluding_contour():
    """A small ball before a large one of another color: only colors tell them apart."""
    scene = Silhouette(2 * SIZE, lambda p: np.where(np.linalg.norm(p - (0.38, 0, 0), axis=1) < 0.125, 0.2, 1.0),
                       slope(2 * SIZE))
    c2w = camera_to_world(0.0, 5.0, 2.0)
    balls = [((-0.1, 0, 0), 0.38), ((0.38, 0, 0), 0.1)]

    def grid(radius):
        return spheres(40, balls[0], (balls[1][0], radius))

    _, gradient = scene.gradient(grid(0.1), c2w)
    step = 2e-3
    change = ((grid(0.1 + step) - grid(0.1 - step)) / (2 * step)).reshape(-1)
    central = (scene.exact(grid(0.1 + step), c2w) - scene.exact(grid(0.1 - step), c2w)) / (2 * step)
    assert central < 0 and 0.97 < (gradient * change).sum() / central < 1.03


def test_gradient_of_depth():
    vertices, faces = rectangle(0.3, 0.3)
    a, b, c = (triple(vertices[faces[:1, i].repeat(5)]) for i in range(3))
    eye = triple(np.tile([2.0, 0, 0], (5, 1)))

    def gradient(direction):
        direction = triple(np.tile(direction, (5, 1)))

        def depth(ax, bx, cx):
            return raster_gradients.intersect((ax, *a[1:]), (bx, *b[1:]), (cx, *c[1:]), eye, direction)[0].sum()

        return sum(float(g.asnumpy().sum()) for g in ms.grad(depth, (0, 1, 2))(a[0], b[0], c[0]))

    assert gradient([-1.0, 0.02, -0.05]) == pytest.approx(-5, rel=1e-5)       # the triangle comes towards the camera
    assert gradient([-0.05, 1.0, 0]) == 0                                     # seen from the side


def test_antialias_by_hand():
    colors = Tensor(np.array([[1.0], [0.0], [0.5]], np.float32))
    near, far = Tensor(np.array([0, 2], np.int32)), Tensor(np.array([1, 1], np.int32))
    across, place = Tensor(np.array([1, 0.5], np.float32)), Tensor(np.array([0.9, 0.1], np.float32))
    out = raster_gradients.antialias(colors, near, far, Tensor(np.array([1, 2], np.int32)), across, place)
    np.testing.assert_allclose(out.asnumpy(), [[1], [0.4], [0.4]], atol=1e-6)
