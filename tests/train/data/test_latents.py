"""Batches from latents that are kept and from pixels, and the cache: what is encoded when, what is kept, kills."""
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support.making_data import (
    SIZE,
    Counter,
    FakeEngine,
    dynamic_orbits,
    mean_of,
    picture,
    small_spec,
    write_film,
    write_orbit,
    write_packed,
)
from support.paths import ROOT

from sgm.train.data import (
    Clips,
    DataError,
    DataSettings,
    LatentClips,
    Memo,
    PixelClips,
    open_data,
    read_clips,
)
from sgm.train.data.examples import Encoders, sinusoids
from sgm.train.data.motion import motion_bucket
from sgm.train.data.orbits import read_orbit

pytestmark = pytest.mark.usefixtures("no_clip")


@pytest.fixture
def orbits(tmp_path):
    """Three clips of six views, dynamic orbits."""
    return dynamic_orbits(tmp_path / "data", 3)


def latents(clips, cache, engine=None, **more):
    return LatentClips(clips, engine or FakeEngine(), cache, more.pop("progress", Counter()), num_frames=3, **more)


def entries(cache):
    return {path.stem for path in cache.glob("??/*.npy")}


# --- batches ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kept", [True, False])
def test_a_batch_by_hand(kept, orbits, tmp_path):
    """Which views, their latents with noise, the condition's latent and token, the angles from the condition."""
    engine = FakeEngine(log_variance=np.log(0.09))
    examples = (latents(orbits, tmp_path / "cache", engine, condition="any") if kept
                else PixelClips(orbits, engine, "any", 3))
    conditions = set()
    for seed in range(30):
        x0, token, latent, vector = examples.batch(np.random.default_rng(seed), [1], drop=0.0)
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((1, 3, 4, 8, 8), dtype=np.float32)
        condition = int(rng.integers(6))
        conditions.add(condition)
        views = [(condition + 2) % 6, (condition + 4) % 6, condition]
        frames = orbits.frames(1, views)
        np.testing.assert_allclose(x0, (mean_of(frames) + 0.3 * noise[0]) * 0.18215, atol=1e-5)
        np.testing.assert_allclose(token, np.full((3, 1, 32), frames[2].mean()), atol=1e-5)
        np.testing.assert_allclose(latent, np.repeat(mean_of(frames[2:]), 3, 0), atol=1e-6)
        azimuths, elevations = orbits[1].angles
        told = np.deg2rad((azimuths[views] - azimuths[condition]) % 360)
        wanted = np.concatenate([sinusoids(np.full(3, examples.engine.spec.condition.cond_aug), 8),
                                 sinusoids(np.deg2rad(90 - elevations[views]), 8), sinusoids(told, 8)], 1)
        np.testing.assert_allclose(vector, wanted, atol=1e-5)
        assert told[2] == 0
    assert conditions == set(range(6))


def test_kept_and_from_pixels_are_the_same(orbits, tmp_path):
    kept = latents(orbits, tmp_path / "cache", condition="any", augment=(-3, 0.5))
    pixels = PixelClips(orbits, FakeEngine(), "any", 3, (-3, 0.5))
    for seed in range(5):
        ours, theirs = (examples.batch(np.random.default_rng(seed), [2, 0], 0.3, 0.5) for examples in (kept, pixels))
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_augmented_conditions(orbits, tmp_path):
    """The condition image has noise of the level that is told; ln level ~ N(-3, 0.5^2); the target has none."""
    plain, noisy = latents(orbits, tmp_path / "cache"), latents(orbits, tmp_path / "cache", augment=(-3, 0.5))
    levels = []
    for seed in range(200):
        clean, found = (examples.batch(np.random.default_rng(seed), [0, 1], 0.0) for examples in (plain, noisy))
        np.testing.assert_array_equal(clean[0], found[0])
        np.testing.assert_array_equal(clean[1], found[1])
        told = found[3][::3, :8]
        level = np.arccos(np.clip(told[:, 0], -1, 1))       # the first cosine has frequency 1
        spread = (found[2] - clean[2])[::3, :3].std((1, 2, 3)) * 4         # of means of 16 pixels
        np.testing.assert_allclose(spread, level, rtol=0.35, atol=0.02)
        levels += level.tolist()
    assert np.log(levels).mean() == pytest.approx(-3, abs=0.1) and np.log(levels).std() == pytest.approx(0.5, abs=0.07)


def test_films(tmp_path):
    """The first frame is the condition; what is told is the table's fps and motion, or those found."""
    film = np.random.RandomState(0).randint(0, 256, (8, SIZE, SIZE, 3)).astype(np.uint8)
    write_film(tmp_path / "d.gif", film, fps=10)
    engine = FakeEngine(small_spec("svd"))
    recipe = DataSettings(data=[str(tmp_path / "d.gif")], cache_folder=str(tmp_path / "cache"))
    (kept, held), counter = open_data(recipe, engine, Counter()), Counter()
    assert held is None and len(kept) == 2 and kept.num_frames == 4
    (pixels, _) = open_data(DataSettings(data=recipe.data, cache=False), engine, counter)
    for examples in (kept, pixels):
        x0, token, latent, vector = examples.batch(np.random.default_rng(0), [1], 0.0, random_start=1.0)
        frames = kept.clips.frames(1)
        np.testing.assert_allclose(latent, np.repeat(mean_of(frames[:1]), 4, 0), atol=1e-5)
        np.testing.assert_allclose(token[0, 0], frames[0].mean(), atol=1e-5)
        columns = {name: vector[:, 8 * k:8 * k + 8] for k, name in enumerate(engine.spec.vector_widths)}
        np.testing.assert_allclose(columns["fps_id"], sinusoids(np.full(4, 10.0), 8), atol=1e-4)
        np.testing.assert_allclose(columns["motion_bucket_id"], sinusoids(np.full(4, motion_bucket(frames)), 8), atol=1e-3)
    (tmp_path / "clips.csv").write_text("file,motion_bucket\nd.gif,17\n")
    told = open_data(recipe, engine, counter)[0].batch(np.random.default_rng(0), [1], 0.0)[3]
    names = list(engine.spec.vector_widths)
    at = 8 * names.index("motion_bucket_id")
    np.testing.assert_allclose(told[:, at:at + 8], sinusoids(np.full(4, 17.0), 8), atol=1e-5)
    assert counter.counts == {}         # the table is no reason to encode again


def test_encoders_have_one_shape(tmp_path):
    """7 frames at 4 a time: the last piece is filled up, the filling left out again."""
    engine = FakeEngine()
    frames = np.random.RandomState(0).rand(7, 3, SIZE, SIZE).astype(np.float32)
    mean, log_variance = Encoders(engine, 4).moments(frames)
    np.testing.assert_allclose(mean, mean_of(frames))
    assert len(log_variance) == 7 and engine.shapes == {(4, 3, SIZE, SIZE)}


# --- the cache --------------------------------------------------------------------------------------------------

def test_encoded_once(orbits, tmp_path):
    """Again only what has changed: the images, the encoders, the background, which views may be the condition."""
    cache, engine = tmp_path / "cache", FakeEngine()
    latents(orbits, cache, engine)
    assert engine.encoded >= 18
    for more in ({}, {"encode_chunk": 2}, {"augment": (-3, 0.5)}):
        again = FakeEngine()
        latents(orbits, cache, again, **more)
        assert again.encoded == 0
    for engine, more in ((FakeEngine(weights=1.0), {}), (FakeEngine(), {"condition": "any"})):
        latents(orbits, cache, engine, **more)
        assert engine.encoded >= 18
    Image.fromarray(picture(99)).save(tmp_path / "data" / "b" / "002.png")
    engine, counter = FakeEngine(), Counter()
    found = latents(orbits, cache, engine, progress=counter)
    assert counter.counts == {"encoding clips": 1}
    np.testing.assert_allclose(found.load(np.random.default_rng(0), 1, 0.0)[1][2], mean_of(orbits.frames(1))[5], atol=1e-6)


def test_copies_are_not_encoded_again(orbits, tmp_path):
    """The key is of the content, not of the path; two of a kind are encoded once."""
    latents(orbits, tmp_path / "cache")
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = Clips([read_orbit(tmp_path / "moved" / name, SIZE) for name in "abc"], (SIZE, SIZE))
    counter = Counter()
    latents(moved, tmp_path / "cache", progress=counter)
    assert counter.counts == {}
    twice = latents(Clips([moved[0], moved[0]], (SIZE, SIZE)), tmp_path / "again", progress=counter)
    assert counter.counts == {"encoding clips": 1} and len(twice) == 2


def test_backgrounds_are_encoded_each(tmp_path):
    write_many(tmp_path, 2)
    recipe = DataSettings(data=[str(tmp_path / "data")], cache_folder=str(tmp_path / "cache"), background="both")
    counter = Counter()
    examples, _ = open_data(recipe, FakeEngine(), counter)
    assert counter.counts == {"encoding clips": 4} and len(set(examples.keys)) == 4
    for k in range(4):
        latent = examples.batch(np.random.default_rng(0), [k], 0.0)[2][0, :3, 0, 0]
        np.testing.assert_allclose(latent, np.array(examples.clips[k].background) / 127.5 - 1, atol=0.01)


def test_a_half_written_or_cut_entry_is_made_again(orbits, tmp_path):
    cache = tmp_path / "cache"
    first = latents(orbits, cache)
    wanted = first.batch(np.random.default_rng(0), [0, 1, 2], 0.0)
    path = first.store.path(first.keys[1])
    path.write_bytes(path.read_bytes()[:-100])
    memo = cache / "memo.jsonl"
    memo.write_text(memo.read_text()[:-10])
    counter = Counter()
    again = latents(orbits, cache, progress=counter)
    assert counter.counts == {"encoding clips": 1}
    for a, b in zip(wanted, again.batch(np.random.default_rng(0), [0, 1, 2], 0.0)):
        np.testing.assert_array_equal(a, b)


def test_an_entry_that_is_gone_is_one_line(orbits, tmp_path):
    examples = latents(orbits, tmp_path / "cache")
    examples.store.path(examples.keys[1]).unlink()
    with pytest.raises(DataError, match="cannot be read any more") as error:
        examples.batch(np.random.default_rng(0), [1], 0.0)
    assert "\n" not in str(error.value)


def test_the_bound(orbits, tmp_path):
    """What was used longest ago goes first; what this run needs stays; more than the bound is refused with figures."""
    cache = tmp_path / "cache"
    one = 128 + 4 * 6 * (2 * 4 * 8 * 8 + 32 + 1)
    pairs = [Clips([orbits[k]], (SIZE, SIZE)) for k in range(3)]
    keys = []
    for k in (0, 1):
        keys += latents(pairs[k], cache, cache_gb=2 * one / 1e9).keys
        assert all(os.path.getsize(path) == one for path in cache.glob("??/*.npy"))
    for k, key in enumerate(keys):
        path = next(cache.glob(f"??/{key}.npy"))
        os.utime(path, (1000 + k, 1000 + k))
    latents(pairs[0], cache, cache_gb=2 * one / 1e9)            # used again: the second is now the oldest
    keys += latents(pairs[2], cache, cache_gb=2 * one / 1e9).keys
    assert entries(cache) == {keys[0], keys[2]}
    with pytest.raises(DataError, match="cache_gb: these 3 clips take .*cache=false"):
        latents(orbits, cache, cache_gb=2 * one / 1e9)
    assert entries(cache) == {keys[0], keys[2]}                 # refused before anything was removed


def test_validation_does_not_push_training_out(tmp_path):
    """One bound for both: together they fit or are refused."""
    write_many(tmp_path, 3)
    (tmp_path / "data" / "val.txt").write_text("o02\n")
    one = (128 + 4 * 4 * (2 * 4 * 8 * 8 + 32 + 1)) / 1e9
    recipe = DataSettings(data=[str(tmp_path / "data")], cache_folder=str(tmp_path / "cache"), cache_gb=3 * one)
    train, val = open_data(recipe, FakeEngine(), Counter())
    assert entries(tmp_path / "cache") == {*train.keys, *val.keys}
    recipe.cache_gb = 2 * one
    with pytest.raises(DataError, match="these 3 clips take"):
        open_data(recipe, FakeEngine(), Counter())


def test_a_bad_clip_is_left_out_told_and_remembered(tmp_path, caplog):
    for k in range(21):
        write_orbit(tmp_path / "data" / f"o{k:02d}", seed=k)
    (tmp_path / "data" / "o03" / "002.png").write_bytes(b"junk")
    recipe = DataSettings(data=[str(tmp_path / "data")], cache_folder=str(tmp_path / "cache"))
    for times in (1, 2):
        counter, engine = Counter(), FakeEngine()
        examples, _ = open_data(recipe, engine, counter)
        assert len(examples) == len(examples.keys) == 20 and len(examples.skipped.reasons) == 1
        assert not any("o03" in clip.name for clip in examples.clips.items)
        assert len(caplog.messages) == times and "o03" in caplog.messages[-1] and "002.png" in caplog.messages[-1]
        assert counter.counts == ({"encoding clips": 21} if times == 1 else {})
    (tmp_path / "data" / "o07" / "001.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="2 of 21 clips cannot be used.*o03.*o07"):
        open_data(recipe, FakeEngine(), Counter())


def test_a_bad_clip_without_a_cache(tmp_path, caplog):
    """The next takes its place, and does so again in a run that is resumed; too many stop it with a list."""
    for k in range(40):
        write_orbit(tmp_path / "data" / f"o{k:02d}", seed=k)
    for name in ("o03", "o04"):
        (tmp_path / "data" / name / "002.png").write_bytes(b"junk")
    recipe = DataSettings(data=[str(tmp_path / "data")], cache=False)
    examples, _ = open_data(recipe, FakeEngine(), Counter())
    assert len(examples) == 40
    first = examples.batch(np.random.default_rng(7), [3, 9], 0.0)
    assert len(caplog.messages) == 2 and len(examples.skipped.reasons) == 2
    again = examples.batch(np.random.default_rng(7), [3, 9], 0.0)
    resumed = open_data(recipe, FakeEngine(), Counter())[0].batch(np.random.default_rng(7), [3, 9], 0.0)
    for a, b, c in zip(first, again, resumed):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    frames = examples.clips.frames(5)
    assert np.abs(first[1][:4, 0, 0] - frames.mean((1, 2, 3))[:, None]).min() < 1e-5        # its token is clip 5's
    (tmp_path / "data" / "o20" / "001.png").unlink()
    with pytest.raises(DataError, match="3 of 40 clips cannot be used"):
        examples.batch(np.random.default_rng(7), [20], 0.0)


SLOW = """
import sys, time
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from support.making_data import Counter, FakeEngine, fake_tokens
from sgm.train.data import DataSettings, open_data
from sgm.train.data.examples import Encoders
Encoders.tokens = fake_tokens
class Slow(FakeEngine):
    def encode_moments(self, frames, chunk=7):
        time.sleep({pause})
        return super().encode_moments(frames, chunk)
train, _ = open_data(DataSettings(data=[{data!r}], cache_folder={cache!r}), Slow(), Counter(), {rank}, {world_size})
print(len(train))
"""


def start(tmp_path, pause=0.03, rank=0, world_size=1):
    """A process that encodes tmp_path/data into tmp_path/cache, slowly."""
    code = SLOW.format(root=str(ROOT), data=str(tmp_path / "data"), cache=str(tmp_path / "cache"), pause=pause, rank=rank,
                       world_size=world_size)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def write_many(tmp_path, count):
    for k in range(count):
        write_orbit(tmp_path / "data" / f"o{k:02d}", seed=k)


def test_killed_while_encoding(tmp_path):
    """kill -9, again and again: every entry is whole, none is made twice, and the end is that of a quiet run."""
    write_many(tmp_path, 24)
    cache, kept = tmp_path / "cache", {}
    for _ in range(3):
        process = start(tmp_path)
        before, since = len(entries(cache)), time.monotonic()
        while len(entries(cache)) < before + 3:
            assert process.poll() is None and time.monotonic() - since < 60
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in cache.glob("??/*.npy"):
            content = path.read_bytes()
            assert kept.setdefault(path.name, content) == content and np.load(path).shape == (4, 2 * 256 + 33)
    assert 9 <= len(kept) < 24
    counter = Counter()
    recipe = DataSettings(data=[str(tmp_path / "data")], cache_folder=str(cache))
    broken, _ = open_data(recipe, FakeEngine(), counter)
    assert counter.counts == {"encoding clips": 24 - len(entries(cache) & {name[:-4] for name in kept})}
    quiet, _ = open_data(DataSettings(data=recipe.data, cache_folder=str(tmp_path / "quiet")), FakeEngine(), Counter())
    for a, b in zip(*(examples.batch(np.random.default_rng(0), range(24), 0.1) for examples in (broken, quiet))):
        np.testing.assert_array_equal(a, b)


def test_two_processes_share_the_work(tmp_path):
    """Each encodes its half, and waits for the other's, whichever comes first."""
    write_many(tmp_path, 8)
    late = start(tmp_path, rank=1, world_size=2)
    time.sleep(0.3)
    first = start(tmp_path, rank=0, world_size=2)
    assert [process.communicate(timeout=60)[0].strip() for process in (late, first)] == ["8", "8"]
    assert len(entries(tmp_path / "cache")) == 8


def test_a_process_whose_other_never_comes(orbits, tmp_path, monkeypatch):
    monkeypatch.setattr("sgm.train.data.latents.PATIENCE", 0.2)
    with pytest.raises(DataError, match="1 clips of other processes did not appear in"):
        latents(orbits, tmp_path / "cache", rank=0, world_size=2)


def test_a_full_disk_is_one_line(orbits, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match="cache_folder .*No space left on device.*free space") as error:
        latents(orbits, tmp_path / "cache")
    assert "\n" not in str(error.value) and not entries(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("??/.*"))


def test_packed_sets_keep_their_batches(tmp_path):
    """`condition: last` on a set of as many views as the model's draws exactly what it always has."""
    packed, _ = read_clips(DataSettings(data=[str(write_packed(tmp_path / "set"))], cache=False), small_spec(), Memo())
    examples = LatentClips(packed[0], FakeEngine(), tmp_path / "cache", Counter())
    for seed in range(6):
        x0, token, latent, vector = examples.batch(np.random.default_rng(seed), [1], 0.5, random_start=0.5)
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((1, 4, 4, 8, 8), dtype=np.float32)[0]
        order = np.arange(4)
        if rng.random() < 0.5:
            order = (rng.integers(4) + rng.choice((-1, 1)) * order) % 4
        keep = rng.random(1) >= 0.5
        frames = packed[0].frames(1)
        np.testing.assert_allclose(x0, (mean_of(frames[order]) + np.exp(-1) * noise) * 0.18215, atol=1e-5)
        np.testing.assert_allclose(latent, keep * np.repeat(mean_of(frames[3:]), 4, 0), atol=1e-6)
