"""Image metrics by hand, and evaluate.py on folders written here."""
import csv
import json

import numpy as np
import pytest
from PIL import Image
from support.commands import load_tool

from sgm.render import catalogue
from sgm.views import metrics

evaluate, THUMB = load_tool("evaluate"), load_tool("_evaluation").THUMB
WHITE = np.full((16, 16, 3), 255, np.uint8)


def patch(rows, cols, color=(0, 0, 0)):
    image = WHITE.copy()
    image[rows, cols] = color
    return image


def test_psnr_by_hand():
    a, b = np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)
    assert metrics.psnr(a, b) == pytest.approx(20)
    assert metrics.psnr(a, a) == metrics.MAX_PSNR
    half = np.zeros((4, 4, 3))
    half[:2] = 0.1
    assert metrics.psnr(a, half) == pytest.approx(20 + 10 * np.log10(2))
    assert metrics.psnr(a, half, half[..., 0] > 0) == pytest.approx(20)
    assert metrics.psnr(a, half, np.zeros((4, 4), bool)) == metrics.MAX_PSNR


def test_ssim_by_hand():
    rng = np.random.default_rng(0)
    image = rng.random((12, 12, 3))
    assert metrics.ssim(image, image) == pytest.approx(1)
    a, b = np.full((9, 9, 3), 0.2), np.full((9, 9, 3), 0.6)               # flat: only the luminance term is left
    assert metrics.ssim(a, b) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))
    # one window, one channel's numbers written out
    first, second = rng.random((7, 7, 1)), rng.random((7, 7, 1))
    x, y = first.ravel(), second.ravel()
    expected = ((2 * x.mean() * y.mean() + 1e-4) * (2 * np.cov(x, y)[0, 1] + 9e-4)
                / ((x.mean() ** 2 + y.mean() ** 2 + 1e-4) * (x.var(ddof=1) + y.var(ddof=1) + 9e-4)))
    assert metrics.ssim(np.repeat(first, 3, -1), np.repeat(second, 3, -1)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="7 x 7"):
        metrics.ssim(np.zeros((6, 9, 3)), np.zeros((6, 9, 3)))


def test_silhouettes():
    ring = patch(slice(2, 12), slice(2, 12))
    ring[5:9, 5:9] = 255                                                  # a white part inside the object
    assert metrics.silhouette(ring).sum() == 100
    ring[2:12, 6] = 255                                                   # now the border reaches it
    assert metrics.silhouette(ring).sum() < 100 - 16
    nearly = patch(slice(2, 4), slice(2, 4), (243, 255, 255))             # 12 of 255 away: still background
    assert metrics.silhouette(nearly).sum() == 0
    assert metrics.silhouette(patch(slice(2, 4), slice(2, 4), (242, 255, 255))).sum() == 4
    rgba = np.dstack([WHITE, np.full((16, 16), 127, np.uint8)])
    rgba[:3, :, 3] = 128
    assert metrics.silhouette(rgba).sum() == 48
    opaque = np.dstack([ring, np.full((16, 16), 255, np.uint8)])          # an alpha that says nothing
    assert (metrics.silhouette(opaque) == metrics.silhouette(ring)).all()


def test_iou_and_compare():
    truth, prediction = patch(slice(0, 8), slice(0, 4)), patch(slice(0, 8), slice(2, 6))
    result = metrics.compare(prediction, truth)
    assert result["iou"] == pytest.approx(16 / 48)
    assert result["psnr"] == pytest.approx(-10 * np.log10(32 / 256))
    assert result["psnr_fg"] == pytest.approx(-10 * np.log10(32 / 48))
    empty = np.zeros((4, 4), bool)
    assert metrics.silhouette_iou(empty, empty) == 1 and metrics.silhouette_iou(empty, ~empty) == 0


def test_alpha_is_composited_on_white():
    view = np.array([[[0, 0, 0, 51]]], np.uint8)
    np.testing.assert_allclose(metrics.on_white(view), np.full((1, 1, 3), 0.8))


def test_baselines():
    truth = np.stack([patch(slice(k, k + 4), slice(j, j + 4)) for k, j in ((0, 0), (8, 0), (4, 4))])
    assert (metrics.input_repeated(truth) == truth[2]).all()
    mean = metrics.mean_of_orbit(truth)
    assert mean.shape == truth.shape and mean[0, 0, 0].tolist() == [128, 128, 128]
    assert mean[0, 5, 5].tolist() == [255, 255, 255]                      # the input view is not in the mean
    assert len(metrics.compare_orbit(mean, truth)) == 2
    with pytest.raises(ValueError, match="must agree"):
        metrics.compare_orbit(mean[:2], truth)


def write_views(folder, views, azimuths=None):
    folder.mkdir(parents=True)
    for k, view in enumerate(views):
        Image.fromarray(view).save(folder / f"{k:03d}.png")
    Image.fromarray(WHITE).save(folder / "contact.png")                   # other pictures are not views
    if azimuths is not None:
        frames = [{"azimuth_deg": a, "elevation_deg": 0} for a in azimuths]
        (folder / "transforms.json").write_text(json.dumps({"frames": frames}))


TRUTH = [patch(slice(0, 8), slice(k, k + 4), (255, 0, 0)) for k in (0, 4, 8)]


def test_one_pair_with_csv_sheet_and_wrong_poses(tmp_path, capsys):
    write_views(tmp_path / "p", TRUTH, (120, 240, 0))
    write_views(tmp_path / "t", TRUTH, (120, 240, 0))
    write_views(tmp_path / "w", TRUTH[1::-1] + TRUTH[2:], (240, 120, 0))
    assert evaluate.run(["views", str(tmp_path / "p"), str(tmp_path / "t"), "--csv", str(tmp_path / "out" / "a.csv"),
                          "--wrong-poses", str(tmp_path / "w"), "--sheet", str(tmp_path / "a.png")]) == 0
    text = capsys.readouterr().out
    wrong = -10 * np.log10(2 / 3)                                         # red against white: 2 of 3 channels
    assert f"{100 - wrong:+.2f} dB over w" in text
    assert "0.00 times that of the input repeated" in text
    rows = list(csv.DictReader((tmp_path / "out" / "a.csv").open()))
    assert len(rows) == 4 * 2
    assert {r["method"] for r in rows} == {"prediction", "input repeated", "mean of true orbit", "w"}
    assert float(rows[0]["psnr"]) == 100 and float(rows[2]["iou"]) == 0
    assert Image.open(tmp_path / "a.png").size == (3 * THUMB, 2 * THUMB)


def test_folders_matched_by_name_and_resized(tmp_path, capsys):
    for name in "ab":
        write_views(tmp_path / "t" / name, TRUTH)
        write_views(tmp_path / "p" / name, [v.repeat(2, 0).repeat(2, 1) for v in TRUTH])
    write_views(tmp_path / "t" / "unused", TRUTH)
    assert evaluate.run(["views", str(tmp_path / "p"), str(tmp_path / "t")]) == 0
    assert "mean of 2 objects" in capsys.readouterr().out


def test_catalogue_objects_with_a_sibling_in_train_are_left_out_once(tmp_path, capsys, monkeypatch):
    """Of three objects one has a sibling, and a prediction that is wrong: 10 log10(3/2) dB instead of 100."""
    (tmp_path / "list.csv").write_text("library,id,sibling\nTiny,1,Tiny-009\nTiny,2,\n")
    monkeypatch.setattr(catalogue, "LIST", tmp_path / "list.csv")
    for name, views in (("Tiny-001-front", TRUTH[1::-1] + TRUTH[2:]), ("Tiny-002-front", TRUTH), ("Tiny-0012", TRUTH)):
        write_views(tmp_path / "t" / name, TRUTH)
        write_views(tmp_path / "p" / f"{name}_23", views)
    assert evaluate.run(["views", str(tmp_path / "p"), str(tmp_path / "t")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    wrong = 10 * np.log10(3 / 2)
    means = [(row[1], row[2]) for row in rows if row[0] == "prediction"]
    assert [means[0][1], means[1][1]] == [f"{(200 + wrong) / 3:.2f}", "100.00"]
    assert ["mean", "of", "the", "2"] in [row[:4] for row in rows]


@pytest.mark.parametrize("spoil, said", [
    (lambda p: (p / "001.png").unlink(), "has 2 views, the truth has 3"),
    (lambda p: (p / "001.png").write_bytes(b"junk"), "001.png: found no image of a known kind"),
    (lambda p: (p / "transforms.json").write_text("{"), "transforms.json: is not JSON"),
    (lambda p: (p / "transforms.json").write_text(json.dumps({"frames": [{"azimuth_deg": a} for a in (240, 120, 0)]})),
     "view 0 is at azimuth 240.0"),
    (lambda p: [f.unlink() for f in p.glob("0*.png")], "has no views"),
    (lambda p: Image.fromarray(WHITE[:8]).save(p / "001.png"), None)])
def test_wrong_input_is_one_line(tmp_path, capsys, spoil, said):
    write_views(tmp_path / "p", TRUTH, (120, 240, 0))
    write_views(tmp_path / "t", TRUTH, (120, 240, 0))
    spoil(tmp_path / "p")
    status = evaluate.run(["views", str(tmp_path / "p"), str(tmp_path / "t")])
    error = capsys.readouterr().err
    if said is None:
        assert status == 0                                                # another size is resized
    else:
        assert status == 2 and said in error and error.count("\n") == 1


def test_one_against_many_and_strangers(tmp_path, capsys):
    write_views(tmp_path / "one", TRUTH)
    write_views(tmp_path / "many" / "a", TRUTH)
    write_views(tmp_path / "others" / "b", TRUTH)
    assert evaluate.run(["views", str(tmp_path / "one"), str(tmp_path / "many")]) == 2
    assert "is one views folder" in capsys.readouterr().err
    assert evaluate.run(["views", str(tmp_path / "others"), str(tmp_path / "many")]) == 2
    assert "has no folder of that name" in capsys.readouterr().err
    assert evaluate.run(["views", str(tmp_path / "none"), str(tmp_path / "many")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_images_views_are_paired_with_the_image(tmp_path, capsys):
    """cup_23 and cup_24, of two seeds, with cup; a true folder of the whole name comes first."""
    other = [np.roll(view, 3, 0) for view in TRUTH]
    for name, views in (("cup", TRUTH), ("jar_7", TRUTH), ("jar", other)):
        write_views(tmp_path / "t" / name, views)
    for name in ("cup_23", "cup_24", "jar_7"):
        write_views(tmp_path / "p" / name, TRUTH)
        write_views(tmp_path / "w" / name, TRUTH[1::-1] + TRUTH[2:])
    argv = ["views", str(tmp_path / "p"), str(tmp_path / "t"), "--csv", str(tmp_path / "a.csv"), "--wrong-poses", str(tmp_path / "w")]
    assert evaluate.run(argv) == 0
    rows = [row for row in csv.DictReader((tmp_path / "a.csv").open()) if row["method"] == "prediction"]
    assert {row["object"] for row in rows} == {"cup_23", "cup_24", "jar_7"} and {float(row["psnr"]) for row in rows} == {100}
    write_views(tmp_path / "p" / "cup_old", TRUTH)
    capsys.readouterr()
    assert evaluate.run(argv) == 2
    assert "cup_old: " in capsys.readouterr().err
