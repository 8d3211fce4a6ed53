"""tools/synthesize.py: sets of generated orbits, the filter that is learned on them, and what it keeps."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.badfiles import object_on_white
from support.commands import ending, load_tool
from support.small_lrm import CHANGES

import sgm.feedforward.reconstructor as reconstructor
from sgm import ops
from sgm.config.lrm import load_lrm_spec
from sgm.config.model_files import load_spec
from sgm.ops import device
from sgm.render.procedural import make_object, on_white
from sgm.render.zbuffer import render_views
from sgm.train.data.packed import load_packed
from sgm.views.cameras import FOV_DEG, Orbit
from sgm.views.folder import Views

command = load_tool("synthesize")


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Eight procedural objects on static orbits of 21 views at 10 degrees."""
    folder, orbit = tmp_path_factory.mktemp("data") / "objects", Orbit.static(10, 21)
    folder.mkdir()
    np.save(folder / "clips.npy", np.stack([render_views(make_object(seed), orbit.poses(), 64, FOV_DEG) for seed in range(8)]))
    np.save(folder / "azimuths.npy", np.tile(np.float32(orbit.azimuths_deg), (8, 1)))
    np.save(folder / "elevations.npy", np.full((8, 21), 10, np.float32))
    np.save(folder / "names.npy", np.array([f"{seed:07d}" for seed in range(8)]))
    return folder


@pytest.fixture
def made(objects, monkeypatch):
    """A model that knows the objects: by the input it finds object and view, and turns it. What it was asked, in order."""
    true, asked = np.load(objects / "clips.npy"), []
    small = SimpleNamespace(spec=load_lrm_spec("lrm_small", CHANGES))

    def load_model(name, ckpt, dtype, overrides, lora):
        return SimpleNamespace(spec=load_spec(name, overrides), weights_hash=lambda: "abc")

    def generate_views(engine, image, orbit, options):
        difference = np.abs(np.int32(on_white(true)) - on_white(image)) + np.abs(np.int32(true[..., 3:]) - image[..., 3:])
        index, view = np.unravel_index(difference.sum((2, 3, 4)).argmin(), true.shape[:2])
        asked.append((int(index), int(view), orbit.elevations_deg[0], options.seed))
        views = np.roll(true[index], 20 - view, 0)
        if index >= 4:                                          # the others come out badly
            views = np.roll(views, 9, 2)
            views[..., :3] = views[..., :3] // 2
        return Views(on_white(views), image, orbit, cut=views)

    def load_lrm(name, ckpt, overrides=()):
        if not hasattr(small, "network"):
            small.network = reconstructor.load_lrm_of(small.spec, "random", 1).network
        return reconstructor.Reconstructor(small.spec, small.network)

    monkeypatch.setattr("sgm.diffusion.pipeline.load_model", load_model)
    monkeypatch.setattr("sgm.diffusion.pipeline.generate_views", generate_views)
    monkeypatch.setattr("_clip_labels.load_lrm", load_lrm)
    monkeypatch.setattr("sgm.ops.compiled", lambda function: function)
    for module in (device, ops):
        monkeypatch.setattr(module, "wait", lambda: None)
    return asked


def clips(objects, out, *more):
    return command.run(["clips", str(objects), "--out", str(out), *more])


def test_clips_of_sets_are_sets(objects, made, tmp_path, capsys):
    """The input is one of the views, by seed and name; what is there is kept; a shard is a part of the whole."""
    out = tmp_path / "made"
    assert clips(objects, out) == 0 and f"{out}: 8 clips" in capsys.readouterr().out
    arrays = load_packed(out)
    assert arrays["clips"].shape == (8, 21, 64, 64, 4) and (arrays["elevations"] == 10).all()
    views = [view for _, view, *_ in made]
    assert len(set(views)) > 2 and len({seed for *_, seed in made}) == 8
    starts, names = np.load(out / "starts.npy"), np.load(out / "names.npy")
    np.testing.assert_allclose(starts, [Orbit.static(10, 21).azimuths_deg[view] for view in views], atol=1e-4)
    assert names.tolist() == np.load(objects / "names.npy").tolist()
    first = list(made)
    assert clips(objects, out) == 0 and made == first and "already holds these 8 clips" in capsys.readouterr().out
    # interrupted after five: the other three, as they would have been
    (tmp_path / "part.partial").mkdir()
    for file in out.iterdir():
        (tmp_path / "part.partial" / file.name).write_bytes(file.read_bytes())
    np.save(tmp_path / "part.partial" / "done.npy", np.arange(8) < 5)
    assert clips(objects, tmp_path / "part") == 0 and made[8:] == first[5:]
    assert (load_packed(tmp_path / "part")["clips"] == arrays["clips"]).all()
    assert clips(objects, tmp_path / "quarters", "--shard", "1/4") == 0 and made[11:] == [first[1], first[5]]
    assert (load_packed(tmp_path / "quarters" / "shard_1")["clips"] == arrays["clips"][1::4]).all()
    code, line = ending(command.run, ["clips", str(objects), "--out", str(out), "--seed", "1"], capsys)
    assert code == 2 and "holds orbits rendered with seed 0, this run has seed 1" in line
    code, line = ending(command.run, ["clips", str(objects), "--out", str(out), "--dtype", "fp16"], capsys)
    assert code == 2 and "holds orbits rendered with dtype fp32, this run has dtype fp16" in line
    (tmp_path / "lora").write_bytes(b"of a LoRA")
    code, line = ending(command.run, ["clips", str(objects), "--out", str(out), "--lora", str(tmp_path / "lora")], capsys)
    assert code == 2 and "holds orbits rendered with lora None, this run has lora sha256:" in line


def test_processes_of_msrun(objects, made, tmp_path, monkeypatch):
    """Each worker makes its share on its NPU; the scheduler makes nothing."""
    devices = []
    monkeypatch.setattr(ops, "set_device", lambda *given: devices.append(given))
    for name, value in (("MS_ROLE", "MS_WORKER"), ("RANK_ID", "1"), ("RANK_SIZE", "4"), ("DEVICE_ID", "3")):
        monkeypatch.setenv(name, value)
    assert clips(objects, tmp_path / "made") == 0 and devices == [("CPU", 3)] and [index for index, *_ in made] == [1, 5]
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    assert clips(objects, tmp_path / "none") == 0 and not (tmp_path / "none").exists() and len(made) == 2


def test_filter_learns_what_is_bad(objects, made, tmp_path, capsys):
    """Half of the clips disagree with the true views: a filter on the others tells them, and keeps the good ones."""
    out, file, kept = tmp_path / "made", tmp_path / "filter.safetensors", tmp_path / "kept"
    assert clips(objects, out) == 0
    network = ["--lrm", "any.safetensors"]
    capsys.readouterr()
    assert command.run(["learn", str(out), "--out", str(file), *network]) == 0
    said = capsys.readouterr().out
    assert "4 clips trained on, 4 of other objects measured" in said and "hull coverage" in said and file.exists()
    assert command.run(["keep", str(out), "--filter", str(file), "--out", str(kept), *network]) == 0
    assert "4 of 8 clips are taken for good" in capsys.readouterr().out
    assert np.load(kept / "names.npy").tolist() == [f"{seed:07d}" for seed in range(4)]
    assert (np.load(kept / "starts.npy") == np.load(out / "starts.npy")[:4]).all()
    assert (load_packed(kept)["clips"] == load_packed(out)["clips"][:4]).all()
    assert command.run(["learn", str(out), "--out", str(file), "--corrupt", *network]) == 0
    said = capsys.readouterr().out
    assert "20 clips trained on, 20 of other objects measured" in said
    # little change is good, as of the clips trained on most of the spoilt ones change more: so the static ones count as the best
    assert "static 0.000" in said.partition("change, low")[2]


def test_forms_of_an_object_stay_together(objects, made, tmp_path, capsys, monkeypatch):
    """Swapped in is another object, of the same half; no object is on both sides of the split; a baseline's sign is learned."""
    out, order = tmp_path / "twice", [k // 2 for k in range(16)]
    out.mkdir()
    for name in ("clips", "azimuths", "elevations"):
        np.save(out / f"{name}.npy", np.load(objects / f"{name}.npy")[order][:, :4])
    np.save(out / "names.npy", np.array([f"Scopia-{k // 2:03d}-{k % 2:02d}" for k in range(16)]))
    asked, fitted, labels = [], [], __import__("_clip_labels")
    true = on_white(np.load(out / "clips.npy"))

    def corrupted(kind, frames, other, rng):
        asked.append([int(np.abs(np.int32(true[::2]) - x).sum((1, 2, 3, 4)).argmin()) for x in (frames, other)])
        return frames

    fit = labels.fit_filter
    monkeypatch.setattr(labels, "features_of", lambda model, frames: np.float64([
        np.abs(np.int32(true[::2]) - frames).sum((1, 2, 3, 4)).argmin()]))
    monkeypatch.setattr(labels, "corrupted", corrupted)
    monkeypatch.setattr(labels, "frame_change", lambda frames: float(len(asked) % 5))     # lowest before a clip is spoilt
    monkeypatch.setattr(labels, "fit_filter", lambda features, *more: fitted.append(set(features[:, 0])) or fit(features, *more))
    assert command.run(["learn", str(out), "--out", str(tmp_path / "f"), "--corrupt", "--lrm", "x"]) == 0
    assert all(a != b and a % 2 == b % 2 for a, b in asked) and len(asked) == 64
    assert fitted == [{0, 2, 4, 6}, set(range(8))] and "frames' change, low" in capsys.readouterr().out


def test_images(made, tmp_path, capsys):
    object_on_white().save(tmp_path / "cup.png")
    out = tmp_path / "made"
    assert command.run(["clips", str(tmp_path / "cup.png"), "--out", str(out), "--elevation", "20", "20"]) == 0
    assert made[0][2] == 20 and json.loads((out / "render.json").read_text())["model"] == "sv3d_tiny"
    code, line = ending(command.run, ["clips", str(tmp_path / "cup.png"), "--out", str(tmp_path / "other")], capsys)
    assert code == 2 and "--elevation: found 0 45, expected the one elevation of the images, twice" in line


@pytest.mark.parametrize("flags, said", [
    (["--elevation", "30", "40"], "--elevation: found no view of 0000000 between 30 and 40 degrees, expected some; its views"),
    (["--shard", "4/4"], "argument --shard: found '4/4', expected K/N"), (["--config", "svd_tiny"], "expected an orbit model"),
    (["--count", "1", "--shard", "3/4"], "--shard 3/4: found nothing for it to do")])
def test_what_is_refused(objects, made, flags, said, tmp_path, capsys):
    code, line = ending(command.run, ["clips", str(objects), "--out", str(tmp_path / "made"), *flags], capsys)
    assert code == 2 and said in line, line


def test_filters_and_sets_that_do_not_fit(objects, made, tmp_path, capsys):
    code, line = ending(command.run, ["learn", str(objects), "--out", str(tmp_path), "--lrm", "x"], capsys)
    assert code == 2 and "is a folder, expected a file to write" in line
    code, line = ending(command.run, ["learn", str(objects), "--out", str(tmp_path / "f"), "--lrm", "x"], capsys)
    assert code == 2 and "found no starts.npy, expected a set of synthesize.py clips or keep" in line
    code, line = ending(command.run, ["keep", str(objects), "--filter", str(tmp_path / "no"), "--out", str(tmp_path / "kept"),
                                      "--lrm", "x"], capsys)
    assert code == 2 and "no" in line
    names = np.array([f"chair{k}" for k in range(8)])
    other = tmp_path / "named"
    other.mkdir()
    for name in ("clips", "azimuths", "elevations"):
        np.save(other / f"{name}.npy", np.load(objects / f"{name}.npy"))
    np.save(other / "names.npy", names)
    code, line = ending(command.run, ["learn", str(other), "--out", str(tmp_path / "f"), "--lrm", "x"], capsys)
    assert code == 2 and "found chair0, expected procedural objects" in line
