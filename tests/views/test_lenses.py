"""Lenses: what files say of them, and pictures through them as a pinhole would see them."""
import cv2
import numpy as np
import pytest

from sgm.views.cameras import CameraError
from sgm.views.lenses import Lens, common_pinhole, merged, read_lens, resampled

PLAIN = {"w": 120, "h": 100, "fl_x": 110.0, "fl_y": 110.0, "cx": 62.0, "cy": 49.0}
NAMES = "k1 k2 p1 p2 k3 k4 k5 k6".split()
CENTRE, RADIUS = np.array([0.08, -0.05]), 0.3       # of a disc at depth 1


def lens_of(**fields):
    return read_lens("there", {**PLAIN, **fields})


def disc_through(matrix, undistort, size=(120, 100), fine=5):
    """The disc by a lens, premultiplied RGBA; undistort(pixels (N, 1, 2)) is OpenCV's own."""
    w, h = size
    x, y = np.meshgrid((np.arange(w * fine) + 0.5) / fine, (np.arange(h * fine) + 0.5) / fine)
    rays = undistort(np.stack([x, y], -1).reshape(-1, 1, 2), matrix).reshape(-1, 2)
    inside = (np.hypot(*(rays - CENTRE).T) < RADIUS).reshape(h, fine, w, fine).mean((1, 3))
    return np.dstack([inside, inside / 2, inside * 0, inside]).astype(np.float32)


def perspective(coefficients):
    return lambda pixels, matrix: cv2.undistortPointsIter(pixels, matrix, np.array(coefficients, float), None, None,
                                                          (3, 200, 1e-12))


def fisheye(coefficients):
    return lambda pixels, matrix: cv2.fisheye.undistortPoints(pixels, matrix, np.array(coefficients, float))


@pytest.mark.parametrize("fields, undistort", [
    (dict(zip(NAMES, (0.08, -0.12, 0.001, -0.0008))), perspective([0.08, -0.12, 0.001, -0.0008])),        # a phone
    (dict(zip(NAMES, (-0.25, 0.08, 0.002, -0.001, -0.01)), camera_model="OPENCV"),
     perspective([-0.25, 0.08, 0.002, -0.001, -0.01])),
    ({"distortion_params": [-0.25, 0.06, 0.01, 0, 0.001, 0.002]}, perspective([-0.25, 0.06, 0.001, 0.002, 0.01])),
    ({"camera_model": "FULL_OPENCV", **dict(zip(NAMES, (0.1, 0.05, 0.001, 0, 0.02, 0.3, 0.1, 0.02)))},
     perspective([0.1, 0.05, 0.001, 0, 0.02, 0.3, 0.1, 0.02])),
    ({"camera_model": "SIMPLE_RADIAL", "k1": -0.1}, perspective([-0.1, 0, 0, 0])),
    ({"camera_model": "OPENCV_FISHEYE", "k1": 0.05, "k2": -0.02, "k3": 0.004, "k4": -0.0005},
     fisheye([0.05, -0.02, 0.004, -0.0005])),
    ({"is_fisheye": True, "k1": 0.0, "fl_x": 60.0, "fl_y": 60.0}, fisheye([0, 0, 0, 0])),
    ({"fl_y": 60.0}, perspective([0, 0, 0, 0])),                    # pixels that are not square
], ids=["phone", "barrel", "nerfstudio", "rational", "simple_radial", "fisheye", "instant-ngp", "oblong"])
def test_a_disc_through_a_lens_is_a_pinholes(fields, undistort):
    lens = lens_of(**fields)
    matrix = np.array([[lens.fl_x, 0, lens.cx], [0, lens.fl_y, lens.cy], [0, 0, 1]])
    target = common_pinhole([lens], 576)
    found, known = resampled(disc_through(matrix, undistort), None, lens, target)
    assert not lens.is_pinhole and found.shape == (target.height, target.width, 4) and target.fl_x == target.fl_y
    alpha = found[..., 3].astype(np.float64)
    assert np.sqrt(alpha.sum() / np.pi) / target.fl_x == pytest.approx(RADIUS, rel=0.002)
    middle = [(alpha * axis).sum() / alpha.sum() for axis in np.mgrid[:target.height, :target.width] + 0.5]
    np.testing.assert_allclose([(middle[1] - target.cx) / target.fl_x, (middle[0] - target.cy) / target.fl_y], CENTRE,
                               atol=0.05 / target.fl_x)
    assert (found[~known] == 0).all() and known[int(middle[0]), int(middle[1])]
    # an uneven number of pixels on either side of the disc: no pixel that the lens showed is lost
    assert known.sum() / target.fl_x ** 2 > 0.97 * min(120 * 100 / (lens.fl_x * lens.fl_y), 3.0)


def test_what_a_lens_does_not_show_is_not_known():
    lens = lens_of(k1=-0.4)                     # folds back at a tangent of sqrt(1 / 1.2)
    white = np.ones((100, 120, 4), np.float32)
    target = Lens(400, 400, 110.0, 110.0, 200.0, 200.0)
    x, y = np.meshgrid((np.arange(400) + 0.5 - 200) / 110, (np.arange(400) + 0.5 - 200) / 110)
    _, known = resampled(white, None, lens, target)
    assert known[200, 200] and not known[np.hypot(x, y) > np.sqrt(1 / 1.2)].any()
    crop = lens_of(is_fisheye=True, fisheye_crop_radius=30)
    _, known = resampled(white, None, crop, target)
    angle = np.arctan(np.hypot(110 * x + 2, 110 * y - 1) / 110)       # from the picture's middle, near enough
    assert known[angle < 0.25].all() and not known[angle > 0.3].any()
    given = np.ones((100, 120), bool)
    given[:50] = False                          # a mask of the picture comes along
    _, known = resampled(white, given, lens_of(), Lens(120, 100, 110.0, 110.0, 62.0, 49.0))
    assert not known[:50].any() and known[51:].all()


def test_large_pictures_are_reduced_without_aliasing():
    stripes = np.tile((np.arange(1200) % 2)[None, :, None], (1000, 1, 4)).astype(np.float32)
    lens = lens_of(w=1200, h=1000, fl_x=1100.0, fl_y=1100.0, cx=620.0, cy=490.0, k1=0.05)
    found, known = resampled(stripes, None, lens, common_pinhole([lens], 60))
    np.testing.assert_allclose(found[known], 0.5, atol=0.06)


@pytest.mark.parametrize("fields, words", [
    ({"camera_model": "EQUIRECTANGULAR"}, "camera_model is 'EQUIRECTANGULAR'; expected a pinhole or one of SIMPLE_RADIAL"),
    ({"camera_model": "THIN_PRISM_FISHEYE"}, "THIN_PRISM_FISHEYE"),
    ({"camera_model": 3}, "camera_model is 3"),
    ({"is_fisheye": "false"}, "is_fisheye is 'false'; expected true or false"),
    ({"camera_model": "OPENCV", "is_fisheye": True}, "is_fisheye is true, but camera_model is OPENCV"),
    ({"camera_model": "PINHOLE", "k1": 0.1}, "k1 is 0.1, which camera_model PINHOLE does not have"),
    ({"k4": 0.1}, "k4 is 0.1, which only camera_model FULL_OPENCV has"),
    ({"k5": 0.1}, "k5 is 0.1"),
    ({"is_fisheye": True, "p1": 0.1}, "p1 is 0.1, which a fisheye does not have"),
    ({"distortion_params": [0.1, 0.2, 0.01, 0.02]}, "distortion_params has 4 numbers; expected the six"),
    ({"distortion_params": [0.1, 0, 0, 0, 0, 0], "k1": 0.2}, "says k1 = 0.1, but k1 is 0.2"),
    ({"distortion_params": "0.1"}, "distortion_params is '0.1'"),
    ({"k1": "0.1"}, "k1 is '0.1'"),
    ({"camera_angle_x": 0.6}, "camera_angle_x is 0.6, a focal length of 194.0 pixels, but fl_x is 110.0"),
    ({"y_fov": 30.0}, "y_fov is 30, .*fl_y is 110.0"),
    ({"camera_angle_x": 52.0}, "camera_angle_x is 52; expected radians"),
    ({"fl_x": 1.2, "fl_y": 1.2}, "nearly 180 degrees; expected pixels"),
    ({"cx": 0.5, "cy": 0.5}, "cx 0.5, cy 0.5 .*not shares"),
    ({"w": 1e9}, "w 1e\\+09"),
    ({"fisheye_crop_radius": -3}, "fisheye_crop_radius is -3"),
])
def test_a_lens_that_is_not_known_or_contradicts_itself(fields, words):
    with pytest.raises(CameraError, match=f"^there: .*{words}"):
        lens_of(**fields)


def test_focal_lengths_from_angles():
    size = {"w": 120, "h": 100}
    of = lambda **fields: read_lens("there", {**size, **fields})        # noqa: E731
    wide, tall = 2 * np.arctan(60 / 110), 2 * np.arctan(50 / 90)
    lens = of(camera_angle_x=wide, camera_angle_y=tall)
    assert (lens.fl_x, lens.fl_y) == pytest.approx((110, 90)) and (lens.cx, lens.cy) == (60, 50) and not lens.is_pinhole
    assert of(camera_angle_x=wide).fl_y == pytest.approx(110) and of(camera_angle_y=tall).fl_x == pytest.approx(90)
    assert of(x_fov=np.degrees(wide)).is_pinhole and of(fl_x=110.0).fl_y == 110
    assert of(camera_angle_y=tall, is_fisheye=True, fl_x=70.0).fl_y == 70
    with pytest.raises(CameraError, match="fisheye and has no fl_x"):
        of(camera_angle_x=wide, is_fisheye=True)
    # the orders of OpenCV and nerfstudio are one here
    assert lens_of(distortion_params=[0.1, 0.2, 0, 0]).distortion == (0.1, 0.2, 0, 0, 0)


def test_top_level_and_frames():
    assert merged("a.json", 3, PLAIN, {"fl_x": 110.05, "k1": 0.1})["fl_x"] == 110.05      # rounding: the frame's own
    with pytest.raises(CameraError, match=r"a.json: frames\[3\] has fl_x 140.0, but 110.0 stands next to frames"):
        merged("a.json", 3, PLAIN, {"fl_x": 140.0})
    with pytest.raises(CameraError, match="camera_model"):
        merged("a.json", 3, {"camera_model": "OPENCV"}, {"camera_model": "PINHOLE"})


def test_frames_of_several_lenses_share_a_pinhole():
    """A phone's autofocus, another size, and a picture taken upright: what is shown stands where it did."""
    lenses = [lens_of(), lens_of(fl_x=110.3, fl_y=110.3), lens_of(w=60, h=50, fl_x=55.0, fl_y=55.0, cx=31.0, cy=24.5),
              lens_of(w=100, h=120, cx=50.0, cy=58.0)]
    assert lenses[0].is_like(lenses[2]) and not lenses[0].is_like(lenses[1])
    target = common_pinhole(lenses, 576)
    for lens in lenses:
        matrix = np.array([[lens.fl_x, 0, lens.cx], [0, lens.fl_y, lens.cy], [0, 0, 1]])
        found, _ = resampled(disc_through(matrix, perspective([0, 0, 0, 0]), (lens.width, lens.height)), None, lens, target)
        alpha = found[..., 3].astype(np.float64)
        assert np.sqrt(alpha.sum() / np.pi) / target.fl_x == pytest.approx(RADIUS, rel=0.003)
        assert (alpha.sum(0) * (np.arange(target.width) + 0.5 - target.cx)).sum() / alpha.sum() == pytest.approx(
            CENTRE[0] * target.fl_x, abs=0.05)
    assert common_pinhole(lenses, 64).width <= 64


def test_a_lens_that_shows_nothing():
    with pytest.raises(CameraError, match="shows nothing in 120 x 100 pixels; check its numbers"):
        common_pinhole([lens_of(cx=1e5, k1=0.1)], 64)
