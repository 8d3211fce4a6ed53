"""Recipes: what cannot be is named; what a resumed run may change; the course of rates and of the loss's scale."""
from dataclasses import replace

import numpy as np
import pytest
from support.training import write_toys

from sgm.config.model_files import load_spec
from sgm.config.recipe import Recipe
from sgm.config.yaml_reader import CONFIGS, ConfigError, known_configs, load_yaml
from sgm.train.batches import ViewBatches
from sgm.train.data import PackedOrbits
from sgm.train.losses import frame_weights
from sgm.train.run.plan import counts, describe, memory
from sgm.train.schedule import LossScale, average_decay, learning_rate

VAE = CONFIGS / "train" / "vae_tiny.yaml"


@pytest.mark.parametrize("change, expected", [
    ("seed=-1", "seed: found -1, expected a number from 0 to 4294967295"),
    ("lr=inf", "lr: found inf, expected a positive number up to 1000000"), ("lr=0", "lr: found 0"),
    ("lr=nan", "lr: found nan"),
    ("lr_final=nan", "lr_final: found nan, expected a number from 0 to 1"), ("lr_final=-0.1", "lr_final: found -0.1"),
    ("warmup=-1", "warmup: found -1, expected a number from 0 to"),
    ("betas=[0.9,1.0]", "betas: found [0.9, 1.0], expected two numbers from 0 to below 1"),
    ("betas=[-0.1,0.9]", "betas: found [-0.1"), ("betas=[0.9]", "betas: found [0.9]"), ("betas=[nan,0.9]", "betas: found"),
    ("weight_decay=nan", "weight_decay: found nan"), ("weight_decay=-1", "weight_decay: found -1"),
    ("kl_weight=nan", "kl_weight: found nan"), ("p_mean=nan", "p_mean: found nan, expected a number from -100 to 100"),
    ("p_std=-1", "p_std: found -1"), ("clip_norm=-1", "clip_norm: found -1.0, expected a number from 0 to 1000000"),
    ("clip_norm=inf", "clip_norm: found inf"), ("crop=-1", "crop: found -1, expected a number from 0 to"),
    ("accumulate=0", "accumulate: found 0, expected a number from 1 to"), ("batch=0", "batch: found 0"),
    ("keep=0", "keep: found 0"),
    ("precision=fp8", "precision: found 'fp8', expected one of auto, fp32, bf16, fp16"),
    ("precision=fp16", "precision: found 'fp16', expected fp32 for task autoencoder"),
    ("schedule=step", "schedule: found 'step', expected one of cosine, linear, constant"),
    ("trains=lora", "trains: found 'lora', expected one of all, decoder for task autoencoder"),
    ("task=gan", "task: found 'gan', expected one of diffusion, autoencoder, decoder"),
    ("drop_condition=1", "drop_condition: found 1.0, expected 0 <= drop_condition < 1"),
    ("frames=-1", "frames: found -1, expected a number from 0 to"),
    ("sheet_every=-1", "sheet_every: found -1, expected a number from 0 to"),
    ("sheet_clips=0", "sheet_clips: found 0"), ("sheet_steps=0", "sheet_steps: found 0, expected a number from 1 to"),
    ("lora_rank=0", "lora_rank: found 0"), ("lora_alpha=nan", "lora_alpha: found nan"),
])
def test_what_cannot_be_is_named(change, expected):
    with pytest.raises(ConfigError) as error:
        load_yaml(Recipe, VAE, [change])
    assert expected in str(error.value) and change.partition("=")[0] in str(error.value)


def test_weights_by_view_need_views_in_order():
    with pytest.raises(ConfigError, match="roam: found 0.5, expected 0 with front_weight"):
        Recipe(roam=0.5, front_weight=0.5).validate()


def test_all_recipes_load():
    known = known_configs("train")
    assert {"svd", "svd_xt", "sv3d_u", "sv3d_p", "sv3d_overfit", "sv3d_lora", "sv3d_tiny", "vae_tiny"} <= set(known)
    for name in known:
        recipe = load_yaml(Recipe, CONFIGS / "train" / f"{name}.yaml")
        assert bool(recipe.data) == (recipe.task != "latent_diffusion")     # whose data are in --init


def test_what_is_counted():
    """SVD's paper (arXiv 2311.15127, app. D.2) counts 1521 million parameters, 656 million of them over frames."""
    svd, sv3d = load_spec("svd"), load_spec("sv3d_p")
    found = counts(svd, Recipe(trains="temporal"))
    vector = 1280 * (768 + 1280 + 2)            # the embedding of the vector condition is trained with the layers over frames
    assert found["UNet"] == pytest.approx(1521e6, rel=0.003)
    assert found["trained"] - vector == pytest.approx(656e6, rel=0.001)
    assert counts(sv3d, Recipe())["trained"] == counts(sv3d, Recipe())["UNet"] == found["UNet"] + 1280 * 512
    assert counts(sv3d, Recipe(trains="lora"))["kept"] < 0.01 * found["UNet"]


def test_memory_is_told():
    """Per trained parameter float32 weight, gradient, two moments and average; half precision and recomputation save."""
    spec = load_spec("sv3d_p")
    full, half, twice = (memory(spec, Recipe(**changes)) for changes in (
        {}, {"precision": "fp16"}, {"precision": "fp16", "recompute": True}))
    trained = counts(spec, Recipe())["trained"]
    muon = counts(spec, Recipe(optimizer="muon"))["matrices"]
    assert 0.95 * trained < muon < trained
    assert memory(spec, Recipe(optimizer="muon"))["moments"] == full["moments"] - 4 * muon
    assert full["moments"] == 2 * full["moving average"] == 8 * trained and half["float32 weights"] == 4 * trained
    assert full["activations (estimate)"] > 2 * half["activations (estimate)"] > 5 * twice["activations (estimate)"]
    lines = dict(describe(spec, Recipe(steps=100, accumulate=3, batch=2), clips=12, world=4))
    assert lines["steps"].startswith("100, each of 24 clips") and lines["data"] == "12 clips, each seen 200.0 times"


@pytest.mark.parametrize("crop, expected", [(100, "up to 32"), (17, "a multiple of 8"), (4, "a multiple of 8")])
def test_crops_that_do_not_fit(crop, expected, tmp_path):
    orbits = PackedOrbits([str(write_toys(tmp_path / "toys"))])
    with pytest.raises(ConfigError, match=f"crop: found {crop}, expected .*{expected}"):
        ViewBatches(Recipe(task="autoencoder", crop=crop), orbits, load_spec("sv3d_u"))


def test_what_a_resumed_run_may_change():
    recorded = {**vars(Recipe(lr=0.1, data=["a"])), "gone": 3}
    recorded.pop("bad_steps")                   # of a version without it
    harmful, harmless = Recipe(lr=0.2, data=["a", "b"], steps=3, log_every=7, sheet_steps=2).differences(recorded)
    assert harmful == ["data: ['a'], now ['a', 'b']", "lr: 0.1, now 0.2"]
    assert harmless == ["steps: 10000, now 3", "sheet_steps: 10, now 2", "log_every: 20, now 7"]
    assert Recipe().differences(vars(Recipe())) == ([], [])
    old = vars(Recipe()).copy()
    old.pop("optimizer")
    assert Recipe().differences(old) == ([], [])
    assert Recipe(optimizer="muon").differences(old) == (["optimizer: 'adamw', now 'muon'"], [])


def test_learning_rate():
    recipe = Recipe(steps=110, warmup=10, lr=0.4, lr_final=0.1)
    assert [learning_rate(recipe, step) for step in (0, 4, 9, 10)] == pytest.approx([0.04, 0.2, 0.4, 0.4])
    assert [learning_rate(recipe, step) for step in (60, 110)] == pytest.approx([0.4 * (0.1 + 0.9 / 2), 0.04])
    line = replace(recipe, schedule="linear")
    assert [learning_rate(line, step) for step in (10, 60, 110)] == pytest.approx([0.4, 0.4 * 0.55, 0.04])
    assert learning_rate(Recipe(steps=10, warmup=0, lr=0.4), 0) == pytest.approx(0.4)


def test_learning_rate_that_stays():
    recipe = Recipe(steps=110, warmup=10, lr=0.4, schedule="constant")
    assert [learning_rate(recipe, step) for step in (0, 4, 9, 10, 109)] == pytest.approx([0.04, 0.2, 0.4, 0.4, 0.4])
    assert [average_decay(Recipe(average_decay=0.5), step) for step in (0, 5, 100)] == [0.1, 0.4, 0.5]


def test_loss_scale_halves_and_doubles():
    scale = LossScale("fp16", start=4.0, interval=3)
    assert scale.update(False) and scale.value == 2
    assert [(scale.update(True), scale.value) for _ in range(3)] == [(False, 2), (False, 2), (False, 4)]
    scale.update(True)
    again = LossScale("fp16", interval=3)
    again.restore(scale.state())
    values = [[one.update(True) or one.value for _ in range(2)] for one in (scale, again)]
    assert values == [[4, 8], [4, 8]]
    assert [(scale.update(False), scale.value) for _ in range(4)] == [(True, 4), (True, 2), (True, 1), (False, 1)]
    for precision in ("fp32", "bf16"):
        assert not LossScale(precision).update(False) and LossScale(precision).value == 1


def test_weights_of_frames():
    """The cosine of the angle to the condition view, the last; of mean 1."""
    weights = frame_weights(4, 0.2)
    np.testing.assert_allclose(weights / weights[1], [0.6, 1.0, 0.6, 0.2])
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_array_equal(frame_weights(21, 1.0), 1)
