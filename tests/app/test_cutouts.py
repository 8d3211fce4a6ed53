"""Uploaded pictures: what is cut out, and what the brush changes."""
import io

import numpy as np
import pytest
from _app import cutouts
from _app.cutouts import KEEP, REMOVE, Cutouts
from PIL import Image, ImageColor
from support.badfiles import bad_images, encoded, object_on_white
from support.pictures import disc

from sgm.common.errors import InputError
from sgm.views.images import ImageError, load_image
from sgm.views.preprocessing import prepare


@pytest.fixture
def kept():
    return Cutouts(64)


def alpha(found):
    return np.asarray(found.cut)[..., 3]


def strokes(size, **painted):
    """A PNG of the brush: {color: slices}."""
    layer = np.zeros((size, size, 4), np.uint8)
    for color, place in painted.items():
        layer[place] = (*ImageColor.getrgb({"remove": REMOVE, "keep": KEEP}[color]), 255)
    return encoded(Image.fromarray(layer))


def test_object_is_cut_out(kept):
    token, found = kept.add("/somewhere/red.png", encoded(object_on_white(64)))
    assert found.name == "red.png" and found.stem == "red" and found.how.startswith("border")
    assert alpha(found)[32, 32] == 255 and alpha(found)[4, 4] == 0
    picture = np.asarray(kept.picture(token)).astype(int)
    assert picture[4, 4, 0] - picture[4, 4, 1] > 50 and kept.get(token) is found     # red: cut away


def test_brush_removes_keeps_and_starts_again(kept, tmp_path):
    token, found = kept.add("red.png", encoded(object_on_white(64)))
    before = alpha(found).copy()
    kept.paint(token, strokes(128, remove=np.s_[40:60, 40:60], keep=np.s_[4:12, 4:12]))     # of twice the size
    after = alpha(found)
    assert not after[21:29, 21:29].any() and (after[3:5, 3:5] == 255).all()
    assert np.array_equal(np.asarray(found.cut)[4, 4, :3], (250, 250, 250)), "the picture's own color"
    assert (after != before)[32:, 32:].sum() == 0
    kept.save(token, tmp_path / "a.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png"))[..., 3], after)
    kept.reset(token)
    assert np.array_equal(alpha(found), before)


def test_threshold_is_of_the_color_of_the_background(kept):
    """Squares 20 and 80 levels from the ground: 5 % are 13 levels, 15 % 38, 50 % more than both."""
    picture = np.full((96, 96, 3), 200, np.uint8)
    picture[20:40, 20:40], picture[60:80, 60:80] = 180, 120
    token, found = kept.add("squares.png", encoded(Image.fromarray(picture)))
    first = alpha(found)
    for percent, seen in ((5, (255, 255)), (15, (0, 255)), (50, (0, 0)), (5, (255, 255))):
        kept.threshold(token, percent)
        assert (alpha(found)[30, 30], alpha(found)[70, 70], alpha(found)[5, 5]) == (*seen, 0), percent
    kept.paint(token, strokes(96, remove=np.s_[60:80, 60:80]))
    kept.threshold(token, 15)
    assert not alpha(found)[62:78, 62:78].any(), "strokes stay when the threshold changes"
    kept.reset(token)
    assert np.array_equal(alpha(found), first)
    for bad in (0, 100, -3):
        with pytest.raises(InputError, match="^threshold: found"):
            kept.threshold(token, bad)


def test_threshold_of_a_picture_with_alpha_is_of_its_alpha(kept):
    picture = disc(64, 20)
    picture[30:34, 30:34, 3] = 100
    token, found = kept.add("disc.png", encoded(Image.fromarray(picture)))
    assert alpha(kept.threshold(token, 30))[31, 31] == 100      # 30 % are 76.5 levels
    assert alpha(kept.threshold(token, 50))[31, 31] == 0 and alpha(found)[20, 20] == 255


def test_object_that_nothing_finds_is_painted(kept, tmp_path):
    token, found = kept.add("flat.png", encoded(Image.new("RGB", (64, 64), (250, 250, 250))))
    assert found.doubt and not alpha(found).any()
    with pytest.raises(ImageError):
        kept.save(token, tmp_path / "a.png")
    kept.paint(token, strokes(64, keep=np.s_[10:50, 10:50]))
    kept.save(token, tmp_path / "a.png")
    assert 0.3 < (np.asarray(Image.open(tmp_path / "a.png"))[..., 3] > 0).mean() < 0.5


def test_object_that_fills_its_picture_is_not_cut_out_again(kept, tmp_path):
    """The command that gets the file must take its alpha as it is."""
    token, found = kept.add("disc.png", encoded(Image.fromarray(disc(64, 30))))
    kept.paint(token, strokes(64, keep=np.s_[1:63, 1:63]))
    kept.save(token, tmp_path / "a.png")
    made = prepare(load_image(tmp_path / "a.png"), 64)
    assert made.how.startswith("alpha") and 0.8 < (made.image[..., 3] > 127).mean() < 0.95


BAD = bad_images()


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_files_are_said_in_a_line(kept, name):
    data, said = BAD[name]
    try:
        token, found = kept.add(name, data)
        kept.save(token, io.BytesIO())
    except InputError as error:
        assert "\n" not in str(error) and "Traceback" not in str(error)
    else:
        assert found.doubt, said


def test_strokes_are_checked(kept):
    token, _ = kept.add("red.png", encoded(object_on_white(64)))
    for bad in (b"", b"GIF89a", encoded(object_on_white(), "JPEG"), b"\x89PNG\r\n\x1a\n", b"x" * (cutouts.MAX_PAINTED + 1)):
        with pytest.raises(ImageError, match="^strokes: "):
            kept.paint(token, bad)
    with pytest.raises(InputError, match="choose an image first"):
        kept.paint("another", strokes(64))


def test_the_oldest_are_forgotten(kept, monkeypatch):
    monkeypatch.setattr(cutouts, "MOST_KEPT", 2)
    data = encoded(Image.fromarray(disc(32, 10)))
    tokens = [kept.add("a.png", data)[0] for _ in range(3)]
    assert len(set(tokens)) == 3 and list(kept.kept) == tokens[1:]


def test_rembg_is_used_only_with_its_network(monkeypatch, tmp_path):
    monkeypatch.setattr(cutouts, "find_spec", lambda name: name)
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    assert not cutouts.has_rembg() and Cutouts(64).method == "border"
    (tmp_path / "u2net.onnx").touch()
    assert Cutouts(64).method == "auto"
