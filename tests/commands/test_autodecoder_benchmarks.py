"""benchmarks/autodecoder: measures of sets of shapes against closed forms, and the commands on a small model."""
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.paths import ROOT
from support.small_autodecoder import write_objects, write_weights

from sgm.common.errors import InputError
from sgm.config.autodecoding import load_autodecoder_spec
from sgm.config.recipe import Recipe
from sgm.config.yaml_reader import find_config, load_yaml

sys.path.insert(0, str(ROOT / "benchmarks" / "autodecoder"))
import _objects  # noqa: E402
import _set_metrics  # noqa: E402
import ablations  # noqa: E402


def test_chamfer_distances():
    """Of single points twice their distance; of two sets by hand."""
    point, other = np.zeros((1, 3)), np.array([[3.0, 4, 0]])
    assert _set_metrics.chamfer_matrix([point], [other, point]).tolist() == [[10, 0]]
    pair = np.array([[0.0, 0, 0], [1, 0, 0]])       # there 0; back (0 + 1) / 2
    assert _set_metrics.chamfer_matrix([point], [pair]).tolist() == [[0.5]]


def of_numbers(first, second):
    return np.abs(np.subtract.outer(np.asarray(first, float), np.asarray(second, float)))


def test_coverage_and_matching():
    """Samples 0, 1 and 9 of references 0, 5 and 10: 0 and 10 are covered; the nearest are 0, 4 and 1 away."""
    distances = of_numbers([0, 1, 9], [0, 5, 10])
    assert _set_metrics.coverage(distances) == 2 / 3
    assert _set_metrics.minimum_matching_distance(distances) == (0 + 4 + 1) / 3


@pytest.mark.parametrize("samples, accuracy", [
    ([0.4, 10.4, 20.4], 0), ([100, 101, 102], 1), (np.random.default_rng(0).uniform(0, 21, 2000), None)])
def test_nearest_neighbors(samples, accuracy):
    """0 where each stands beside one of the others, 1 where sets are apart, 0.5 for one distribution."""
    references = np.random.default_rng(1).uniform(0, 21, 2000) if accuracy is None else [0, 10, 20]
    found = _set_metrics.nearest_neighbor_accuracy(of_numbers(samples, samples), of_numbers(samples, references),
                                                   of_numbers(references, references))
    assert found == accuracy if accuracy is not None else abs(found - 0.5) < 0.03


def test_kept_results_are_of_these_settings(tmp_path):
    """What is there is not made again; of other weights it is refused."""
    kept = _objects.Kept(tmp_path / "out", {"weights": "a", "steps": [1, 2]})
    assert kept("one", lambda: {"row": [1.0, 2.0]})["row"].tolist() == [1, 2]
    again = _objects.Kept(tmp_path / "out", {"weights": "a", "steps": (1, 2)})
    assert again("one", None)["row"].tolist() == [1, 2]
    with pytest.raises(InputError, match="out: found results of other weights"):
        _objects.Kept(tmp_path / "out", {"weights": "b", "steps": [1, 2]})


def test_ablations_train_then_measure(tmp_path, monkeypatch):
    """What is run, in order; a run that has begun is resumed."""
    commands = []
    monkeypatch.setattr(ablations, "run", lambda *flags: commands.append(list(map(str, flags))))
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "state.safetensors").touch()
    argv = ["--data", "a", "b", "--out", str(tmp_path), "--only", "one_view", "usual", "wide", "--set", "steps=5"]
    assert ablations.main(argv) == 0
    assert [command[0] for command in commands] == ["train.py", "benchmarks/autodecoder/reconstruction.py", "train.py", "train.py"]
    assert commands[0][5:] == ["--output", str(tmp_path / "one_view"), "--set", "data=[a,b]", "--set", "steps=5", "--set", "views=1",
                               "--set", "crop=32"]
    assert commands[1][3:] == ["--data", "a", "b", "--out", str(tmp_path / "one_view_measured")]
    assert commands[2][-2:] == ["--init", str(tmp_path / "plain" / "averaged.safetensors")]
    assert commands[3] == ["train.py", "--resume", str(tmp_path / "wide")]


@pytest.mark.parametrize("settings, model", [*ablations.FIRST.values(), *ablations.SECOND.values()])
def test_ablations_are_models(settings, model):
    spec = load_autodecoder_spec("autodecoder_small", model)
    recipe = "autodecoder_diffusion" if "diffusion.latent_std=1" in model else "autodecoder_small"
    assert spec.objects == 128 and load_yaml(Recipe, find_config(recipe, "train"), settings)


def test_objects_that_the_denoiser_saw():
    import generation
    model = SimpleNamespace(spec=SimpleNamespace(objects=7), notes={"held_objects": "3"})
    assert generation.trained_objects(model).tolist() == [1, 2, 4, 5]
    model.notes = {}
    assert generation.trained_objects(model).tolist() == list(range(7))


@pytest.fixture
def model(tmp_path, uncompiled):
    """Flags of a small model and its views, and a set of unseen ones."""
    weights = write_weights(tmp_path / "small.safetensors")
    from sgm.autodecoder.pipeline import load_autodecoder
    from sgm.train.objects.masked_views import MaskedViews
    made = load_autodecoder(ckpt=weights).model
    for name in ("seen", "unseen"):
        folder = write_objects(tmp_path / name)
        views = made.render(made.latents_of(range(3)), MaskedViews([str(folder)]).poses(0), 16)
        np.save(folder / "clips.npy", np.round(views * 255).astype(np.uint8))
        np.save(folder / "names.npy", np.array(["000001", "000002", "000003"]))
    return ["--ckpt", str(weights), "--data", str(tmp_path / "seen")], str(tmp_path / "unseen")


@pytest.mark.slow
def test_reconstruction(model, tmp_path, capsys, monkeypatch):
    """Of views that the model itself made, it sees all; a grid of one step sees little, the mean something else."""
    import reconstruction
    argv = [*model[0], "--objects", "2", "--grid-steps", "1", "--out", str(tmp_path / "out")]
    assert reconstruction.main(argv) == 0
    psnr = {line[:20].strip(): float(line[20:].split()[0]) for line in capsys.readouterr().out.splitlines() if " dB  IoU" in line}
    assert psnr["autodecoder"] > 45 > 15 > psnr["grid of each object"] and psnr["autodecoder"] > psnr["mean object"] + 10
    monkeypatch.setattr(reconstruction.Grids, "of", None)       # a further call makes nothing again
    assert reconstruction.main(argv) == 0


@pytest.mark.slow
def test_fits_then_generation(model, tmp_path, capsys):
    import fits
    import generation
    out = tmp_path / "fits"
    assert fits.main([*model[0], "--unseen", model[1], "--objects", "2", "--counts", "1,2", "--steps", "1", "--out", str(out)]) == 0
    assert np.load(out / "00001_of_2_views.npz")["latent"].shape == (512, 8) and len(list(out.iterdir())) == 5
    assert len(capsys.readouterr().out.splitlines()) == 4
    argv = [*model[0], "--reference", model[1], "--fits", str(out), "--count", "3", "--steps", "1,2", "--out", str(tmp_path / "out")]
    assert generation.main(argv) == 0
    shown = capsys.readouterr().out
    rows = {line[:14].strip(): line[14:].split() for line in shown.splitlines()[2:-1]}
    assert list(rows) == ["1 steps", "2 steps", "2, churn 0", "embeddings", "components", "trained"]
    # The references' views are those of the trained objects: the features' distance is that of a set to itself, below 0.
    assert float(rows["trained"][0]) < 0 < float(rows["2 steps"][0]) and (tmp_path / "out" / "sheet.png").exists()


@pytest.mark.slow
def test_normalizations(model, capsys):
    import normalization
    assert normalization.main([*model[0], "--steps", "1", "--count", "4", "--sampling-steps", "2", "--share", "0.01", "--set",
                               "batch=2"]) == 0
    rows = capsys.readouterr().out.splitlines()[-6:]
    assert [row[:17].strip() for row in rows] == 3 * ["as they are"] + 3 * ["with outliers"]
    latents = np.random.default_rng(0).standard_normal((50, 20, 8)).astype(np.float32)
    ways = [normalization.normalizations(values, load_autodecoder_spec("autodecoder_small").diffusion)
            for values in (latents, normalization.with_outliers(latents, 1e-3, 1e4))]
    scales = {way: ways[1][way].deviation / ways[0][way].deviation for way in ways[0]}
    assert abs(scales["median, quartiles"] - 1) < 0.01 and scales["mean, deviation"] > 10
