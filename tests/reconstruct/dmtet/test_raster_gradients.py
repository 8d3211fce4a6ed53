"""The rasterizer's half on the device: depth and normals against the renderer and the objects' ground truth, gradients of
silhouettes against finite differences."""
import cv2
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support.goldens import GOLDEN
from support.surfaces import (
    CENTERED,
    FRONT,
    SIZE,
    extract,
    found_outline,
    rectangle,
    spheres,
    triple,
)

from sgm.geometry import topology
from sgm.geometry.mesh import Mesh
from sgm.reconstruct.dmtet import marching_tets, raster_gradients, rasterizer, tet_grid
from sgm.render.zbuffer import render_geometry
from sgm.views.cameras import camera_to_world, focal_length


def together(vectors):
    return np.stack([v.asnumpy() for v in vectors], axis=-1)


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
