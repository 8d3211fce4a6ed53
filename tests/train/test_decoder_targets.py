"""A decoder fitted to what the UNet predicts: the loss, views beside their latents, and the command."""
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import load_file, save_file
from support.making_data import Counter, FakeEngine, dynamic_orbits, mean_of
from support.training import SV3D_P, flags, write_model, write_toys

import train
from sgm.audit.golden_weights import init_weight
from sgm.checkpoints.original_keys import FIRST_STAGE, UNET, used_shapes
from sgm.config.model_files import load_spec
from sgm.config.recipe import Recipe
from sgm.train.batches import ViewBatches
from sgm.train.data import Clips, LatentClips
from sgm.train.decoder_targets import DecoderBatches, Predictions
from sgm.train.losses import DecoderLoss

GUESS = 7.0


class Predicting(FakeEngine):
    """A FakeEngine whose samples are GUESS wherever the condition's latent is, and notes their steps."""

    def __init__(self, trained=True):
        super().__init__()
        weight = SimpleNamespace(asnumpy=lambda: np.full(3, float(trained), np.float32))
        last = SimpleNamespace(weight=weight)
        self.model = SimpleNamespace(diffusion_model=SimpleNamespace(out=[None, None, last]),
                                     parameters_dict=lambda: {"weight": weight})
        self.steps = []

    def sample(self, noise, c, uc, steps, guidance_scales):
        assert uc is None and (guidance_scales == 1).all() and set(c) == {"crossattn", "concat", "vector"}
        self.steps.append(steps)
        return Tensor((c["concat"] + GUESS) * np.float32(self.spec.vae.scale_factor))

    def release(self):
        pass


@pytest.fixture
def predicted(tmp_path, no_clip):
    """predicted(share) -> DecoderBatches of three clips of six views, of which a model sees three."""
    clips = dynamic_orbits(tmp_path / "data", 3)
    recipe = Recipe(task="decoder", batch=40, crop=16, predicted_clips=2, cache_folder=str(tmp_path / "cache"))

    def make(share, engine):
        recipe.predicted = share
        examples = LatentClips(clips, engine, tmp_path / "cache", Counter(), num_frames=3)
        return DecoderBatches(recipe, Predictions(recipe, engine, examples, lambda items, text: items),
                              ViewBatches(recipe, clips, engine.spec))
    return make


class Doubles(nn.Cell):
    def construct(self, z, frames):
        return 2 * z


def test_loss_by_hand():
    z, image = (np.random.RandomState(k).randn(2, 3, 4, 4).astype(np.float32) for k in range(2))
    error = 2 * z - image
    loss = DecoderLoss(Doubles())(Tensor(z), Tensor(image))
    assert float(loss.asnumpy()) == pytest.approx((error ** 2).mean() + 0.1 * np.abs(error).mean(), rel=1e-5)


def test_latents_lie_where_their_crops_do(predicted):
    """This engine encodes a view by averaging it: what is not predicted is the mean of the crop beside it."""
    latents, images = predicted(0.0, Predicting())(0)
    assert latents.shape == (40, 4, 4, 4) and images.shape == (40, 3, 16, 16)
    np.testing.assert_allclose(latents, mean_of(images), atol=1e-5)


def test_the_share_that_is_predicted(predicted):
    engine = Predicting()
    batches = predicted(0.5, engine)
    latents, images = batches(0)
    guessed = latents.min((1, 2, 3)) > 3        # means lie in [-1, 1]
    assert 8 < guessed.sum() < 32
    np.testing.assert_allclose(latents[~guessed], mean_of(images[~guessed]), atol=1e-5)
    assert len(engine.steps) == 2 and all(2 <= steps <= 8 for steps in engine.steps)        # predicted_clips
    assert set(batches.clip_indices(0)) == {0, 2} and len(batches.clip_indices(0)) == 40
    for first, again in zip(batches(3), batches(3)):
        np.testing.assert_array_equal(first, again)


def test_every_set_is_predicted(tmp_path, no_clip):
    """Data sets follow each other: fewer clips than there are come from all of them, first and last included."""
    sets = [dynamic_orbits(tmp_path / name, count) for name, count in (("one", 4), ("two", 3))]
    clips = Clips(sets[0].items + sets[1].items, (sets[0].height, sets[0].width))
    engine = Predicting()
    examples = LatentClips(clips, engine, tmp_path / "cache", Counter(), num_frames=3)
    for count, wanted in ((3, [0, 3, 6]), (1, [0]), (99, [0, 1, 2, 3, 4, 5, 6])):
        recipe = Recipe(task="decoder", predicted_clips=count, cache_folder=str(tmp_path / "cache"))
        found = Predictions(recipe, engine, examples, lambda items, text: items)
        assert [item.index for item in found.items] == wanted
        for item in found.items:            # its own views: encoded they are their means
            np.testing.assert_allclose(item.encoded[0], mean_of(found.frame(item, 0))[0], atol=1e-5)


def test_as_many_steps_as_the_model_takes(tmp_path, no_clip, predicted):
    """What it samples with is among what the decoder sees; other bounds are other predictions, in the cache too."""
    engine = Predicting()
    predicted(1.0, engine)
    engine.spec.sampling.steps = 200
    before = len(engine.steps)
    predicted(1.0, engine)
    assert len(engine.steps) == before + 2 and max(engine.steps) > 8


def test_predictions_are_kept(predicted):
    engine = Predicting()
    first, again = predicted(1.0, engine)(0), predicted(1.0, engine)(0)
    assert len(engine.steps) == 2
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)


def test_the_command(tmp_path, capsys, uncompiled):
    """Only the decoder changes, and the file is a whole model; a UNet that was never trained is refused."""
    model = write_model(tmp_path / "small.yaml", SV3D_P)
    start, data = tmp_path / "start.safetensors", write_toys(tmp_path / "toys")
    weights = {key: np.asarray(init_weight(key, shape), np.float32) for key, shape in used_shapes(load_spec(model)).items()}
    save_file(weights, start)
    def command(name):
        return flags(model, "decoder_tiny", data, tmp_path / name, "steps=2", "crop=16", "batch=3", "predicted_clips=2",
                     f"cache_folder={tmp_path / 'cache'}", model_changes=(), more=("--init", start))
    assert train.run(command("run")) == 0
    after = load_file(tmp_path / "run" / "averaged.safetensors")
    assert set(after) == set(weights)
    changed = {key for key in after if not np.array_equal(after[key], weights[key])}
    assert changed and all(key.startswith(FIRST_STAGE) for key in changed)
    for key in weights:
        if key.startswith(UNET + "out.2"):
            weights[key][:] = 0
    save_file(weights, start)
    capsys.readouterr()
    assert train.run(command("other")) == 2
    assert "UNet that was never trained" in capsys.readouterr().err
