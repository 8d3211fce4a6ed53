"""tools/generate_objects.py: what it writes, going on, conditions, fits, and what is refused."""
import json
import os
import signal
from types import SimpleNamespace

import generate_objects
import numpy as np
import pytest
from support.commands import ending
from support.small_autodecoder import write_weights

from sgm.autodecoder.fitting import Fit
from sgm.autodecoder.object_folder import as_levels
from sgm.autodecoder.pipeline import Autodecoder
from sgm.autodecoder.surface import LEVEL, surface_of
from sgm.common.errors import InputError
from sgm.config.autodecoding import load_autodecoder_spec
from sgm.geometry.mesh_reader import load_mesh
from sgm.reconstruct.views_reader import read_views
from sgm.views.cameras import Orbit
from sgm.views.images import save_png

CLASSES = ["kind=class", "labels=[tower, house]"]


class Balls(Autodecoder):
    """In place of networks: a latent is a number, the object a ball that grows with it."""

    def __init__(self):
        spec = load_autodecoder_spec("autodecoder_small", [f"diffusion.condition.{change}" for change in CLASSES])
        super().__init__(SimpleNamespace(spec=spec), generates=True)
        self._fitter, self.calls = SimpleNamespace(fit=self.fitted), []

    def sample(self, seeds, steps=None, churn=None, condition=None, guidance=None, start=None, progress=None):
        self.calls.append((list(seeds), steps, churn, condition, guidance))
        for step in range(steps):
            progress(step + 1, steps)
        return np.array(seeds, float).reshape(-1, 1, 1)

    def between(self, first, second, count, steps, condition, guidance, progress, places):
        self.calls.append((first, second, count, places))
        return np.linspace(first, second, count)[places].reshape(-1, 1, 1)

    def fitted(self, views, steps, seed, source, progress, stopped):
        for step in range(steps):
            progress("embedding", step + 1, steps)
        return Fit(np.zeros((1, 8)), 2, 1.0), np.array([[[4.0]]])

    def mesh(self, latent):
        z, y, x = np.meshgrid(*[(np.arange(8) + 0.5) / 8 - 0.5] * 3, indexing="ij")
        radius = 0.2 + 0.02 * latent[0, 0]
        raw = LEVEL + 20 * (radius - np.sqrt(x * x + y * y + z * z))
        return surface_of(np.stack([raw, x, y, z], -1).reshape(-1, 4).astype(np.float32))

    def render(self, latent, orbit, size=None):
        return np.full((len(orbit), 16, 16, 4), (200, 10, 10, 0), np.uint8) + np.uint8(DISC[..., None] * (0, 0, 0, 255))


DISC = np.hypot(*(np.indices((16, 16)) - 7.5)) < 5


@pytest.fixture
def balls(monkeypatch):
    found = Balls()
    monkeypatch.setattr("sgm.autodecoder.pipeline.load_autodecoder", lambda *_: found)
    monkeypatch.setattr("sgm.autodecoder.object_folder.seen_like", lambda _, latent, views: as_levels(views.rgb, views.mask))
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "small.safetensors", *(
        f"diffusion.condition.{change}" for change in CLASSES))


def flags(weights, output, *more, steps=2):
    return ["--ckpt", str(weights), "--output", str(output), "--size", "16", *map(str, more),
            *(["--steps", str(steps)] if steps else [])]


def test_objects_are_views_folders_with_meshes(balls, weights, tmp_path):
    assert generate_objects.run(flags(weights, tmp_path, "--seeds", "3,5", "--label", "house")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_0003", "seed_0005", "sheet.png"]
    (seeds, steps, churn, condition, guidance), = balls.calls
    assert (seeds, steps, churn, guidance) == ([3, 5], 2, 40.0, 3.0) and condition.tolist() == [[0, 1]]
    run = json.loads((tmp_path / "seed_0005" / "run.json").read_text())
    assert run["seed"] == 5 and run["condition"]["label"] == "house" and run["condition"]["guidance"] == 3.0
    mesh = load_mesh(tmp_path / "seed_0005" / "mesh.glb")
    assert abs(np.linalg.norm(mesh.vertices, axis=1).max() - 0.3) < 0.01
    views = read_views(tmp_path / "seed_0005", 16)
    assert len(views) == 21 and (views.mask[0] > 0.5).tolist() == DISC.tolist()     # the object's own alpha
    np.testing.assert_allclose(views.c2w, Orbit.static(20.0, 21).poses(), atol=1e-6)


def test_finished_objects_are_kept(balls, weights, tmp_path, capsys):
    """Five objects are sampled four at a time, the last ones in the same shape; what others differ in is named."""
    assert generate_objects.run(flags(weights, tmp_path, "--count", 5)) == 0
    assert [call[0] for call in balls.calls] == [[0, 1, 2, 3], [4, 4, 4, 4]]
    capsys.readouterr()
    assert generate_objects.run(flags(weights, tmp_path, "--count", 5)) == 0 and len(balls.calls) == 2
    assert "5 of 5 objects are finished already, skipped" in capsys.readouterr().out
    code, line = ending(generate_objects.run, flags(weights, tmp_path, "--count", 5, steps=3), capsys)
    assert code == 2 and "made otherwise (steps 2, now 3); --overwrite makes it again" in line


def test_overwriting_keeps_what_others_put_there(balls, weights, tmp_path):
    one = flags(weights, tmp_path, "--seeds", "3")
    assert generate_objects.run(one) == 0
    (tmp_path / "seed_0003" / "notes.txt").write_text("mine")
    assert generate_objects.run([*one, "--churn", "0", "--overwrite"]) == 0
    assert (tmp_path / "seed_0003" / "notes.txt").exists()
    assert json.loads((tmp_path / "seed_0003" / "run.json").read_text())["churn"] == 0


def test_interrupted_and_continued(balls, weights, tmp_path, monkeypatch, capsys):
    """What is finished stays, is on the sheet, and is not made again."""
    made = []

    def mesh(latent, make=balls.mesh):
        made.append(latent)
        if len(made) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return make(latent)
    monkeypatch.setattr(balls, "mesh", mesh)
    both = flags(weights, tmp_path, "--count", 2)
    assert generate_objects.run(both) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_0000", "sheet.png"] and len(made) == 1
    assert "interrupted; finished objects stay" in capsys.readouterr().err
    assert generate_objects.run(both) == 0 and len(made) == 2 and (tmp_path / "seed_0001").is_dir()


def test_empty_objects_are_told(balls, weights, tmp_path, monkeypatch, capsys):
    """The others are made; exit code 1."""
    def mesh(latent, make=balls.mesh):
        if latent[0, 0] == 1:
            raise InputError("found an empty volume")
        return make(latent)
    monkeypatch.setattr(balls, "mesh", mesh)
    assert generate_objects.run(flags(weights, tmp_path, "--count", 3)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_0000", "seed_0002", "sheet.png"]
    assert "seed_0001: found an empty volume" in capsys.readouterr().err


def test_fit(balls, weights, tmp_path, capsys):
    """Some views of a folder; again only if their pictures change."""
    assert generate_objects.run(flags(weights, tmp_path, "--seeds", "3")) == 0
    source = tmp_path / "seed_0003"
    fit = flags(weights, tmp_path, "--fit", source, "--fit-views", "0,7", "--fit-steps", 1, steps=0)
    assert generate_objects.run(fit) == 0
    folder = tmp_path / "fit_seed_0003"
    assert {"mesh.glb", "fitted.png", "transforms.json", "020.png"} <= {path.name for path in folder.iterdir()}
    run = json.loads((folder / "run.json").read_text())
    assert run["fitted"]["views"] == ["000.png", "007.png"] and run["metrics"]["psnr"] == 100 and run["nearest_object"] == 2
    capsys.readouterr()
    assert generate_objects.run(fit) == 0 and "finished already, skipped" in capsys.readouterr().out
    save_png(source / "007.png", np.roll(balls.render(None, Orbit.static())[7], 1, 0))
    code, line = ending(generate_objects.run, [*fit, "--quiet"], capsys)
    assert code == 2 and "made otherwise (fitted.hash" in line


def test_a_single_view_is_enough(balls, weights, tmp_path):
    """Of a folder that has no more."""
    assert generate_objects.run(flags(weights, tmp_path, "--seeds", "3")) == 0
    cameras = json.loads((tmp_path / "seed_0003" / "transforms.json").read_text())
    one = tmp_path / "seed_0003" / "one.json"
    one.write_text(json.dumps({**cameras, "frames": cameras["frames"][4:5]}))
    assert [path.name for path in balls.read(one).files] == ["004.png"]


@pytest.mark.slow
def test_networks_make_objects(weights, tmp_path, uncompiled):
    """The ends of a way between two seeds are their own objects without added noise; one of them is fitted."""
    assert generate_objects.run(flags(weights, tmp_path / "way", "--between", 3, 5, "--count", 3)) == 0
    assert generate_objects.run(flags(weights, tmp_path / "ends", "--seeds", "3,5", "--churn", 0)) == 0
    for place, seed in ((0, 3), (2, 5)):
        ours, end = (load_mesh(tmp_path / name / "mesh.glb") for name in (f"way/between_3_5_{place:03d}", f"ends/seed_{seed:04d}"))
        np.testing.assert_allclose(ours.vertices, end.vertices, atol=1e-4)
    source = tmp_path / "ends" / "seed_0003"
    assert generate_objects.run(flags(weights, tmp_path, "--fit", source, "--fit-steps", 2, steps=0)) == 0
    assert json.loads((tmp_path / "fit_seed_0003" / "run.json").read_text())["metrics"]["iou"] > 0.5


@pytest.mark.parametrize("more, said", [
    (["--count", "3", "--seeds", "1,2"], "--count 3: --seeds names 2"),
    (["--between", "1", "2", "--seeds", "3"], "--between: found --seeds"),
    (["--between", "1", "2", "--churn", "1"], "--between: found --churn 1, expected none"),
    (["--between", "3", "3"], "--between: found seed 3 twice, expected two different ones"),
    (["--guidance", "2"], "--guidance: found 2 without a condition, expected --label"),
    (["--between", "1", "2", "--count", "1"], "expected both ends: 2 or more"),
    (["--fit", "x"], "--fit: found --steps, which samples new objects"),
    (["--fit-steps", "3"], "--fit-steps: belongs to --fit"), (["--tower-ckpt", "x"], "--tower-ckpt: belongs to --image"),
    (["--label", "cup"], "--label: found cup, expected one of tower, house"),
    (["--image", "x"], "--image: found x, expected --label"),
    (["--model", "autodecoder_chairs"], "found weights of autodecoder_small, expected autodecoder_chairs; give --model")])
def test_bad_flags_are_one_line(more, said, weights, tmp_path, capsys):
    code, line = ending(generate_objects.run, flags(weights, tmp_path / "out", *more), capsys)
    assert code == 2 and said in line and not (tmp_path / "out" / "sheet.png").exists()


def test_weights_of_stage_1_and_none(weights, tmp_path, capsys):
    from sgm.checkpoints.mapped_file import open_checkpoint
    from sgm.checkpoints.safetensors_format import save_safetensors
    store = open_checkpoint(weights)
    first = {key: np.array(store.read(key)) for key in store if not key.startswith(("denoiser.", "latent_m", "latent_dev"))}
    save_safetensors(tmp_path / "first.safetensors", first, store.metadata)
    code, line = ending(generate_objects.run, flags(tmp_path / "first.safetensors", tmp_path / "out"), capsys)
    assert code == 2 and "--ckpt: found weights of stage 1, expected those of stage 2" in line
    code, line = ending(generate_objects.run, flags(tmp_path / "none.safetensors", tmp_path / "out"), capsys)
    assert code == 2 and "none.safetensors" in line


def test_no_weights_at_all(tmp_path, capsys, monkeypatch):
    """Embedded ones are taken where there are some; until then it is said that there are none."""
    monkeypatch.setattr("sgm.autodecoder.pipeline.EMBEDDED", ("autodecoder_small", tmp_path / "none"))
    code, line = ending(generate_objects.run, ["--output", str(tmp_path / "out")], capsys)
    assert code == 2 and "--ckpt: found none for autodecoder_small, expected the averaged.safetensors" in line


def test_embedded_weights_are_halves(weights, tmp_path, monkeypatch):
    """Kept in half precision, used in single: what the file has is what the networks have."""
    from sgm.autodecoder import pipeline
    from sgm.checkpoints.mapped_file import open_checkpoint
    from sgm.checkpoints.safetensors_format import save_safetensors
    store, halves = open_checkpoint(weights), tmp_path / "halves.safetensors"
    arrays = {key: np.array(store.read(key)).astype(np.float16) for key in store}
    save_safetensors(halves, arrays, store.metadata)
    monkeypatch.setattr(pipeline, "EMBEDDED", ("autodecoder_small", halves))
    objects = pipeline.load_autodecoder()
    assert objects.spec.diffusion.condition.labels == ["tower", "house"] and objects.generates
    for parameter in objects.model.get_parameters():
        assert parameter.asnumpy().dtype == np.float32 and (parameter.asnumpy() == arrays[parameter.name]).all()


def test_no_seeds_no_objects(weights):
    from sgm.autodecoder.pipeline import load_autodecoder
    objects = load_autodecoder(ckpt=weights)
    assert objects.generate(count=0) == [] and objects.sample([]).shape == (0, 512, 8)
    with pytest.raises(InputError, match="between: found seed 3 twice"):
        objects.between(3, 3, 4)
