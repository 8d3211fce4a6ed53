"""Cutting out where the ground is no plain color: walls, shadows, white on white; doubts."""
import cv2
import numpy as np
import pytest
from PIL import Image
from support.pictures import disc

from sgm.views import matting, outline
from sgm.views.matting import matte
from sgm.views.preprocessing import prepare

SIZE = 240
Y, X = np.mgrid[:SIZE, :SIZE] / SIZE


def photo(ground, color, center=(120, 110), radius=55):
    """Return a disc on a ground (H, W) or (H, W, 3) with sensor noise, uint8, and its alpha."""
    rgba = disc(SIZE, radius, color, center)
    alpha = rgba[..., 3:] / 255
    ground = ground if ground.ndim == 3 else ground[..., None]
    noise = np.random.RandomState(0).normal(0, 1, (SIZE, SIZE, 3))
    return np.clip(rgba[..., :3] * alpha + ground * (1 - alpha) + noise, 0, 255).astype(np.uint8), \
        alpha[..., 0]


def shadow(strength):
    """Return what a soft shadow below the disc leaves of the light, (H, W)."""
    lying = (((X - 0.55) / 0.3) ** 2 + ((Y - 0.68) / 0.08) ** 2 < 1).astype(np.float32)
    return 1 - strength * cv2.GaussianBlur(lying, (0, 0), 7)


def wall():
    """Return a wall in uneven light and a darker floor that begins softly behind the disc."""
    floor = 1 / (1 + np.exp(-(Y - 0.55) / 0.02))
    color = np.array([170, 150, 140]) * (1 - floor[..., None]) + np.array([90, 95, 110]) * floor[..., None]
    return color * (1 - 0.3 * X * Y)[..., None]


@pytest.mark.parametrize("ground, color", [
    (200 * shadow(0.6), (150, 90, 60)),
    ((220 - 60 * X) * shadow(0.5), (120, 120, 125)),            # gray on gray
    (wall(), (190, 170, 60)),
    (240 * shadow(0.3), (252, 250, 248)),                       # white on white
    (240 - 10 * Y, (228, 226, 224)),
], ids=["shadow", "gray", "wall", "white", "off-white"])
def test_ground_is_cut_away(ground, color):
    picture, alpha = photo(ground, color)
    cut, how, doubt = matte(Image.fromarray(picture), "border")
    found = np.asarray(cut)[..., 3] / 255
    assert np.minimum(found, alpha).sum() / np.maximum(found, alpha).sum() > 0.95, how
    assert doubt is None


@pytest.mark.parametrize("center", [(120, 20), (225, 215)], ids=["side", "corner"])
def test_an_object_that_the_picture_cuts_off_is_whole(center):
    picture, alpha = photo(200 - 40 * X, (60, 80, 150), center)
    found = np.asarray(matte(Image.fromarray(picture), "border").image)[..., 3] / 255
    assert np.minimum(found, alpha).sum() / np.maximum(found, alpha).sum() > 0.95


def test_a_cluttered_background_is_doubtful(caplog):
    clutter = np.random.RandomState(1).randint(0, 255, (40, 40, 3)).astype(np.uint8)
    clutter = cv2.resize(clutter, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    picture = Image.fromarray(photo(clutter, (250, 200, 40), radius=80)[0]).resize((96, 96))
    prepare(picture.convert("RGBA"), 64, method="border", name="toys.jpg")
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("toys.jpg: the object may be cut out badly, the background is cluttered")
    assert "input_matte.png" in line and "rembg" in line


@pytest.mark.parametrize("change, kept", [(40, 1.0), (-40, 0.0)], ids=["brighter", "darker"])
def test_a_soft_bright_patch_is_no_shadow(change, kept):
    patch = cv2.GaussianBlur(disc(SIZE, 45, (0, 0, 0), (165, 165))[..., 3] / 255, (0, 0), 6)
    picture, alpha = photo(170 + change * patch, (60, 80, 150), (80, 75), 50)
    found = np.asarray(matte(Image.fromarray(picture), "border").image)[..., 3] / 255
    assert found[alpha > 0.9].mean() > 0.99
    assert found[(patch > 0.5) & (alpha < 0.1)].mean() == pytest.approx(kept, abs=0.02)


def test_a_shadow_takes_the_same_share_of_all_channels():
    picture = np.empty((8, 40, 3), np.uint8)
    for k, color in enumerate([(200, 180, 160), (100, 90, 80), (220, 198, 176), (100, 90, 50), (195, 175, 165)]):
        picture[:, 8 * k:8 * k + 8] = color
    difference, unlike = matting._unlike_ground(picture, np.full(picture.shape, (200, 180, 160), np.float32))
    np.testing.assert_allclose(difference[4, 4::8], [0, 100, 20, 110, 5])
    assert unlike[4, 4::8].tolist() == [False, False, True, True, False]


def test_a_soft_step_has_no_sharp_edge():
    sharp = np.where(X < 0.5, 100, 160)
    soft = 100 + 60 / (1 + np.exp(-(X - 0.5) / 0.03))
    for ground, has_edge in ((sharp, True), (soft, False)):
        gray = np.repeat(ground[..., None], 3, axis=-1).astype(np.uint8)
        assert outline.Edges(gray).above(*outline.LIMITS[1]).any() == has_edge


def test_a_mask_is_judged_by_the_sharp_edges():
    picture, alpha = photo(np.full((SIZE, SIZE), 200.), (60, 80, 150))
    edges = outline.Edges(picture)
    right, moved = edges.outline(alpha > 0.5), edges.outline(np.roll(alpha > 0.5, 40, axis=1))
    assert right.recall > 0.98 and right.support > 0.98 and right.distinct > 0.98
    assert right.score > 0.95                                   # a disc's outline is not too long
    assert moved.recall < 0.8 and moved.support < 0.3
    assert edges.outline(np.zeros((SIZE, SIZE), bool)).score == 0


def test_a_gap_in_the_outline_is_closed():
    """A white card whose left side blends into white paper over a third of its height is whole nevertheless."""
    card = (abs(X - 0.5) < 0.2) & (abs(Y - 0.5) < 0.2)
    shade = 14 * (1 - np.exp(-((X - 0.3) / 0.1) ** 2 - ((Y - 0.5) / 0.06) ** 2))
    noise = np.random.RandomState(0).normal(0, 1, (SIZE, SIZE))
    gray = cv2.GaussianBlur(240 - shade * card, (0, 0), 0.7) + noise
    outlines = outline.Edges(np.repeat(gray[..., None], 3, axis=-1).astype(np.uint8)).outlines()
    ious = [outline.iou(found.mask, card) for found in outlines]
    enclosed, closed = ious[0], ious[len(outline.LIMITS) + 1]       # by the highest limit of sharpness
    assert enclosed < 0.5 and closed > 0.9 and ious[outline.best_of(outlines)] > 0.9


def test_a_mask_is_doubtful_if_there_is_another_one_as_good_or_if_it_shows_ground():
    edges = outline.Edges(np.full((SIZE, SIZE, 3), 200, np.uint8))
    mask = np.zeros((SIZE, SIZE), bool)
    mask[80:160, 80:160] = True
    found = outline.Outline(mask, recall=1.0, support=1.0, distinct=1.0)
    half = outline.Outline(mask & (X < 0.5), recall=1.0, support=1.0, distinct=1.0)
    assert matting._doubt(edges, found, [found]) is None
    assert "another outline, nearly as good, has only 50%" in matting._doubt(edges, found, [half])
    assert matting._doubt(edges, found, [half._replace(support=0.6)]) is None       # below RIVAL
    assert "20% of it have the color" in matting._doubt(edges, found._replace(distinct=0.8), [])
    assert "30% of the picture's sharp edges" in matting._doubt(edges, found._replace(recall=0.7), [])
