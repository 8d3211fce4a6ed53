"""Image files: every kind that is read, what is refused, compositing."""
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT

from sgm.views import images
from sgm.views.images import ImageError, composite, load_image


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


def test_composite_by_hand():
    rgba = np.array([[[100, 0, 255, 255], [100, 0, 255, 0], [100, 0, 255, 51]]], np.uint8)
    expected = [[[100, 0, 255], [200, 255, 0], [180, 204, 51]]]
    np.testing.assert_allclose(composite(rgba, (200, 255, 0)), expected, atol=1)     # truncation may lose one
    assert composite(Image.fromarray(rgba)).tolist()[0][1] == [255, 255, 255]


def test_parse_background():
    assert images.parse_background("transparent") == "transparent"
    assert images.parse_background("white") == (255, 255, 255)
    assert images.parse_background("0, 128,255") == (0, 128, 255)
    for text in ("", "red", "1,2", "1,2,256", "1,2,-3", "1,2,3,4"):
        with pytest.raises(ImageError, match="^background is"):
            images.parse_background(text)


def test_no_mindspore():
    code = "import sys, sgm.views.images, sgm.views.cameras; sys.exit(bool({'mindspore', 'scipy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
