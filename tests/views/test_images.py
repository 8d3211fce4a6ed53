import struct
import subprocess
import sys
import types
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.paths import GOLDEN, ROOT

from sgm.views import images, media, preprocessing
from sgm.views import matting as mattes
from sgm.views.images import ImageError, composite, load_image
from sgm.views.matting import alpha_from_white, matte
from sgm.views.preprocessing import recenter

VIEWS = sorted((GOLDEN / "views").glob("*.png"))


@pytest.fixture(autouse=True)
def no_rembg(monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)     # importing it raises ImportError, installed or not


def disc(size=64, radius=20, colour=(200, 30, 30), centre=None):
    """An RGBA disc, antialiased by supersampling."""
    x, y = centre or (size / 2, size / 2)
    grid = (np.arange(4 * size) + 0.5) / 4
    inside = np.hypot(grid[None] - x, grid[:, None] - y) < radius
    alpha = inside.reshape(size, 4, size, 4).mean(axis=(1, 3)) * 255 + 0.5
    rgba = np.empty((size, size, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = colour, alpha
    return rgba


def iou(first, second):
    first, second = first[..., 3] > 127, second[..., 3] > 127
    return (first & second).sum() / (first | second).sum()


def over(rgba, background):
    alpha = rgba[..., 3:] / 255
    return np.clip(rgba[..., :3] * alpha + background * (1 - alpha), 0, 255).astype(np.uint8)


# -- files

@pytest.mark.parametrize("mode, expected", [
    ("RGB", (200, 100, 50, 255)), ("RGBA", (200, 100, 50, 128)), ("L", (90, 90, 90, 255)), ("LA", (90, 90, 90, 128)),
    ("1", (255, 255, 255, 255)), ("P", (200, 100, 50, 255)),
])
def test_modes(tmp_path, mode, expected):
    value = {"RGB": expected[:3], "RGBA": expected, "L": 90, "LA": (90, 128), "1": 1, "P": (200, 100, 50)}[mode]
    image = Image.new("RGB" if mode == "P" else mode, (5, 3), value)
    (image.quantize(4) if mode == "P" else image).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert loaded.mode == "RGBA" and loaded.size == (5, 3)
    assert loaded.getpixel((2, 1)) == expected


def test_palette_and_grey_with_a_transparent_value(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "p.png", transparency=0)
    loaded = load_image(tmp_path / "p.png")
    assert loaded.getpixel((0, 0))[3] == 0 and loaded.getpixel((1, 1)) == (40, 50, 60, 255)
    grey = Image.new("L", (4, 4), 70)
    grey.putpixel((0, 0), 9)
    grey.save(tmp_path / "l.png", transparency=9)
    loaded = load_image(tmp_path / "l.png")
    assert loaded.getpixel((0, 0))[3] == 0 and loaded.getpixel((1, 1)) == (70, 70, 70, 255)


def test_sixteen_bit_is_scaled(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode.startswith("I")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png"))[0, :, 0], [0, 1, 128, 255])


def test_jpegs(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red = load_image(tmp_path / "a.jpg").getpixel((4, 4))
    assert red[0] > 240 and max(red[1:3]) < 15
    exif = Image.Exif()
    exif[0x0112] = 6    # the camera was held upright: turn by 90 degrees
    picture = Image.new("RGB", (30, 20), "black")
    picture.paste("white", (0, 0, 8, 20))
    picture.save(tmp_path / "b.jpeg", exif=exif)
    turned = load_image(tmp_path / "b.jpeg")
    assert turned.size == (20, 30) and turned.getpixel((10, 2))[0] > 200 and turned.getpixel((10, 27))[0] < 50


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (17, 5)])
def test_any_aspect(tmp_path, size):
    for name in ("a.png", "a.webp", "a.bmp"):
        Image.new("RGB", size, "red").save(tmp_path / name)
        assert load_image(tmp_path / name).size == size


def test_files_that_are_no_images(tmp_path):
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    Image.open(tmp_path / "whole.png").save(tmp_path / "whole.jpg")
    jpeg = (tmp_path / "whole.jpg").read_bytes()
    damaged = {"truncated.png": whole[:len(whole) // 2], "empty.png": b"", "text.png": b"hello",
               "header.png": whole[:20], "bad.png": whole[:60] + b"\0" * 200 + whole[260:],
               "truncated.jpg": jpeg[:len(jpeg) // 2]}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=name) as error:
            load_image(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "lost.png")
    with pytest.raises(ImageError):
        load_image(tmp_path)


def test_all_transparent(tmp_path):
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="a.png: every pixel is transparent"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("side", [8001, 40000])
def test_pixel_limit(tmp_path, side):
    Image.new("1", (8, 8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=f"a.png: found {side * side} pixels, expected at most 64000000"):
        load_image(tmp_path / "a.png")


def test_list_images(tmp_path):
    with pytest.raises(ImageError, match="no image in this folder"):
        images.list_images(tmp_path)
    for name in ("b.PNG", "a.jpg", "c.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [f.name for f in images.list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    assert images.list_images(tmp_path / "c.txt") == [tmp_path / "c.txt"]
    with pytest.raises(ImageError, match="no such file or folder"):
        images.list_images(tmp_path / "lost")


def test_save_png(tmp_path):
    array = np.random.RandomState(0).randint(0, 255, (5, 4, 4), np.uint8)
    images.save_png(tmp_path / "a.png", array)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), array)
    images.save_png(tmp_path / "a.png", Image.new("RGB", (3, 3)))
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(TypeError):
        images.save_png(tmp_path / "b.png", array.astype(np.float64))
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


# -- frames

@pytest.mark.parametrize("case, ratio", [("tall_400x300", None), ("square_r0.9", 0.9)])
def test_preprocessing_is_that_of_the_reference(case, ratio):
    golden = load_file(GOLDEN / "preprocess_rgba.safetensors")
    image, how = preprocessing.prepare(Image.fromarray(golden[f"in/{case}"]), 576, ratio)
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
        with pytest.raises(ImageError, match="--frame-ratio"):
            recenter(Image.fromarray(disc()), 8, ratio)


def test_prepare_without_cutting_out():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (10, 0, 30, 20))
    prepared, how = preprocessing.prepare(image, (8, 8), cut_out=False)
    assert prepared.shape == (8, 8, 4) and prepared.dtype == np.uint8 and how.startswith("none")
    np.testing.assert_allclose(prepared[:, 1:-1], np.broadcast_to([0, 0, 255, 255], (8, 6, 4)), atol=2)
    assert preprocessing.prepare(image, (16, 32), cut_out=False)[0].shape == (16, 32, 4)
    with pytest.raises(ImageError, match="--frame-ratio"):
        preprocessing.prepare(image, 8, 0.5, cut_out=False)
    with pytest.raises(ImageError, match="--size is 16x32"):
        preprocessing.prepare(image, (16, 32))


def test_composite_by_hand():
    rgba = np.array([[[100, 0, 255, 255], [100, 0, 255, 0], [100, 0, 255, 51]]], np.uint8)
    expected = [[[100, 0, 255], [200, 255, 0], [180, 204, 51]]]
    np.testing.assert_allclose(composite(rgba, (200, 255, 0)), expected, atol=1)     # truncation may lose one
    assert composite(Image.fromarray(rgba)).tolist()[0][1] == [255, 255, 255]


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


def test_contact_sheet():
    frames = np.stack([np.full((2, 3, 3), k, np.uint8) for k in range(5)])
    sheet = np.asarray(media.contact_sheet(frames, 3))
    assert sheet.shape == (4, 9, 3)
    np.testing.assert_array_equal(sheet[0, ::3, 0], [0, 1, 2])
    np.testing.assert_array_equal(sheet[2, ::3, 0], [3, 4, 255])
    assert media.contact_sheet(np.zeros((2, 4, 4, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255)


def test_parse_background():
    assert images.parse_background("transparent") == "transparent"
    assert images.parse_background("white") == (255, 255, 255)
    assert images.parse_background("0, 128,255") == (0, 128, 255)
    for text in ("", "red", "1,2", "1,2,256", "1,2,-3", "1,2,3,4"):
        with pytest.raises(ImageError, match="--background"):
            images.parse_background(text)


# -- cutting out

def test_alpha_is_used_if_there_is_any():
    image = Image.fromarray(disc())
    cut, how = matte(image)
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
    cut, how = matte(photo)
    assert how == f"border: {'GrabCut' if background == 'wood' else 'plain background'} (rembg is not installed)"
    assert iou(np.asarray(cut), rgba) > 0.97
    colours = np.asarray(cut)[np.asarray(cut)[..., 3] > 30][:, :3]
    assert np.abs(colours - np.array([190., 120, 40])).mean() < 4     # nothing of the background is left in the edge
    assert matte(photo, "border")[0].tobytes() == cut.tobytes()


def test_large_images_are_reduced():
    rgba = np.asarray(Image.fromarray(disc(375, 112)).resize((1500, 1500)))
    cut, _ = matte(Image.fromarray(over(rgba, 255)))
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
    cut, how = matte(photo)
    assert how == "border: plain background (rembg does not work here: no network)"
    assert iou(np.asarray(cut), disc(64)) > 0.97
    with pytest.raises(ImageError, match="matte=rembg: rembg does not work here: no network"):
        matte(photo, "rembg")
    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(remove=lambda image: Image.fromarray(disc(64, 10))))
    cut, how = matte(photo)
    assert how == "rembg" and cut.tobytes() == disc(64, 10).tobytes()


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


def test_no_mindspore():
    code = "import sys, sgm.views.images, sgm.views.cameras; sys.exit(bool({'mindspore', 'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
