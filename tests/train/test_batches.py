"""What a step sees: clips in their order, latents, tokens and angles of packed clips; a run that goes on from a file."""
import numpy as np
import pytest
from support.goldens import PACKAGED
from support.toy_trainer import ToyEngine, engine_of
from support.training import POSED

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec
from sgm.config.recipe import Recipe
from sgm.diffusion.engine import Engine
from sgm.models.initialization import initialize
from sgm.render.procedural import render_clip
from sgm.render.seeds import TRAIN_SEEDS
from sgm.train.batches import DiffusionBatches, ViewBatches
from sgm.train.build import as_sampled
from sgm.train.data import LatentClips, PackedOrbits, shuffled
from sgm.train.run.run_folder import RunFolder
from sgm.train.trainer import Trainer
from sgm.views.cameras import Orbit


def small_engine(seed):
    engine = Engine(load_spec(PACKAGED / "tiny_sv3d_p.yaml", POSED))
    initialize(engine, seed)
    return engine


def test_shuffled_sees_every_clip_once_an_epoch():
    """Also where a batch spans two epochs; the order depends on seed and epoch, and on nothing else."""
    epochs = np.concatenate([shuffled(7, 10, step, 4) for step in range(10)]).reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert shuffled(7, 10, 3, 4) == list(epochs.reshape(-1)[12:16]) != shuffled(8, 10, 3, 4)
    assert sorted(shuffled(0, 3, 0, 6)) == [0, 0, 1, 1, 2, 2]       # a batch of two epochs


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Four procedural clips of three views of 32 x 32 pixels, as tools/render_orbits.py --pack writes them."""
    folder, orbit = tmp_path_factory.mktemp("packed"), Orbit.static(elevation=20, num_frames=3)
    np.save(folder / "clips.npy", np.stack([render_clip(seed, orbit, 32) for seed in TRAIN_SEEDS[:4]]))
    np.save(folder / "azimuths.npy", np.tile(orbit.azimuths_deg.astype(np.float32), (4, 1)))
    np.save(folder / "elevations.npy", np.tile(orbit.elevations_deg.astype(np.float32), (4, 1)))
    return folder


def test_packed_orbits(packed, tmp_path):
    orbits = PackedOrbits([str(packed), str(packed)])
    assert (len(orbits), orbits.num_frames, orbits.size) == (8, 3, 32)
    clips = np.load(packed / "clips.npy")
    frames = orbits.frames(6)           # clip 2 of the second folder
    assert frames.shape == (3, 3, 32, 32) and frames.dtype == np.float32 and -1 <= frames.min() < frames.max() == 1
    np.testing.assert_array_equal(np.round((frames.transpose(0, 2, 3, 1) + 1) * 127.5), clips[2])
    np.testing.assert_array_equal(orbits.frames(6, [1]), frames[1:2])
    np.testing.assert_allclose(orbits.orbit(6).azimuths_deg, [120, 240, 0])
    np.testing.assert_allclose(orbits.orbit(6).elevations_deg, 20)
    with pytest.raises(ValueError, match="data: found no folder"):
        PackedOrbits([])
    with pytest.raises(ValueError, match="not a finished packed set"):
        PackedOrbits([str(tmp_path)])
    for name in ("azimuths", "elevations"):
        np.save(tmp_path / f"{name}.npy", np.zeros((1, 3), np.float32))
    np.save(tmp_path / "clips.npy", np.zeros((1, 3, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="differ in frames or size"):
        PackedOrbits([str(packed), str(tmp_path)])


class Counter:
    """A `progress` that counts what passes through it."""

    def __init__(self):
        self.count = 0

    def __call__(self, items, text):
        for item in items:
            self.count += 1
            yield item


@pytest.fixture(scope="module")
def latents(packed, tmp_path_factory):
    """The packed clips encoded by the engine of seed 0, with the folder they are cached in."""
    cache, counter = tmp_path_factory.mktemp("cache"), Counter()
    orbits = LatentClips(PackedOrbits([str(packed)]), small_engine(0), cache, counter)
    assert counter.count == 4
    return orbits, cache


def test_clips_are_encoded_once(packed, latents, pynative):
    counter = Counter()
    again = LatentClips(PackedOrbits([str(packed)]), small_engine(0), latents[1], counter)
    assert counter.count == 0 and len(again) == 4
    LatentClips(PackedOrbits([str(packed)]), small_engine(1), latents[1], counter)
    assert counter.count == 4           # other encoders


def test_encoded_clips(packed, latents, relative_error, pynative):
    """Latents of all views; the last view is what the network is shown, and the angles what it is told."""
    orbits, engine = PackedOrbits([str(packed)]), small_engine(0)
    frames, orbit = orbits.frames(2), orbits.orbit(2)
    x0, token, latent, vector = latents[0].batch(np.random.default_rng(0), [2], drop=0.0)
    mean, log_variance = engine.encode_moments(frames)
    drawn = np.random.default_rng(0).standard_normal(mean[None].shape, dtype=np.float32)[0]
    assert relative_error(x0, (mean + np.exp(log_variance / 2) * drawn) * 0.18215) < 1e-5
    c, _ = engine.condition(frames[-1:], np.zeros_like(frames[-1:]), cond_aug=engine.spec.condition.cond_aug,
                            polars_rad=orbit.polars_rad, azimuths_rad=orbit.azimuths_rad)
    for ours, wanted in ((token, c["crossattn"]), (latent, c["concat"]), (vector, c["vector"])):
        assert relative_error(ours, wanted) < 1e-5


def test_condition_is_dropped_whole(latents):
    """Token and latent of a clip together, as the unconditional side of guidance has it; the vector stays."""
    dropped = []
    for seed in range(20):
        _, token, latent, vector = latents[0].batch(np.random.default_rng(seed), [0, 1], drop=0.5)
        token, latent = token.reshape(2, 3, -1).any((1, 2)), latent.reshape(2, 3, -1).any((1, 2))
        assert (token == latent).all() and vector.any(1).all()
        dropped += list(~token)
    assert 8 < sum(dropped) < 32 and dropped[::2] != dropped[1::2]


def test_roaming_clips(latents, relative_error):
    """The same views with their own angles, from any start and either way; the condition stays the last view."""
    plain = latents[0].batch(np.random.default_rng(0), [2], drop=0.0)
    mean, log_variance = latents[0].load(np.random.default_rng(0), 2, 0.0)[1][:2]
    angles = plain[3][:, -128:]         # the azimuth's columns
    starts, steps = set(), set()
    for seed in range(40):
        x0, token, latent, vector = latents[0].batch(np.random.default_rng(seed), [2], drop=0.0, random_start=1.0)
        order = [int(np.abs(angles - row).sum(1).argmin()) for row in vector[:, -128:]]
        np.testing.assert_array_equal(vector, plain[3][order])
        np.testing.assert_array_equal(token, plain[1])
        np.testing.assert_array_equal(latent, plain[2])
        noise = np.random.default_rng(seed).standard_normal(mean.shape, dtype=np.float32)
        assert relative_error(x0, (mean[order] + np.exp(log_variance[order] / 2) * noise) * 0.18215) < 1e-6
        starts.add(order[0])
        steps.add((order[1] - order[0]) % 3)
    assert starts == {0, 1, 2} and steps == {1, 2}


def trainer(seed, latents, make):
    recipe = Recipe(seed=5, steps=8, batch=2, lr=1e-2, warmup=2, average_decay=0.5)
    return Trainer(engine_of(seed, make), recipe, DiffusionBatches(recipe, latents[0]))


@pytest.mark.parametrize("make", [ToyEngine, pytest.param(Engine, marks=pytest.mark.slow)])
def test_a_resumed_run_continues_bit_for_bit(make, latents, tmp_path):
    first = trainer(0, latents, make)
    losses = [first.advance()[0] for _ in range(2)]
    folder = RunFolder(tmp_path, first.recipe, first.engine.spec)
    folder.save(first)
    rows = [first.advance() for _ in range(2)]
    assert np.isfinite(losses).all() and first.done == 4

    second = trainer(1, latents, make)        # other weights, until it resumes
    folder.resume(second)
    assert second.done == 2
    assert [second.advance() for _ in range(2)] == rows
    for averaged in (False, True):
        ours, theirs = first.weights(averaged), second.weights(averaged)
        assert set(ours) == set(theirs) == set(first.engine.parameters_dict())
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert any((first.weights(False)[name] != first.weights(True)[name]).any() for name in ours)

    folder.resume(second)             # once more, now that its step is compiled
    assert [second.advance() for _ in range(2)] == rows

    saved = open_checkpoint(tmp_path / "averaged.safetensors")
    assert saved.metadata["step"] == "2" and set(saved) == set(ours)    # a model file: it loads like a published one
    other = Trainer(Engine(load_spec(PACKAGED / "tiny_sv3d_p.yaml", [*POSED, "unet.num_res_blocks=2"])), first.recipe,
                    first.batches)
    with pytest.raises(CheckpointError, match="is missing or of another shape"):
        folder.resume(other)


def test_views_for_the_autoencoder(packed):
    """Whole views, or square crops of them; what a step sees follows from its number."""
    orbits, spec = PackedOrbits([str(packed)]), small_engine(0).spec
    images, noise = ViewBatches(Recipe(batch=5), orbits, spec)(3)
    assert images.shape == (5, 3, 32, 32) and noise.shape == (5, 4, 8, 8)
    np.testing.assert_array_equal(images, ViewBatches(Recipe(batch=5), orbits, spec)(3)[0])
    assert (images != ViewBatches(Recipe(batch=5), orbits, spec)(4)[0]).any()
    views = np.concatenate([orbits.frames(i) for i in range(4)])
    assert all((views == image).all((1, 2, 3)).any() for image in images)
    crops, noise = ViewBatches(Recipe(batch=5, crop=16), orbits, spec)(3)
    assert crops.shape == (5, 3, 16, 16) and noise.shape == (5, 4, 4, 4)


class Asked:
    """Clips that note what batches of them are asked for."""

    def __init__(self, count):
        self.count, self.asked = count, []

    def __len__(self):
        return self.count

    def batch(self, rng, indices, drop, random_start, frames):
        self.asked.append((tuple(indices), drop, random_start, frames))
        return np.zeros((3 * len(indices), 4, 8, 8), np.float32), rng.random(len(indices))


def test_held_out_and_training_clips_are_measured_alike():
    """As many of both, whole and with their conditions, at the same noise levels; training clips are from all of them."""
    recipe = Recipe(batch=2, val_batches=3, frames=4, drop_condition=0.5, roam=0.5, seed=7)
    val, clips = Asked(5), Asked(1000)
    assert as_sampled(recipe, clips, None) == (None, None)
    held_out, seen = as_sampled(recipe, clips, val)
    for number in range(3):
        for ours, theirs in zip(held_out(number)[:3], seen(number)[:3], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert {asked[1:] for asked in val.asked + clips.asked} == {(0.0, 0.0, 0)}
    taken = [index for asked in clips.asked for index in asked[0]]
    assert len(set(taken)) == len(taken) == 6 and max(taken) > 500 > min(taken)
    seen(0)
    assert clips.asked[-1] == clips.asked[0]
