"""Views read for reconstruction: whose alpha counts, what is not known, lenses, pixels as they are stored."""
import json

import numpy as np
import pytest
from PIL import Image
from support.pictures import disc

from sgm.reconstruct.posed_views import PosedViews, ShapeError
from sgm.reconstruct.views_reader import read_views, shows_ground
from sgm.views.cameras import Orbit
from sgm.views.transforms import write_transforms

SIDE = 64
OBJECT = disc(SIDE, 20)                                             # RGBA
ALPHA = OBJECT[..., 3] / 255
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
HALF_OF_IT = np.where(COLUMNS < 32, 0, 1).astype(np.uint8)          # a mask of 0 and 1: the left half is to be ignored


def folder_of(path, pictures, masks=None, change=lambda data: None, kind="png"):
    """A views folder of these pictures (arrays), with masks: arrays, or one array that all frames share."""
    path.mkdir()
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{k:03d}.{kind}")
    file = write_transforms(path, Orbit.static(num_frames=len(pictures)), SIDE)
    data = json.loads(file.read_text())
    for k, frame in enumerate(data["frames"]):
        frame["file_path"] = f"{k:03d}.{kind}"
        if masks is not None:
            shared = isinstance(masks, np.ndarray)
            frame["mask_path"] = "valid.png" if shared else f"m{k}.png"
            Image.fromarray(masks if shared else masks[k]).save(path / frame["mask_path"])
    change(data)
    file.write_text(json.dumps(data))
    return path


def on(level):
    """The object on a plain background, RGB."""
    return np.round(OBJECT[..., :3] * ALPHA[..., None] + level * (1 - ALPHA[..., None])).astype(np.uint8)


def test_a_mask_beside_alpha_says_what_is_not_known(tmp_path):
    for values in (1, 255):
        views = read_views(folder_of(tmp_path / str(values), [OBJECT] * 3, [HALF_OF_IT * values] * 3))
        assert views.known.dtype == bool and not views.known[:, :, :32].any() and views.known[:, :, 32:].all()
        np.testing.assert_allclose(views.mask[1], ALPHA * HALF_OF_IT, atol=1e-6)
        assert (views.rgb[:, :, :32] == 0).all() and views.rgb[0, 32, 40, 0] == pytest.approx(200 / 255)
    everything = read_views(folder_of(tmp_path / "white", [OBJECT] * 3, [np.full((SIDE, SIDE), 255, np.uint8)] * 3))
    assert everything.known is None
    np.testing.assert_allclose(everything.mask[1], ALPHA, atol=1e-6)


def test_only_some_frames_have_masks(tmp_path):
    def change(data):
        del data["frames"][1]["mask_path"]
    views = read_views(folder_of(tmp_path / "a", [OBJECT] * 3, [HALF_OF_IT] * 3, change))
    assert views.known[1].all() and not views.known[2].all()


def test_without_alpha_a_mask_is_the_cut_out(tmp_path):
    """A soft one keeps its edge; one of 0 and 1 has none; neither says that anything is not known."""
    photos = [on(128)] * 3
    soft = read_views(folder_of(tmp_path / "soft", photos, [OBJECT[..., 3]] * 3))
    np.testing.assert_allclose(soft.mask[0], ALPHA, atol=1e-6)
    hard = read_views(folder_of(tmp_path / "hard", photos, [(ALPHA > 0.5).astype(np.uint8)] * 3))
    np.testing.assert_array_equal(hard.mask[0], ALPHA > 0.5)
    assert soft.known is None and hard.known is None


@pytest.mark.parametrize("level", [255, 128])
def test_without_alpha_a_shared_mask_is_no_cut_out(tmp_path, level):
    """The circle that the lens saw, and a passer-by at the border: the object is found in what is left."""
    circle = (np.hypot(ROWS - 31.5, COLUMNS - 31.5) < 30).astype(np.uint8)
    for name, masks in (("circle", circle), ("circles", [circle] * 3), ("walker", [255 * (COLUMNS > 8 + k).astype(np.uint8) for k in range(3)])):
        views = read_views(folder_of(tmp_path / name, [on(level)] * 3, masks))
        known = COLUMNS > 9 if name == "walker" else circle > 0
        np.testing.assert_array_equal(views.known[1], known)
        assert ((views.mask[1] > 0.5) == (ALPHA > 0.5)).mean() > 0.99


def test_noise_of_a_jpeg_mask_is_black(tmp_path):
    mask = np.where(np.hypot(ROWS - 31.5, COLUMNS - 31.5) < 30, 255, 0).astype(np.uint8)
    folder = folder_of(tmp_path / "a", [OBJECT] * 3)
    Image.fromarray(mask).save(folder / "mask.jpg", quality=80)
    noisy = np.asarray(Image.open(folder / "mask.jpg"))
    assert ((noisy > 0) & (mask == 0)).sum() > 100
    data = json.loads((folder / "transforms.json").read_text())
    for frame in data["frames"]:
        frame["mask_path"] = "mask.jpg"
    (folder / "transforms.json").write_text(json.dumps(data))
    assert (read_views(folder).known[0] != (mask > 0)).mean() < 0.02


@pytest.mark.parametrize("alpha", ["corners", "dust"])
def test_an_alpha_that_cuts_nothing_out_is_no_matte(tmp_path, alpha):
    levels = np.full((SIDE, SIDE), 255, np.uint8)
    if alpha == "corners":
        levels[np.abs(ROWS - 31.5) + np.abs(COLUMNS - 31.5) > 60] = 0
    else:
        levels[[3, 40, 60], [50, 7, 20]] = 0
    views = read_views(folder_of(tmp_path / "a", [np.dstack([on(255), levels])] * 3))
    assert ((views.mask[0] > 0.5) == (ALPHA > 0.5)).mean() > 0.99


def test_dust_is_not_seen(tmp_path):
    dusty = OBJECT.copy()
    dusty[..., 3] = np.maximum(dusty[..., 3], (ROWS + COLUMNS) % 3)
    views = read_views(folder_of(tmp_path / "a", [dusty] * 3))
    far = np.hypot(ROWS - 32, COLUMNS - 32) > 30
    assert (views.mask[0][far] == 0).all()
    np.testing.assert_allclose(views.mask[0], ALPHA, atol=3 / 255)


@pytest.mark.parametrize("orientation, size", [(3, (64, 64)), (6, (64, 48))])
def test_posed_pictures_are_read_as_stored(tmp_path, orientation, size):
    """Cameras and masks are of the stored pixels, whichever way EXIF turns the picture."""
    picture = on(128)[:size[1], :size[0]].copy()
    picture[:8] = 30                                                # the top is dark
    mask = np.where(ALPHA > 0.5, 255, 0).astype(np.uint8)[:size[1], :size[0]].copy()
    mask[:20] = 0
    folder = folder_of(tmp_path / "a", [picture] * 3, [mask] * 3, lambda data: data.update(
        w=size[0], h=size[1], cy=size[1] / 2, camera_angle_y=2 * np.arctan(size[1] / 2 / data["fl_y"])), "jpg")
    plain = read_views(folder)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for k in range(3):
        Image.open(folder / f"{k:03d}.jpg").save(folder / f"{k:03d}.jpg", exif=exif, quality="keep")
    views = read_views(folder)
    np.testing.assert_allclose(views.rgb, plain.rgb, atol=0.04)      # compressed once more
    np.testing.assert_array_equal(views.mask[0] > 0.5, mask > 127)
    data = json.loads((folder / "transforms.json").read_text())
    if size[0] != size[1]:
        data.update(w=size[1], h=size[0], camera_angle_x=data["camera_angle_y"], camera_angle_y=data["camera_angle_x"])
        (folder / "transforms.json").write_text(json.dumps(data))
        with pytest.raises(ShapeError, match="found 64 x 48 pixels, expected the shape of w 48, h 64.*EXIF"):
            read_views(folder)


def test_frames_of_several_cameras_become_one(tmp_path):
    """Sizes and focal lengths per frame: the disc is as large as its own numbers say, whatever the picture's size."""
    half = np.asarray(Image.fromarray(OBJECT).resize((32, 32), Image.BOX))

    def change(data):
        own = {key: data.pop(key) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
        del data["camera_angle_x"], data["camera_angle_y"]
        for k, frame in enumerate(data["frames"]):
            frame.update({key: value / (2 if k == 1 else 1) for key, value in own.items()})
        data["frames"][2].update(fl_x=own["fl_x"] / 1.25, fl_y=own["fl_y"] / 1.25)
    views = read_views(folder_of(tmp_path / "a", [OBJECT, half, OBJECT], change=change))
    radius = np.sqrt(views.mask.sum((1, 2)) / np.pi) / views.fl_x
    wanted = 20 / 105.3244
    np.testing.assert_allclose(radius, [wanted, wanted, 1.25 * wanted], rtol=0.005)
    assert views.fl_x == views.fl_y and views.cx == pytest.approx(views.w / 2, abs=0.5)
    assert views.known[2].all() and not views.known[0].all()        # the third one shows more around it


def test_unknown_parts_go_along():
    known = np.ones((2, 8, 8), bool)
    known[1, :3] = False
    views = PosedViews(np.full((2, 8, 8, 3), 0.5, np.float32), np.ones((2, 8, 8), np.float32), np.stack([np.eye(4)] * 2),
                       8.0, 8.0, 4.0, 4.0).ignoring(known)
    assert (views.mask[1, :3] == 0).all() and (views.rgb[1, :3] == 0).all() and (views.mask[1, 3:] == 1).all()
    small = views.resized(4)                                        # of the second row a half is known: it is not
    np.testing.assert_array_equal(small.known[1], np.repeat([[False], [False], [True], [True]], 4, axis=1))
    assert (small.mask[1, :2] == 0).all() and small.known[0].all()
    assert views.subset([1]).known.shape == (1, 8, 8) and views.moved(2, np.zeros(3)).known is views.known
    assert views.ignoring(None).known is None and views.ignoring(None).resized(4).known is None


def as_16_bits(levels):
    return Image.fromarray(levels.astype(np.uint16))


def as_cut_out(levels):
    return Image.fromarray(np.dstack([np.full_like(levels, 255)] * 3 + [levels]))


def labelled(levels):
    image = Image.new("P", levels.shape[::-1])
    image.frombytes(levels.tobytes())
    image.putpalette([0] * 768)
    return image


MODES = {"1": lambda m: Image.fromarray(255 * m).convert("1"), "0 and 1, 16 bit": as_16_bits,
         "0 and 65535, 16 bit": lambda m: as_16_bits(m.astype(np.uint16) * 65535), "P": lambda m: Image.fromarray(255 * m).convert("P"),
         "P without colors": lambda m: labelled(m), "RGB of labels": lambda m: Image.fromarray(m[..., None] * np.uint8([0, 0, 1])),
         "RGB": lambda m: Image.fromarray(m * 255).convert("RGB"), "alpha": lambda m: as_cut_out(m * 255)}


@pytest.mark.parametrize("mode", MODES)
def test_masks_of_every_mode(tmp_path, mode):
    folder = folder_of(tmp_path / "a", [OBJECT] * 3, [HALF_OF_IT] * 3)
    for k in range(3):
        MODES[mode](HALF_OF_IT).save(folder / f"m{k}.png")
    np.testing.assert_array_equal(read_views(folder).known[0], HALF_OF_IT > 0)


def test_a_view_without_anything_known_of_the_object_is_left_out(tmp_path, caplog):
    """Someone stands before it in one of four pictures; in two of them would be too much."""
    nothing = np.zeros((SIDE, SIDE), np.uint8)
    nothing[:, :4] = 255
    views = read_views(folder_of(tmp_path / "a", [OBJECT] * 4, [HALF_OF_IT, nothing, HALF_OF_IT, HALF_OF_IT]))
    assert [file.name for file in views.files] == ["000.png", "002.png", "003.png"] and len(views.c2w) == len(views.known) == 3
    np.testing.assert_allclose(views.c2w[1], Orbit.static(num_frames=4).poses(2.0)[2])
    assert "001.png: is left out" in caplog.text
    with pytest.raises(ShapeError, match="only 2 of its 4 views show something of the object.*mask_path"):
        read_views(folder_of(tmp_path / "b", [OBJECT] * 4, [HALF_OF_IT, nothing, nothing, HALF_OF_IT]))


def test_a_mask_that_is_the_alpha_once_more(tmp_path):
    """Some programs write the cut-out twice: the background is then known to be none of the object."""
    views = read_views(folder_of(tmp_path / "a", [OBJECT] * 3, [255 * (ALPHA > 0.5).astype(np.uint8)] * 3))
    assert views.known is None
    np.testing.assert_allclose(views.mask[0], ALPHA * (ALPHA > 0.5), atol=1e-6)


def test_oblong_pixels_are_stretched_and_warned_of(tmp_path, caplog):
    flat = np.asarray(Image.fromarray(OBJECT).resize((SIDE, SIDE // 2), Image.BOX))
    views = read_views(folder_of(tmp_path / "a", [flat] * 3, change=lambda data: data.update(
        h=SIDE // 2, cy=SIDE / 4, fl_y=data["fl_x"] / 2)))
    assert views.fl_x == views.fl_y and "pixels are not square" in caplog.text and views.known is None
    assert ((views.mask[0] > 0.5) == (ALPHA > 0.5)).mean() > 0.97


def test_labels_are_no_soft_edges(tmp_path):
    """Whatever is not 0 is used, as much as 255 is; a soft mask of some hard labels would be a translucent object."""
    inside = ALPHA > 0.5
    for levels in (np.where(inside, 200, 0), np.where(inside, np.where(COLUMNS < 32, 128, 255), 0)):
        views = read_views(folder_of(tmp_path / str(levels[32, 20]), [on(128)] * 3, [levels.astype(np.uint8)] * 3))
        np.testing.assert_array_equal(views.mask[0], inside)


def test_a_mask_of_nothing_leaves_its_view_out(tmp_path, caplog):
    masks = [OBJECT[..., 3]] * 4
    masks[2] = 0 * masks[2]
    views = read_views(folder_of(tmp_path / "a", [on(128)] * 4, masks))
    assert [file.name for file in views.files] == ["000.png", "001.png", "003.png"] and "002.png: is left out" in caplog.text
    np.testing.assert_allclose(views.mask[2], ALPHA, atol=1e-6)


def test_a_turned_tiff_and_its_turned_mask(tmp_path):
    """Pillow turns a TIFF while it reads it; poses are those of the stored pixels, and so is the mask."""
    picture, mask = on(128).copy(), (ALPHA > 0.5).astype(np.uint8)
    mask[:32] = 0
    folder = folder_of(tmp_path / "a", [picture] * 3, [mask] * 3, lambda data: [
        frame.update(mask_path=f"m{k}.tif") for k, frame in enumerate(data["frames"])])
    for k in range(3):
        Image.fromarray(mask).save(folder / f"m{k}.tif", tiffinfo={274: 3})
    np.testing.assert_array_equal(read_views(folder).mask[0], mask)


def test_a_size_that_is_not_the_pictures_is_warned_of(tmp_path, caplog):
    def change(data):
        data.update(w=2 * SIDE, h=2 * SIDE, cx=SIDE, cy=SIDE, fl_x=2 * data["fl_x"], fl_y=2 * data["fl_y"])
    views = read_views(folder_of(tmp_path / "a", [OBJECT] * 3, change=change))
    assert "w 128, h 128, but pictures are of 64 x 64 pixels" in caplog.text and views.fl_x / views.w == pytest.approx(105.32 / 64, abs=1e-3)


def test_folder_with_cameras_of_another_name(tmp_path):
    folder = folder_of(tmp_path / "a", [OBJECT] * 3)
    (folder / "transforms.json").rename(folder / "transforms_val.json")
    with pytest.raises(ShapeError, match="no transforms.json in it, but transforms_val.json; give that file"):
        read_views(folder)


def test_folder_of_a_blender_scene_of_the_nerf_paper(tmp_path, caplog):
    """Names without ending, one angle of view, three files of cameras: those to train on are taken, and it is said."""
    folder = folder_of(tmp_path / "lego", [OBJECT] * 4, change=lambda data: (
        [data.pop(key) for key in list(data) if key not in ("camera_angle_x", "frames")],
        [frame.update(file_path=f"./{frame['file_path'][:-4]}") for frame in data["frames"]]))
    whole = read_views(folder)
    data = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for name, frames in (("train", data["frames"][:3]), ("val", data["frames"][3:]), ("test", data["frames"])):
        (folder / f"transforms_{name}.json").write_text(json.dumps({**data, "frames": frames}))
    with caplog.at_level("INFO", "sgm"):
        views = read_views(folder)
    assert "transforms_train.json is taken, transforms_test.json and transforms_val.json not" in caplog.text
    np.testing.assert_array_equal(views.c2w, whole.c2w[:3])
    assert views.fl_x == pytest.approx(whole.fl_x) and views.mask.max() == 1
    (folder / "transforms.json").write_text(json.dumps(data))       # it goes first
    assert len(read_views(folder)) == 4


def test_views_that_show_more_than_an_object_are_named_in_one_line(tmp_path, caplog):
    pasted = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pasted[10:50, 8:56] = on(120)[10:50, 8:56]                      # a photograph on white: an upright rectangle
    read_views(folder_of(tmp_path / "walls", [on(255), on(255), pasted]))
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "in 1 of 3 views (002.png)" in line and "becomes walls" in line
    caplog.clear()
    read_views(folder_of(tmp_path / "object", [on(255)] * 3))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    at_border = np.zeros((SIDE, SIDE), bool)
    at_border[30:] = True                                           # a floor: 1/4 + 2 * 34/256 of the border
    assert shows_ground(at_border) and not shows_ground(ALPHA > 0.5) and not shows_ground(ALPHA > 2)


def test_doubtful_cut_outs_are_one_line(tmp_path, caplog):
    clutter = np.random.RandomState(0).randint(0, 255, (16, 16, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    picture = np.where(ALPHA[..., None] > 0.5, OBJECT[..., :3], clutter)
    read_views(folder_of(tmp_path / "a", [picture, picture, OBJECT, OBJECT]))
    [line] = [record.getMessage() for record in caplog.records if "badly" in record.getMessage()]
    assert "in 2 of 4 views" in line and "in 000.png because the background is cluttered" in line and "rembg" in line
