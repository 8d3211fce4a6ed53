"""The input image as the network is given it, against the original."""
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.paths import GOLDEN
from support.pictures import disc

from sgm.views import preprocessing
from sgm.views.images import ImageError, composite
from sgm.views.preprocessing import recenter


@pytest.mark.parametrize("case, ratio", [("tall_400x300", None), ("square_r0.9", 0.9)])
def test_preprocessing_is_that_of_the_reference(case, ratio):
    golden = load_file(GOLDEN / "preprocess_rgba.safetensors")
    image, how, _ = preprocessing.prepare(Image.fromarray(golden[f"in/{case}"]), 576, ratio)
    np.testing.assert_array_equal(composite(image), golden[f"out/{case}"])
    assert how.startswith("alpha")


@pytest.mark.parametrize("size, box, ratio, side", [
    ((400, 100), (10, 30, 390, 60), None, 400),     # landscape, the case the reference cannot do
    ((100, 400), (30, 10, 60, 390), None, 400),
    ((100, 100), (0, 0, 99, 100), None, 100),
    ((100, 100), (20, 20, 80, 50), 0.5, 120),
    ((100, 100), (20, 20, 53, 90), 1.0, 70),
])
def test_recentre(size, box, ratio, side):
    image = Image.new("RGBA", size, (255, 255, 255, 0))
    image.paste((10, 200, 30, 255), box)
    centred = recenter(image, side, ratio)
    width, height = box[2] - box[0], box[3] - box[1]
    left, top, right, bottom = centred.getchannel("A").getbbox()
    assert (right - left, bottom - top) == (width, height)
    assert abs(left + right - side) <= 1 and abs(top + bottom - side) <= 1
    assert recenter(image, 64, ratio).size == (64, 64)


def test_recentre_errors():
    with pytest.raises(ImageError, match="all transparent"):
        recenter(Image.new("RGBA", (4, 4)), 8)
    for ratio in (0, -1, 1.1, float("nan"), 0.001):
        with pytest.raises(ImageError, match="^frame_ratio"):
            recenter(Image.fromarray(disc()), 8, ratio)


def test_prepare_without_cutting_out():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (10, 0, 30, 20))
    prepared, how, matte = preprocessing.prepare(image, (8, 8), cut_out=False)
    assert matte is None and prepared.shape == (8, 8, 4) and prepared.dtype == np.uint8 and how.startswith("none")
    np.testing.assert_allclose(prepared[:, 1:-1], np.broadcast_to([0, 0, 255, 255], (8, 6, 4)), atol=2)
    assert preprocessing.prepare(image, (16, 32), cut_out=False)[0].shape == (16, 32, 4)
    with pytest.raises(ImageError, match="^frame_ratio"):
        preprocessing.prepare(image, 8, 0.5, cut_out=False)
    with pytest.raises(ImageError, match="^size is 16x32"):
        preprocessing.prepare(image, (16, 32))


def test_network_and_back():
    rgb = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    x = preprocessing.to_network(rgb)
    assert x.shape == (1, 3, 16, 16) and x.dtype == np.float32 and x.flags["C_CONTIGUOUS"]
    assert x.min() == -1 and x.max() == 1 and x[0, 1, 3, 5] == pytest.approx(53 / 127.5 - 1, abs=1e-6)
    back = preprocessing.from_network(x + np.float32(1e-5))
    assert back.shape == (1, 16, 16, 3) and back.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(back[0], rgb)
    extremes = np.array([-3, -1, 0, 0.999, 1, 3], np.float32).reshape(1, 1, 1, 6).repeat(3, axis=1)
    np.testing.assert_array_equal(preprocessing.from_network(extremes)[0, 0, :, 0], [0, 0, 127, 254, 255, 255])


@pytest.mark.parametrize("dust", ["faint", "specks"])
def test_dust_does_not_move_the_object(dust):
    clean = disc(120, 24, centre=(50, 70))
    dusty = clean.copy()
    if dust == "faint":
        dusty[..., 3] = np.maximum(clean[..., 3], 1 + np.add.outer(np.arange(120), np.arange(120)) % 3)
    else:
        dusty[[1, 117], [2, 119], 3] = 1
    wanted, found = (preprocessing.prepare(Image.fromarray(image), 64, 0.85)[0] for image in (clean, dusty))
    solid = [image[..., 3] > 127 for image in (wanted, found)]
    assert (solid[0] ^ solid[1]).mean() < 0.01
    rows, columns = np.nonzero(solid[1])
    assert np.ptp(columns) + 1 == pytest.approx(0.85 * 64, abs=1.5) and columns.mean() == pytest.approx(31.5, abs=1)
    assert rows.mean() == pytest.approx(31.5, abs=1)


def test_what_is_cut_away_is_red():
    """A blue square on white: blue as it was, half of its half-covered edge, the rest of white in red."""
    image = Image.new("RGBA", (1024, 1024), (255, 255, 255, 0))
    image.paste((0, 0, 255, 255), (256, 256, 768, 768))
    image.paste((0, 0, 255, 128), (256, 256, 300, 768))
    matte = preprocessing.prepare(image, 64).matte
    red = 255 + 0.65 * (np.array([230, 40, 40]) - 255)
    assert matte.shape == (512, 512, 3)
    np.testing.assert_array_equal(matte[256, 256], [0, 0, 255])
    np.testing.assert_allclose(matte[10, 10], red, atol=1)
    shown = np.array([127, 127, 255])                           # the edge over white
    np.testing.assert_allclose(matte[256, 140], shown + (1 - 128 / 255) * 0.65 * (np.array([230, 40, 40]) - shown), atol=1)
