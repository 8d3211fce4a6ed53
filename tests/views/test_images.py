"""Image files: every kind that is read, what is refused, compositing."""
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support import icc
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


@pytest.mark.parametrize("space, stored", [
    (icc.DISPLAY_P3, (183, 72, 54)), (icc.ADOBE_RGB, (173, 62, 45)), (icc.PROPHOTO, (136, 70, 39)),
    (icc.SRGB, (200, 60, 40))], ids=("p3", "adobe", "prophoto", "srgb"))
@pytest.mark.parametrize("mode, ending", [("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "jpg"), ("RGB", "tif"),
                                          ("RGB", "webp")])
def test_profiles_become_srgb(space, stored, mode, ending, tmp_path):
    image = Image.new("RGBA", (8, 8), (*stored, 100 if mode == "RGBA" else 255)).convert("RGBA" if mode == "RGBA" else "RGB")
    image = image.quantize(4) if mode == "P" else image
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(ending, {})
    image.save(tmp_path / f"a.{ending}", icc_profile=icc.profile(space), **options)
    found = load_image(tmp_path / f"a.{ending}").getpixel((4, 4))
    assert np.abs(np.subtract(found[:3], (200, 60, 40))).max() <= 2 and found[3] == (100 if mode == "RGBA" else 255)
    if space is icc.SRGB and ending != "jpg":
        assert found[:3] == stored          # not even rounded


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_profile_of_gray(mode, tmp_path):
    image = {"L": Image.new("L", (8, 8), 100), "LA": Image.new("LA", (8, 8), (100, 7)),
             "I;16": Image.fromarray(np.full((8, 8), 25700, np.uint16))}[mode]
    image.save(tmp_path / "a.png", icc_profile=icc.gray_profile(1.0))
    assert load_image(tmp_path / "a.png").getpixel((4, 4)) == (168, 168, 168, 7 if mode == "LA" else 255)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_profile_of_four_inks(ending, tmp_path):
    """Lab (60, 60, 80) is about this orange; without the profile it would be pure red."""
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"a.{ending}", icc_profile=icc.cmyk_profile())
    assert np.abs(np.subtract(load_image(tmp_path / f"a.{ending}").getpixel((4, 4)), (249, 88, 0, 255))).max() <= 6


@pytest.mark.parametrize("options, said", [
    ({"icc_profile": b"junk" * 40}, "its ICC profile cannot be used"),
    ({"icc_profile": icc.gray_profile(1.0)}, "for GRAY, the picture is RGB"),
    ({"pnginfo": (b"gAMA", struct.pack(">I", 100000))}, "gamma of 1"),
    ({"pnginfo": (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))}, "primary colors"),
    ({"pnginfo": (b"gAMA", struct.pack(">I", 45455))}, None), ({}, None)])
def test_colors_that_cannot_be_converted_are_warned_of(options, said, tmp_path, caplog):
    if "pnginfo" in options:
        info = PngInfo()
        info.add(*options["pnginfo"])
        options = {"pnginfo": info}
    Image.new("RGB", (8, 8), (200, 60, 40)).save(tmp_path / "a.png", **options)
    assert load_image(tmp_path / "a.png").getpixel((4, 4)) == (200, 60, 40, 255)
    assert [said in record.message and "a.png" in record.message for record in caplog.records] == [True] * bool(said)


@pytest.mark.parametrize("kind, depth, values, key, expected", [
    (0, 16, [0, 25700, 65535], 25700, [(0, 255), (100, 0), (255, 255)]),
    (0, 16, [0, 25700, 65535], 25701, [(0, 255), (100, 255), (255, 255)]),
    (0, 2, [0, 1, 3], 1, [(0, 255), (85, 0), (255, 255)]), (0, 4, [0, 3, 15], 3, [(0, 255), (51, 0), (255, 255)]),
    (0, 8, [0, 3, 255], 3, [(0, 255), (3, 0), (255, 255)])])
def test_transparent_level_of_every_depth(kind, depth, values, key, expected, tmp_path):
    (tmp_path / "a.png").write_bytes(icc.png(kind, depth, [values], struct.pack(">H", key)))
    found = np.asarray(load_image(tmp_path / "a.png"))[0]
    assert [(int(pixel[1]), int(pixel[3])) for pixel in found] == expected


def test_transparent_color_of_sixteen_bits(tmp_path):
    values = [[[0, 0, 0], [32767, 7, 65535], [65535] * 3]]
    (tmp_path / "a.png").write_bytes(icc.png(2, 16, values, struct.pack(">HHH", *values[0][1])))
    assert np.asarray(load_image(tmp_path / "a.png"))[0, :, 3].tolist() == [255, 0, 255]


@pytest.mark.parametrize("values, levels", [
    (np.float32([0, 0.25, 1]), [0, 64, 255]), (np.float32([0, 64, 255]), [0, 64, 255]),
    (np.float32([0, 25700, 65535]), [0, 100, 255]), (np.int32([0, 25700, 65535]), [0, 100, 255]),
    (np.int32([0, 2 ** 30, 2 ** 31 - 1]), [0, 127, 255]),
    (np.float32([0, 0.25, 1.5]), "found floats from 0 to 1.5"), (np.float32([0, np.nan, 1]), "found floats from nan"),
    (np.float32([-1, 0, 1]), "found floats from -1"), (np.int32([0, 70000, 90000]), "found levels up to 90000")])
def test_floats_and_thirty_two_bits(values, levels, tmp_path):
    Image.fromarray(values[None]).save(tmp_path / "a.tif")
    if isinstance(levels, str):
        with pytest.raises(ImageError, match=f"a.tif: {levels}"):
            load_image(tmp_path / "a.tif")
    else:
        np.testing.assert_allclose(np.asarray(load_image(tmp_path / "a.tif"))[0, :, 0], levels, atol=1)


def test_tiff_that_pillow_does_not_know_is_named_so(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(ImageError, match="a TIFF of an unusual kind"):
        load_image(tmp_path / "a.tif")


def test_no_other_file_opens_a_picture():
    """Each format that a library knows is one more that a stranger's file can be in."""
    openers = re.compile(r"Image\.open\(|\bimread\(|imdecode\(|VideoCapture\(|v3\.imread|trimesh\.load\(")
    found = [path.name for folder in ("sgm", "tools") for path in (ROOT / folder).rglob("*.py")
             if openers.search(path.read_text())]
    assert found == ["images.py"]


def test_postscript_is_not_opened(tmp_path, monkeypatch):
    """Pillow would start Ghostscript on it."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ImageError, match="no image of a known kind"):
        load_image(tmp_path / "a.png")


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


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "RGB", "RGBA"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_turned_tiffs(kind, compression, tmp_path):
    """Pillow mixes up the pixels of some that are not compressed, if it opens them by their path."""
    exif = Image.Exif()
    exif[0x0112] = 6
    levels = np.arange(6).reshape(2, 3) * 20
    stored = {"uint8": levels.astype(np.uint8), "uint16": (levels * 257).astype(np.uint16),
              "float32": (levels / 255).astype(np.float32)}.get(kind)
    if stored is None:
        stored = np.stack([levels] * 3 + [levels + 100] * (len(kind) - 3), axis=-1).astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.tif", exif=exif, compression=compression)
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "a.tif"))[..., 0], np.rot90(levels, -1), atol=1)


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
    for name in ("b.PNG", "a10.jpg", "a9.jpg", "c.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [f.name for f in images.list_images(tmp_path)] == ["a9.jpg", "a10.jpg", "b.PNG"]
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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_as_they_are_stored(tmp_path, orientation):
    """Cameras know the pixels of the file; Pillow turns a TIFF by itself, others when asked."""
    stored = np.random.RandomState(0).randint(0, 255, (5, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.tiff", "a.png"):
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
        np.testing.assert_array_equal(np.asarray(load_image(tmp_path / name, upright=False))[..., :3], stored)
        assert load_image(tmp_path / name).size == ((9, 5) if orientation < 5 else (5, 9))


def test_levels_of_twelve_bits_are_warned_of(tmp_path, caplog):
    for most, said in ((4095, True), (65535, False)):
        caplog.clear()
        Image.fromarray(np.full((20, 20), most, np.uint16)).save(tmp_path / "a.png")
        load_image(tmp_path / "a.png")
        assert ("up to 4095 of 65535" in caplog.text) == said
