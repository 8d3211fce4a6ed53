"""tools/generate_objects.py: what it writes, going on, conditions, fits, and what is refused."""
import json
import os
import signal

import generate_objects
import numpy as np
import pytest
from support.commands import ending
from support.small_autodecoder import write_weights

from sgm.geometry.mesh_reader import load_mesh
from sgm.reconstruct.views_reader import read_views
from sgm.views.cameras import Orbit


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgm.ops.compiled", lambda function: function)
        return write_weights(tmp_path_factory.mktemp("weights") / "small.safetensors", "diffusion.condition.kind=class",
                             "diffusion.condition.labels=[tower, house]")


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """The folder of two objects."""
    output = tmp_path_factory.mktemp("objects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgm.ops.compiled", lambda function: function)
        assert generate_objects.run(flags(weights, output, "--seeds", "3,5", "--label", "house")) == 0
    return output


def flags(weights, output, *more, steps=1):
    return ["--ckpt", str(weights), "--output", str(output), "--size", "16", *map(str, more),
            *(["--steps", str(steps)] if steps else [])]


def test_objects_are_views_folders_with_meshes(made, weights):
    assert sorted(path.name for path in made.iterdir()) == ["seed_0003", "seed_0005", "sheet.png"]
    run = json.loads((made / "seed_0005" / "run.json").read_text())
    assert run["seed"] == 5 and run["condition"]["label"] == "house" and run["condition"]["guidance"] == 3.0
    mesh = load_mesh(made / "seed_0005" / "mesh.glb")
    assert len(mesh.faces) > 100 and np.abs(mesh.vertices).max() < 0.5 + 1 / 16      # a voxel
    views = read_views(made / "seed_0005", 16)
    assert len(views) == 21
    np.testing.assert_allclose(views.c2w, Orbit.static(20.0, 21).poses(), atol=1e-6)


def test_finished_objects_are_kept(made, weights, capsys, uncompiled):
    before = (made / "seed_0003" / "mesh.glb").stat().st_mtime_ns
    same = flags(weights, made, "--seeds", "3,5", "--label", "house")
    assert generate_objects.run(same) == 0
    assert "2 of 2 objects are finished already, skipped" in capsys.readouterr().out
    assert (made / "seed_0003" / "mesh.glb").stat().st_mtime_ns == before
    code, line = ending(generate_objects.run, flags(weights, made, "--seeds", "3", "--label", "tower"), capsys)
    assert code == 2 and "was made otherwise" in line.replace("its views were", "was") and "--overwrite makes it again" in line


def test_overwriting_keeps_what_others_put_there(weights, tmp_path, uncompiled):
    one = flags(weights, tmp_path, "--seeds", "3")
    assert generate_objects.run(one) == 0
    (tmp_path / "seed_0003" / "notes.txt").write_text("mine")
    assert generate_objects.run([*one, "--churn", "0", "--overwrite"]) == 0
    assert (tmp_path / "seed_0003" / "notes.txt").exists()
    assert json.loads((tmp_path / "seed_0003" / "run.json").read_text())["churn"] == 0


def test_interrupted_and_continued(weights, tmp_path, monkeypatch, capsys, uncompiled):
    """What is finished stays, is on the sheet, and is not made again."""
    from sgm.autodecoder.pipeline import Autodecoder
    made = []

    def mesh(self, latent, make=Autodecoder.mesh):
        made.append(latent)
        if len(made) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return make(self, latent)
    monkeypatch.setattr(Autodecoder, "mesh", mesh)
    both = flags(weights, tmp_path, "--count", 2)
    assert generate_objects.run(both) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_0000", "sheet.png"] and len(made) == 1
    assert "interrupted; finished objects stay" in capsys.readouterr().err
    assert generate_objects.run(both) == 0 and len(made) == 2 and (tmp_path / "seed_0001").is_dir()


@pytest.mark.slow
def test_between_two_seeds(weights, tmp_path, uncompiled):
    """The ends are the seeds' own objects without added noise."""
    assert generate_objects.run(flags(weights, tmp_path / "way", "--between", 3, 5, "--count", 3)) == 0
    assert generate_objects.run(flags(weights, tmp_path / "ends", "--seeds", "3,5", "--churn", 0)) == 0
    for place, seed in ((0, 3), (2, 5)):
        ours, end = (load_mesh(tmp_path / name / "mesh.glb") for name in (f"way/between_3_5_{place:03d}", f"ends/seed_{seed:04d}"))
        np.testing.assert_allclose(ours.vertices, end.vertices, atol=1e-4)


def test_fit(made, weights, tmp_path, uncompiled):
    source = made / "seed_0003"
    assert generate_objects.run(flags(weights, tmp_path, "--fit", source, "--fit-views", "0,7", "--fit-steps", 1, steps=0)) == 0
    folder = tmp_path / "fit_seed_0003"
    assert {"mesh.glb", "fitted.png", "transforms.json", "020.png"} <= {path.name for path in folder.iterdir()}
    run = json.loads((folder / "run.json").read_text())
    assert run["fitted"]["views"] == ["000.png", "007.png"] and run["metrics"]["psnr"] > 0


def test_a_single_view_is_enough(made, weights):
    """Of a folder that has no more."""
    from sgm.autodecoder.pipeline import load_autodecoder
    source = made / "seed_0003" / "transforms.json"
    cameras = json.loads(source.read_text())
    cameras["frames"] = cameras["frames"][4:5]
    one = source.with_name("one.json")
    one.write_text(json.dumps(cameras))
    assert [path.name for path in load_autodecoder(ckpt=weights).read(one).files] == ["004.png"]
    one.unlink()


@pytest.mark.parametrize("more, said", [
    (["--count", "3", "--seeds", "1,2"], "--count 3: --seeds names 2"),
    (["--between", "1", "2", "--seeds", "3"], "--between: found --seeds"),
    (["--between", "1", "2", "--churn", "1"], "--between: found --churn 1, expected none"),
    (["--between", "1", "2", "--count", "1"], "expected both ends: 2 or more"),
    (["--fit", "x"], "--fit: found --steps, which samples new objects"),
    (["--fit-steps", "3"], "--fit-steps: belongs to --fit"), (["--tower-ckpt", "x"], "--tower-ckpt: belongs to --image"),
    (["--label", "cup"], "--label: found cup, expected one of tower, house"),
    (["--image", "x"], "--image: found x, expected --label"),
    (["--model", "autodecoder_chairs"], "found weights of autodecoder_small, expected autodecoder_chairs; give --model")])
def test_bad_flags_are_one_line(more, said, weights, tmp_path, capsys):
    code, line = ending(generate_objects.run, flags(weights, tmp_path / "out", *more), capsys)
    assert code == 2 and said in line and not (tmp_path / "out" / "sheet.png").exists()


def test_weights_of_stage_1_and_none(weights, made, tmp_path, capsys):
    from sgm.checkpoints.mapped_file import open_checkpoint
    from sgm.checkpoints.safetensors_format import save_safetensors
    store = open_checkpoint(weights)
    first = {key: np.array(store.read(key)) for key in store if not key.startswith(("denoiser.", "latent_m", "latent_dev"))}
    save_safetensors(tmp_path / "first.safetensors", first, store.metadata)
    code, line = ending(generate_objects.run, flags(tmp_path / "first.safetensors", tmp_path / "out"), capsys)
    assert code == 2 and "--ckpt: found weights of stage 1, expected those of stage 2" in line
    code, line = ending(generate_objects.run, flags(tmp_path / "none.safetensors", tmp_path / "out"), capsys)
    assert code == 2 and "none.safetensors" in line
