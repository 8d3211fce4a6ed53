"""What is trained and what is not; bad steps; half precision; a run that goes on: on a small posed network."""
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support.toy_trainer import SPEC, Noise, ToyEngine, engine_of, trainer_of

from sgm import ops
from sgm.checkpoints.loading import load_weights
from sgm.checkpoints.lora_fusion import fuse
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.common.errors import InputError
from sgm.diffusion.engine import Engine
from sgm.train.run.plan import counts
from sgm.train.run.run_folder import RunFolder
from sgm.train.trainable import TEMPORAL


def values(engine):
    return {name: parameter.asnumpy().copy() for name, parameter in engine.parameters_dict().items()}


def resumed(trainer, tmp_path, **changes):
    """Another trainer of other weights, gone on from where the first one is; and the first one's next rows."""
    folder = RunFolder(tmp_path, trainer.recipe, trainer.engine.spec)
    folder.save(trainer)
    other = trainer_of(seed=1, **changes)
    folder.resume(other)
    return other


@pytest.mark.parametrize("make, optimizer", [
    (ToyEngine, "adamw"), (ToyEngine, "muon"), pytest.param(Engine, "adamw", marks=pytest.mark.slow)])
def test_only_layers_over_frames(make, optimizer, tmp_path):
    """The others have no moments either; and it goes on bit for bit."""
    changes = {"trains": "temporal", "accumulate": 2, "make": make, "optimizer": optimizer}
    trainer = trainer_of(**changes)
    before = values(trainer.engine)
    trainer.advance()
    changed = {name for name, value in values(trainer.engine).items() if (value != before[name]).any()}
    trained = {weight.name for weight in trainer.step.weights}
    assert changed <= trained and len(changed) > 0.8 * len(trained)
    assert all(any(part in name for part in TEMPORAL) for name in trained)
    assert {name for name in before if "time_stack" in name and name.startswith("model.")} <= trained < set(before)
    other = resumed(trainer, tmp_path, **changes)
    assert [trainer.advance() for _ in range(2)] == [other.advance() for _ in range(2)]
    ours, theirs = values(trainer.engine), values(other.engine)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def output(engine):
    x0, _, _, crossattn, concat, vector = map(Tensor, Noise()(7))
    prepared = engine.model.prepare(crossattn, 3)
    return ops.fetch(engine.model(x0, Tensor(np.full(3, 2, np.float32)), prepared, concat, vector,
                                  Tensor(np.zeros(3, np.float32)), 3))


def test_lora(tmp_path, relative_error, pynative):
    """Starts without effect; trains its own numbers only; saved small; in the weights it is the same network."""
    plain = engine_of()
    base = values(plain)
    save_safetensors(tmp_path / "base.safetensors", base)
    trainer = trainer_of(make=Engine, trains="lora", lora_rank=3, lora_alpha=6, weight_decay=0.0, lr=0.05)
    assert relative_error(output(trainer.engine), output(plain)) < 1e-6
    for _ in range(3):
        trainer.advance()
    after = values(trainer.engine)
    assert all(np.array_equal(after[name], base[name]) for name in base)
    added = {name: value for name, value in after.items() if name not in base}
    assert len(added) == len(trainer.step.weights) and all(value.any() for value in added.values())
    assert sum(value.size for value in added.values()) == counts(SPEC, trainer.recipe)["trained"]
    RunFolder(tmp_path, trainer.recipe, SPEC).save(trainer)
    saved = open_checkpoint(tmp_path / "lora.safetensors")
    assert set(saved) == set(added) and saved.metadata["lora_alpha"] == "6"
    assert not (tmp_path / "averaged.safetensors").exists()

    for weight, average in zip(trainer.step.weights, trainer.step.average):     # what is saved
        weight.set_data(Tensor(average.asnumpy()))
    fused = fuse(open_checkpoint(tmp_path / "base.safetensors"), tmp_path / "lora.safetensors")
    assert set(fused) == set(base)
    engine = Engine(SPEC)
    load_weights(engine, fused)
    wanted = output(trainer.engine)
    assert relative_error(output(plain), wanted) > 0.01 and relative_error(output(engine), wanted) < 1e-5
    halfway = fuse(open_checkpoint(tmp_path / "base.safetensors"), tmp_path / "lora.safetensors", 0.5)
    key = "model.diffusion_model.middle_block.1.time_stack.0.ff_in.net.0.proj.weight"
    np.testing.assert_allclose(halfway.read(key) - base[key], (fused.read(key) - base[key]) / 2, atol=1e-6)


def test_bad_steps(tmp_path, pynative):
    """Each leaves the weights alone; after so many in a row it stops, and names step and clips."""
    trainer = trainer_of(bad={1, 3, 4, 5}, bad_steps=3)
    rows = [trainer.advance()]
    before = values(trainer.engine), [moment.asnumpy().copy() for moment in trainer.step.m]
    rows.append(trainer.advance())
    assert rows[1].skipped and math.isnan(rows[1].loss) and trainer.updates == 1 and trainer.done == 2
    assert all(np.array_equal(value, before[0][name]) for name, value in values(trainer.engine).items())
    assert all(np.array_equal(moment.asnumpy(), old) for moment, old in zip(trainer.step.m, before[1]))
    assert not trainer.advance().skipped and trainer.bad == 0 and trainer.skipped == 1
    trainer.advance()
    assert trainer.bad == 1
    other = resumed(trainer, tmp_path, bad={1, 3, 4, 5}, bad_steps=3)
    assert (other.bad, other.skipped, other.updates, other.done) == (1, 2, 2, 4)
    trainer.advance()
    with pytest.raises(InputError, match=r"step 6: found the loss nan .* 3 steps in a row .*\(this one on clips 1\)"):
        trainer.advance()


@pytest.mark.parametrize("name, value, said", [
    ("model.diffusion_model.first.weight", np.inf, "that are not finite"),
    ("m/model.diffusion_model.first.weight", np.nan, "that are not finite"),
    ("average/model.diffusion_model.first.weight", np.inf, "that are not finite"),
    ("v/model.diffusion_model.first.weight", -1e-9, "below 0")])
def test_a_state_with_values_that_cannot_be(name, value, said, tmp_path, pynative):
    """It is refused by name before anything is taken from it: a run would save nothing ever after."""
    trainer = trainer_of()
    RunFolder(tmp_path, trainer.recipe, SPEC).save(trainer)
    checkpoint = open_checkpoint(tmp_path / "state.safetensors")
    arrays = {key: checkpoint.read(key).copy() for key in checkpoint}
    arrays[name].flat[7] = value
    save_safetensors(tmp_path / "state.safetensors", arrays, checkpoint.metadata)
    other = trainer_of(1)
    before = values(other.engine)
    with pytest.raises(CheckpointError, match=f"state.safetensors: {name}: found values {said}"):
        RunFolder(tmp_path, trainer.recipe, SPEC).resume(other)
    assert all(np.array_equal(value, before[key]) for key, value in values(other.engine).items())


@pytest.mark.slow
def test_blocks_computed_twice():
    plain, twice = trainer_of(make=Engine), trainer_of(make=Engine, recompute=True)
    rows = [[trainer.advance()[:2] for _ in range(2)] for trainer in (plain, twice)]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-5)


@pytest.mark.slow
def test_the_network_in_float16():
    exact, half = trainer_of(make=Engine), trainer_of(make=Engine, precision="fp16")
    rows = [[trainer.advance()[:2] for _ in range(2)] for trainer in (exact, half)]
    np.testing.assert_allclose(rows[1], rows[0], rtol=5e-3)


def test_float16(tmp_path, pynative):
    """Close to float32; an overflow costs a step and halves the scale; it goes on bit for bit, scale and all."""
    exact, trainer = trainer_of(trains="temporal"), trainer_of(trains="temporal", precision="fp16", bad={1})
    assert trainer.step.weights[0].dtype == ms.float16
    row, wanted = trainer.advance(), exact.advance()
    assert row.loss == pytest.approx(wanted.loss, rel=5e-3) and row.grad_norm == pytest.approx(wanted.grad_norm, rel=2e-2)
    scale = trainer.scale.value
    assert trainer.advance().skipped and trainer.scale.value == scale / 2 and trainer.bad == 0
    weights = trainer.weights(False)
    assert all(value.dtype == np.float32 for value in weights.values())
    frozen = "model.diffusion_model.first.weight"
    original = engine_of(0, ToyEngine).parameters_dict()[frozen].asnumpy()
    np.testing.assert_array_equal(weights[frozen], original)        # not rounded
    other = resumed(trainer, tmp_path, trains="temporal", precision="fp16", bad={1})
    assert other.scale.value == trainer.scale.value
    assert [trainer.advance() for _ in range(2)] == [other.advance() for _ in range(2)]


def test_the_best_and_the_latest_are_kept(tmp_path, pynative):
    trainer = trainer_of(held_out=Noise(), val_batches=3, keep=2)
    folder, losses, before = RunFolder(tmp_path, trainer.recipe, SPEC), [], None
    for _ in range(4):
        trainer.advance()
        before = values(trainer.engine)
        losses.append(trainer.validate())
        assert trainer.validate() == losses[-1]
        assert all(np.array_equal(value, before[name]) for name, value in values(trainer.engine).items())
        folder.save(trainer, losses[-1])
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["averaged.safetensors", "averaged_00000003.safetensors", "averaged_00000004.safetensors",
                    "best.safetensors", "state.safetensors"]
    assert open_checkpoint(tmp_path / "best.safetensors").metadata["step"] == str(1 + int(np.argmin(losses)))
    assert open_checkpoint(tmp_path / "averaged_00000003.safetensors").metadata["step"] == "3"
    other = trainer_of(held_out=Noise(), val_batches=3, keep=2)
    folder.resume(other)
    assert other.best == min(losses) and other.validate() == losses[-1]


class Other(Noise):
    """Other batches than `Noise`."""

    def __call__(self, number):
        return super().__call__(number + 100)


def test_training_clips_are_measured_as_held_out_ones(pynative):
    """The same batches have the same loss, by the averaged weights; others have another."""
    trainer = trainer_of(held_out=Noise(), val_batches=3)
    for _ in range(2):
        trainer.advance()
    assert trainer.validate(Noise()) == trainer.validate() != trainer.validate(Other())
