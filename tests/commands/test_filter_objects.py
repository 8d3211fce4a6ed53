"""tools/filter_objects.py: the losses of masks, what is kept, and what is refused."""
import csv

import filter_objects
import numpy as np
import pytest
from support.commands import ending
from support.small_autodecoder import write_objects, write_weights

from sgm.train.data.packed import PackedOrbits
from sgm.train.objects.mask_losses import deviations


@pytest.fixture
def weights(tmp_path, uncompiled):
    return write_weights(tmp_path / "small.safetensors", "objects=6")


@pytest.fixture
def data(weights, tmp_path):
    """The objects of the weights as they see themselves; but the views of the fourth are those of the others in turn."""
    from sgm.autodecoder.pipeline import load_autodecoder
    from sgm.train.objects.masked_views import MaskedViews
    folder = write_objects(tmp_path / "set", count=6)
    model = load_autodecoder(ckpt=weights).model
    views = MaskedViews([str(folder)], 16)
    made = model.render(model.latents_of(range(6)), views.poses(0), 16)
    made[3] = [made[(0, 1, 2, 4, 5, 0)[view], view] for view in range(6)]
    np.save(folder / "clips.npy", np.round(made * 255).astype(np.uint8))
    np.save(folder / "names.npy", np.array([f"{k:06d}" for k in range(6)]))
    return folder


@pytest.mark.slow
def test_object_that_contradicts_itself_is_dropped(weights, data, tmp_path, capsys):
    out, kept = tmp_path / "losses.csv", tmp_path / "kept"
    assert filter_objects.run([str(data), "--ckpt", str(weights), "--out", str(out), "--kept", str(kept), "--views", "6"]) == 0
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert [row["kept"] for row in rows] == ["1", "1", "1", "0", "1", "1"]
    assert float(rows[3]["loss"]) > 10 * max(float(row["loss"]) for row in rows[:3])
    found = PackedOrbits([kept])
    assert len(found) == 5 and np.load(kept / "names.npy").tolist() == ["000000", "000001", "000002", "000004", "000005"]
    assert (found[3].arrays["clips"][3] == np.load(data / "clips.npy")[4]).all()
    assert "1 of 6 objects are dropped" in capsys.readouterr().out


def test_what_clips_note_is_kept(tmp_path):
    """The azimuths of the inputs, which synthesize.py learns from, row by row, and how the set was made."""
    folder, kept = write_objects(tmp_path / "set"), tmp_path / "kept"
    np.save(folder / "starts.npy", np.float32([10, 20, 30]))
    (folder / "render.json").write_text("{}")
    filter_objects.write_kept(kept, PackedOrbits([folder]), np.array([True, False, True]), ["a", "b", "c"])
    assert np.load(kept / "starts.npy").tolist() == [10, 30] and np.load(kept / "names.npy").tolist() == ["a", "c"]
    assert (kept / "render.json").read_text() == "{}"


def test_losses_that_are_not_finite(weights, tmp_path, capsys, monkeypatch):
    data = write_objects(tmp_path / "nan", count=6)
    np.save(data / "names.npy", np.array(list("abcdef")))
    monkeypatch.setattr("sgm.train.objects.mask_losses.mask_losses", lambda *_: np.full(6, np.nan))
    code, line = ending(filter_objects.run, [str(data), "--ckpt", str(weights), "--out", str(tmp_path / "a.csv")], capsys)
    assert code == 2 and "found losses that are not finite" in line and not (tmp_path / "a.csv").exists()


def test_deviations_are_robust():
    """One loss of a hundred that is huge does not hide itself: the others are as they were."""
    losses = np.random.default_rng(0).normal(5, 0.5, 100)
    np.testing.assert_allclose(deviations(losses).std(), 1, atol=0.2)
    shifted = deviations(np.append(losses, 1000.0))
    assert shifted[-1] > 100 and np.abs(shifted[:-1] - deviations(losses)).max() < 0.1


def test_other_data_than_the_weights(weights, tmp_path, capsys):
    data = write_objects(tmp_path / "other", count=2)
    code, line = ending(filter_objects.run, [str(data), "--ckpt", str(weights), "--out", str(tmp_path / "a.csv")], capsys)
    assert code == 2 and "found weights of 6 objects, expected those of the 2 of the data" in line
    (tmp_path / "kept").mkdir()
    code, line = ending(filter_objects.run, [str(data), "--ckpt", str(weights), "--out", str(tmp_path / "a.csv"), "--kept",
                                             str(tmp_path / "kept")], capsys)
    assert code == 2 and "exists already, expected a new folder" in line
    assert not (tmp_path / "a.csv").exists()
