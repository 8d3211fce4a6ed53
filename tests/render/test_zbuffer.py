"""The renderer against pictures computed by hand."""
import numpy as np
import pytest
from support.drawing import FOCAL, FRONT, SIZE, picture

from sgm.geometry.mesh import Material, Mesh, linear_from_srgb, merge, srgb_from_linear
from sgm.render.primitives import rotated
from sgm.render.zbuffer import Lighting, pack, render_geometry
from sgm.views.cameras import FOV_DEG, camera_to_world, focal_length, rays


def quad(corners, **more):
    return Mesh(np.array(corners, float), np.array([[0, 1, 2], [0, 2, 3]]), **more)


def upright(y, z, x=0.0, **more):
    """A rectangle of half sizes y, z in the plane x, square to the camera FRONT."""
    return quad([(x, -y, -z), (x, y, -z), (x, y, z), (x, -y, z)], **more)


def test_size_and_place_of_a_rectangle():
    half_y, half_z = 10 / FOCAL * 2, 6 / FOCAL * 2                   # 10 and 6 pixels at distance 2
    alpha = picture(upright(half_y, half_z))[..., 3]
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[26:38, 22:42] = 255
    assert (alpha == expected).all()


def test_axes_of_the_picture():
    right_top = quad([(0, 0.1, 0.1), (0, 0.3, 0.1), (0, 0.3, 0.3), (0, 0.1, 0.3)])     # +y is right, +z is up
    rows, cols = np.nonzero(picture(right_top)[..., 3])
    assert rows.max() < SIZE / 2 < cols.min()


def test_background_and_partial_coverage():
    image = picture(upright(10.5 / FOCAL * 2, 6 / FOCAL * 2, colors=np.full((4, 3), 0.6)))
    assert (image[0, 0] == (255, 255, 255, 0)).all()
    assert image[30, 30].tolist() == [153, 153, 153, 255]
    assert image[30, 21].tolist() == [153, 153, 153, 128]            # half covered: straight colour, half alpha


def test_supersamples_are_averaged_in_linear_light():
    black = upright(0.5, 0.5, colors=np.zeros((4, 3)))
    white = quad([(0.1, 0, -0.4), (0.1, 0.4, -0.4), (0.1, 0.4, 0.4), (0.1, 0, 0.4)])
    image = picture(merge([black, white]), size=SIZE + 1)             # odd: the edge y = 0 halves the middle column
    assert image[32, 30, 0] == 0 and image[32, 34, 0] == 255
    assert image[32, 32, 0] == 188                                    # srgb(0.5) = 0.735; averaging codes gives 128


@pytest.mark.parametrize("order", [1, -1])
def test_nearer_surface_hides_the_farther(order):
    red, blue = (upright(0.2, 0.2, x, colors=np.tile(c, (4, 1))) for x, c in ((0.3, (1, 0, 0)), (-0.3, (0, 0, 1))))
    assert picture(merge([red, blue][::order]))[32, 32].tolist() == [255, 0, 0, 255]


def test_depth_and_normals_facing_the_camera():
    for corners in ([(0, -1, -1), (0, 1, -1), (0, 1, 1), (0, -1, 1)], [(0, -1, 1), (0, 1, 1), (0, 1, -1), (0, -1, -1)]):
        depth, normals = render_geometry(quad(corners), FRONT, SIZE, FOV_DEG)
        np.testing.assert_allclose(depth, 2, atol=1e-6)               # z-depth, not the length of the ray
        np.testing.assert_allclose(normals, np.broadcast_to((1, 0, 0), normals.shape), atol=1e-6)


def test_perspective_correct_colour_of_a_slanted_surface():
    # x + z = 0: far at the top.  Red grows with z in space; the ray's own intersection tells the true value.
    mesh = quad([(0.4, -0.5, -0.4), (0.4, 0.5, -0.4), (-0.4, 0.5, 0.4), (-0.4, -0.5, 0.4)],
                colors=srgb_from_linear(np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]], float)))
    image = picture(mesh, supersample=1)
    origins, directions = rays(FRONT, SIZE, SIZE, FOCAL)
    along = -(origins[..., 0] + origins[..., 2]) / (directions[..., 0] + directions[..., 2])
    z = (origins + along[..., None] * directions)[..., 2]
    hit = image[..., 3] > 0
    assert hit.sum() > 500
    np.testing.assert_allclose(linear_from_srgb(image[hit][:, 0] / 255), (z[hit] + 0.4) / 0.8, atol=0.01)


def test_surface_through_the_camera_plane():
    floor = quad([(-50, -50, -0.3), (50, -50, -0.3), (50, 50, -0.3), (-50, 50, -0.3)])
    alpha = picture(floor)[..., 3]
    assert (alpha[36:] == 255).all() and (alpha[:32] == 0).all()
    behind = upright(0.5, 0.5, x=3.0)
    assert (picture(behind)[..., 3] == 0).all()


def test_no_cracks_between_triangles():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 12), np.linspace(-0.5, 0.5, 12), indexing="ij"), -1)
    grid[1:-1, 1:-1] += rng.uniform(-0.03, 0.03, (10, 10, 2))
    vertices = np.concatenate([rng.uniform(-0.01, 0.01, (144, 1)), grid.reshape(-1, 2)], 1)
    k = np.arange(144).reshape(12, 12)
    a, b, c, d = (s.reshape(-1) for s in (k[:-1, :-1], k[1:, :-1], k[1:, 1:], k[:-1, 1:]))
    mesh = Mesh(vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    alpha = picture(mesh, size=200)[..., 3]
    inside = alpha[40:160, 40:160]
    assert (inside == 255).all()


def test_texture_orientation_filter_and_factor():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0], pixels[0, 1], pixels[1, 0] = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
    mesh = upright(0.4, 0.4, uv=np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float),
                   materials=(Material((1, 1, 1, 1), pixels),))
    image = picture(mesh, size=256)
    near = int(focal_length(256) * 0.2 / 2)                           # the centres of the four texels
    assert image[128 - near, 128 - near, :3].argmax() == 0            # v = 1 is the picture's top row
    assert image[128 - near, 128 + near, :3].argmax() == 1
    assert image[128 + near, 128 - near, :3].argmax() == 2
    middle = linear_from_srgb(image[128, 128, :3] / 255)
    np.testing.assert_allclose(middle, [0.25, 0.25, 0.25], atol=0.03)  # bilinear, in linear light
    mesh.materials = (Material((0.5, 1, 1, 1), pixels),)
    assert picture(mesh, size=256)[128 - near, 128 - near, 0] == pytest.approx(128, abs=3)


@pytest.mark.parametrize("shape", [(1030, 514), (1025, 7), (600, 1), (2, 1500)])
def test_large_textures_are_halved_as_a_whole(shape):
    """They are made floats in strips; means of four are the same as of the whole picture."""
    texture = np.random.RandomState(0).randint(0, 256, (*shape, 4)).astype(np.uint8)
    mesh = Mesh(np.eye(3), [[0, 1, 2]], uv=np.zeros((3, 2), np.float32), materials=(Material(texture=texture),))
    expected = np.concatenate([linear_from_srgb(texture[..., :3] / np.float32(255)), texture[..., 3:] / np.float32(255)], -1)
    while max(expected.shape[:2]) > 3 * 100 and min(expected.shape[:2]) > 1:
        height, width = expected.shape[0] // 2, expected.shape[1] // 2
        expected = expected[:2 * height, :2 * width].reshape(height, 2, width, 2, 4).mean((1, 3))
    packed = pack(mesh, 100)
    assert packed.texture[0].tolist() == [1, expected.shape[1], expected.shape[0]]
    np.testing.assert_allclose(packed.texels[1:], expected.reshape(-1, 4), atol=1e-5)


def test_masked_texture_makes_holes():
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[:, :2, 3] = 0
    uv = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    front = upright(0.3, 0.3, 0.2, uv=uv, materials=(Material(texture=pixels, alpha_cutoff=0.5),))
    behind = upright(0.3, 0.3, 0.0, colors=np.tile((1, 0, 0), (4, 1)))
    image = picture(merge([front, behind]))
    assert image[32, 26, :3].tolist() == [255, 0, 0] and image[32, 38, :3].tolist() == [255, 255, 255]


def test_lambert_light_from_the_world():
    light = Lighting(ambient=0.2, key=0.5, key_direction=(1, 0, 0), fill=0, fill_direction=(0, 0, 1), sky=0)
    facing = picture(upright(0.2, 0.2), lighting=light)[32, 32, 0]
    assert linear_from_srgb(facing / 255) == pytest.approx(0.7, abs=0.005)
    tilted = quad([(0, -0.3, 0), (0.3, 0, 0), (0.3, 0, 0.3), (0, -0.3, 0.3)])        # normal (1, -1, 0) / sqrt 2
    value = picture(tilted, lighting=light)[30, 28, 0]
    assert linear_from_srgb(value / 255) == pytest.approx(0.2 + 0.5 * np.sqrt(0.5), abs=0.005)


def test_highlight_of_a_light_that_moves_with_the_camera():
    """On a black wall: gloss cos^sharpness of half the angle between light and camera, wherever the camera stands."""
    wall = upright(0.5, 0.5, colors=np.zeros((4, 3)))
    lighting = Lighting(gloss=0.5, sharpness=8, gloss_direction=(0, 0, 2))
    level = picture(wall, SIZE + 1, lighting=lighting)[:, :, 0]
    assert level[32, 32] == 188                                         # srgb(0.5)
    x = 20 / focal_length(SIZE + 1)                                     # 20 pixels to the side: that angle's tangent
    expected = 0.5 * np.cos(np.arctan(x) / 2) ** 8
    assert level[32, 52] == level[32, 12] == pytest.approx(255 * float(srgb_from_linear(expected)), abs=1)
    # 60 degrees to the right, and a camera and a wall that are turned alike
    aside = Lighting(gloss=0.5, sharpness=8, gloss_direction=(np.sqrt(3), 0, 1))
    turned = picture(rotated(wall, 40), SIZE + 1, camera_to_world(40.0, 0.0, 2.0), aside)[:, :, 0]
    assert turned[32, 32] == pytest.approx(255 * float(srgb_from_linear(0.5 * 0.75 ** 4)), abs=1)
    assert turned[32, 12] < turned[32, 32] < turned[32, 52]             # there the camera is seen to the left of the normal
