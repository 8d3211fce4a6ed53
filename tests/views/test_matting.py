"""Cutting out objects: by transparency, by the border, by rembg, from white."""
import sys
import types

import cv2
import numpy as np
import pytest
from PIL import Image
from support.paths import GOLDEN
from support.pictures import disc

from sgm.views import matting as mattes
from sgm.views.images import ImageError
from sgm.views.matting import alpha_from_white, matte

VIEWS = sorted((GOLDEN / "views").glob("*.png"))


def iou(first, second):
    first, second = first[..., 3] > 127, second[..., 3] > 127
    return (first & second).sum() / (first | second).sum()


def over(rgba, background):
    alpha = rgba[..., 3:] / 255
    return np.clip(rgba[..., :3] * alpha + background * (1 - alpha), 0, 255).astype(np.uint8)


def test_alpha_is_used_if_there_is_any():
    image = Image.fromarray(disc())
    cut, how, _ = matte(image)
    assert how.startswith("alpha") and cut.tobytes() == image.tobytes()
    with pytest.raises(ImageError, match="matte=alpha: .*matte=auto"):
        matte(Image.new("RGBA", (32, 32), "red"), "alpha")
    with pytest.raises(ImageError, match="matte: found 'magic', expected one of auto, alpha"):
        matte(image, "magic")


@pytest.mark.parametrize("background", ["white", "grey", "gradient", "wood"])
def test_border_matte(background):
    size = 160
    rgba = disc(size, 45, (190, 120, 40), (85, 74))
    y, x = np.mgrid[:size, :size] / size
    noise = np.random.RandomState(0).normal(0, 2, (size, size, 3))
    grain = 30 * np.sin(60 * y + 9 * np.sin(5 * x))
    ground = {"white": np.full_like(noise, 255), "grey": 128 + noise, "gradient": (230 - 60 * y)[..., None] + noise,
              "wood": np.stack([120 + grain, 60 + grain, 90 + 0 * x], axis=-1) + 3 * noise}[background]
    photo = Image.fromarray(over(rgba, ground))
    cut, how, _ = matte(photo)
    assert how == f"border: {'GrabCut' if background == 'wood' else 'plain background'} (rembg is not installed)"
    assert iou(np.asarray(cut), rgba) > 0.97
    colours = np.asarray(cut)[np.asarray(cut)[..., 3] > 30][:, :3]
    assert np.abs(colours - np.array([190., 120, 40])).mean() < 4     # nothing of the background is left in the edge
    assert matte(photo, "border")[0].tobytes() == cut.tobytes()


def test_large_images_are_reduced():
    rgba = np.asarray(Image.fromarray(disc(375, 112)).resize((1500, 1500)))
    cut, *_ = matte(Image.fromarray(over(rgba, 255)))
    assert cut.size == (mattes.MATTE_SIDE, mattes.MATTE_SIDE)
    assert iou(np.asarray(cut), np.asarray(Image.fromarray(rgba).resize(cut.size))) > 0.985


@pytest.mark.parametrize("image", [
    Image.new("RGB", (100, 100), (200, 200, 200)), Image.new("RGB", (8, 8)), Image.new("RGB", (16, 4000), "red"),
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (60, 90, 3), np.uint8)),
])
def test_no_object(image):
    with pytest.raises(ImageError, match="no object found|needs 16 x 16"):
        matte(image)


def test_rembg_is_optional(monkeypatch):
    photo = Image.fromarray(over(disc(64), 255))
    with pytest.raises(ImageError, match="rembg is not installed; pip install rembg"):
        matte(photo, "rembg")

    def no_model(_):
        raise OSError("no network\nat all")
    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(remove=no_model))
    cut, how, _ = matte(photo)
    assert how == "border: plain background (rembg does not work here: no network)"
    assert iou(np.asarray(cut), disc(64)) > 0.97
    with pytest.raises(ImageError, match="matte=rembg: rembg does not work here: no network"):
        matte(photo, "rembg")
    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(remove=lambda image: Image.fromarray(disc(64, 10))))
    cut, how, doubt = matte(photo)
    assert how == "rembg" and cut.tobytes() == disc(64, 10).tobytes()
    assert "of its outline have no sharp edge" in doubt     # the object's radius is 20


@pytest.mark.parametrize("file", VIEWS, ids=lambda f: f.stem)
@pytest.mark.parametrize("noise", [0, 2, 5])
def test_silhouette_of_a_view_on_white(file, noise):
    truth = np.asarray(Image.open(file))
    frame = over(truth, 255).astype(np.float64) + np.random.RandomState(0).normal(0, noise, truth.shape[:2] + (3,))
    cut = alpha_from_white(np.clip(frame, 0, 255).astype(np.uint8))
    assert iou(cut, truth) > 0.985
    assert (cut[cut[..., 3] == 0] == (255, 255, 255, 0)).all()
    edge = (truth[..., 3] > 100) & (truth[..., 3] < 255) & (cut[..., 3] > 100)
    assert np.abs(cut[edge][:, :3].astype(int) - truth[edge][:, :3]).mean() < 20 + 2 * noise


@pytest.mark.parametrize("size, least", [(64, 0.95), (128, 0.98)])
@pytest.mark.parametrize("file", VIEWS, ids=lambda f: f.stem)
def test_silhouette_of_small_views(file, size, least):
    truth = np.asarray(Image.open(file).resize((size, size), Image.BOX))
    assert iou(alpha_from_white(over(truth, 255)), truth) > least


def test_blurred_views():
    truth = np.asarray(Image.open(VIEWS[0]))
    frame = cv2.GaussianBlur(over(truth, 255), (0, 0), 1.5)
    assert iou(alpha_from_white(frame), truth) > 0.98


def test_white_inside_the_object_stays_opaque():
    rgba = disc(128, 50, (40, 60, 160))
    rgba[50:80, 50:80, :3] = 251       # a white label: near the background, not the background
    cut = alpha_from_white(over(rgba, 255))
    assert (cut[50:80, 50:80, 3] == 255).all() and iou(cut, rgba) > 0.99
    rgba[50:80, 50:80, 3] = 0          # a hole
    assert iou(alpha_from_white(over(rgba, 255)), rgba) > 0.99
    rgba[50:80, 50:80] = 255
    rgba[66:68, 66:68] = 255           # a highlight is too small for a hole
    small = disc(128, 50, (40, 60, 160))
    small[66:68, 66:68, :3] = 255
    assert (alpha_from_white(over(small, 255))[66:68, 66:68, 3] == 255).all()


def test_silhouette_edges_are_soft_and_clean():
    truth = disc(128, 40.3, (180, 40, 40))
    cut = alpha_from_white(over(truth, 255))
    assert np.abs(cut[..., 3].astype(int) - truth[..., 3]).mean() < 0.7
    assert np.abs(cut[cut[..., 3] > 40][:, :3] - np.array([180., 40, 40])).max() < 40


def test_nothing_and_everything():
    assert alpha_from_white(np.full((32, 32, 3), 255, np.uint8))[..., 3].max() == 0
    assert alpha_from_white(np.zeros((32, 32, 3), np.uint8))[..., 3].min() == 255
    noise = np.random.RandomState(0).normal(253, 2, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    assert alpha_from_white(noise)[..., 3].max() == 0


def test_an_alpha_that_cuts_nothing_out_is_no_matte():
    photo = over(disc(200, 60, (190, 120, 40)), 255)
    y, x = np.mgrid[:200, :200] - 99.5
    round_corners = np.where(np.abs(x) + np.abs(y) > 184, 0, 255)                   # 1.2 % of the picture
    specks = np.where((np.mod(x - 0.5, 20) == 0) & (np.mod(y - 0.5, 20) == 0), 0, 255)
    for alpha in (round_corners, specks):
        cut, how, _ = matte(Image.fromarray(np.dstack([photo, alpha.astype(np.uint8)])))
        assert how.startswith("border") and iou(np.asarray(cut), disc(200, 60)) > 0.97
    # cut-outs that fill their picture: a disc, a box with a margin, a bust that reaches three sides
    disc_alpha = np.where(np.hypot(x, y) < 99, 255, 0)
    margin = np.where(np.maximum(np.abs(x), np.abs(y)) < 96, 255, 0)
    bust = np.where((y > -50) | (np.abs(x) < 40), 255, 0)
    for alpha in (disc_alpha, margin, bust):
        image = Image.fromarray(np.dstack([photo, alpha.astype(np.uint8)]))
        cut, how, _ = matte(image)
        assert how.startswith("alpha") and cut.tobytes() == image.tobytes()
    corners = Image.fromarray(np.dstack([photo, round_corners.astype(np.uint8)]))
    assert matte(corners, "alpha")[1].startswith("alpha")           # as asked for


def test_dust_is_cleared_and_nothing_else():
    rgba = disc(256, 60)
    dusty = rgba.copy()
    dusty[..., 3] = np.maximum(dusty[..., 3], np.random.RandomState(0).randint(0, 4, (256, 256)))
    dusty[20, 30:32, 3], dusty[240, 250, 3] = 255, 9                # specks
    cleared = np.asarray(mattes.without_dust(Image.fromarray(dusty)))
    away = np.hypot(*(np.mgrid[:256, :256] - 127.5)) > 70
    assert (cleared[..., 3][away] == 0).all() and np.abs(cleared[..., 3].astype(int) - rgba[..., 3]).max() <= 3
    np.testing.assert_array_equal(cleared[..., :3], rgba[..., :3])
    # a part of its own, a soft edge, a soft shadow and a picture of nothing but specks stay
    parts = rgba.copy()
    parts[20:24, 30:34] = 200, 30, 30, 255
    soft = rgba.copy()
    soft[..., 3] = cv2.GaussianBlur(rgba[..., 3], (0, 0), 1.5)
    shadow = rgba.copy()
    shadow[..., 3] = np.maximum(rgba[..., 3], cv2.GaussianBlur(np.roll(rgba[..., 3] // 2, 30, axis=1), (0, 0), 8))
    shadow[shadow[..., 3] <= mattes.FAINT, 3] = 0
    few = np.zeros_like(rgba)
    few[[50, 60], [50, 60]] = 255
    for image in map(Image.fromarray, (rgba, parts, soft, shadow, few)):
        assert mattes.without_dust(image) is image


@pytest.mark.parametrize("most", [3, 20, 40])
def test_haze_all_over_a_picture_is_dust(most):
    object_ = disc(100, 30)
    noise = np.random.RandomState(0).randint(0, most + 1, (100, 100)).astype(np.uint8)
    hazy = object_.copy()
    hazy[..., 3] = np.maximum(noise, object_[..., 3])
    cut = mattes.without_dust(Image.fromarray(hazy))
    assert cut.getchannel("A").getbbox() == Image.fromarray(object_).getchannel("A").getbbox()
