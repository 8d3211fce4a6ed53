"""Some frames of each clip: which are drawn, what the network is told of them; and what a cache of latents may share."""
import numpy as np
import pytest
from support.making_data import (
    SIZE,
    Counter,
    FakeEngine,
    dynamic_orbits,
    mean_of,
    small_spec,
    write_film,
)

from sgm.config.model_files import load_spec
from sgm.config.recipe import Recipe
from sgm.config.yaml_reader import ConfigError
from sgm.train.data import DataSettings, LatentClips, PixelClips, open_data
from sgm.train.data.examples import choose_places, sinusoids
from sgm.train.data.motion import motion_bucket
from sgm.train.run.plan import check_fit, describe, memory

pytestmark = pytest.mark.usefixtures("no_clip")


@pytest.fixture
def orbits(tmp_path):
    """Two clips of six views, dynamic orbits."""
    return dynamic_orbits(tmp_path / "data", 2)


def test_places_are_drawn_evenly_the_shown_one_always():
    """Of the other five, each with probability 2/5."""
    drawn = [choose_places(np.random.default_rng(seed), 6, 3, 5) for seed in range(2000)]
    assert all(len(set(places)) == 3 and (np.diff(places) > 0).all() and places[2] == 5 for places in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=6)[:5]
    assert np.abs(counts / 2000 - 0.4).max() < 0.045         # four standard deviations
    assert sorted(choose_places(np.random.default_rng(0), 6, 6, 2)) == list(range(6))


@pytest.mark.parametrize("roam", [0.0, 1.0])
@pytest.mark.parametrize("kept", [True, False])
def test_a_batch_by_hand(kept, roam, orbits, tmp_path):
    """Two of the three views of a clip: its condition, which is last unless it roams, and another; and their places."""
    engine = FakeEngine(log_variance=np.log(0.09))
    examples = (LatentClips(orbits, engine, tmp_path / "cache", Counter(), "any", 3) if kept
                else PixelClips(orbits, engine, "any", 3))
    seen = set()
    for seed in range(30):
        x0, token, latent, vector, rows = examples.batch(np.random.default_rng(seed), [1, 0], 0.0, roam, frames=2)
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((2, 2, 4, 8, 8), dtype=np.float32)
        assert x0.shape == (4, 4, 8, 8) and token.shape == (6, 1, 32) and latent.shape == (4, 4, 8, 8)
        for k, clip in enumerate((1, 0)):
            condition = int(rng.integers(6))
            views = np.array([(condition + 2) % 6, (condition + 4) % 6, condition])
            if rng.random() < roam:
                views = views[(rng.integers(3) + rng.choice((-1, 1)) * np.arange(3)) % 3]
            at = list(views).index(condition)
            places = sorted([at, int(rng.choice([place for place in range(3) if place != at], 1, replace=False)[0])])
            np.testing.assert_array_equal(rows[2 * k:2 * k + 2], [3 * k + place for place in places])
            views = views[places]
            assert condition in views and (roam or views[1] == condition)
            seen.add(tuple(places))
            frames, shown = orbits.frames(clip, list(views)), orbits.frames(clip, [condition])
            own = slice(2 * k, 2 * k + 2)
            np.testing.assert_allclose(x0[own], (mean_of(frames) + 0.3 * noise[k]) * 0.18215, atol=1e-5)
            np.testing.assert_allclose(token[3 * k:3 * k + 3], np.full((3, 1, 32), shown.mean()), atol=1e-5)
            np.testing.assert_allclose(latent[own], np.repeat(mean_of(shown), 2, 0), atol=1e-6)
            azimuths, elevations = orbits[clip].angles
            told = np.deg2rad((azimuths[views] - azimuths[condition]) % 360)
            wanted = np.concatenate([sinusoids(np.full(2, engine.spec.condition.cond_aug), 8),
                                     sinusoids(np.deg2rad(90 - elevations[views]), 8), sinusoids(told, 8)], 1)
            np.testing.assert_allclose(vector[own], wanted, atol=1e-5)
    assert seen == ({(0, 2), (1, 2)} if not roam else {(0, 1), (0, 2), (1, 2)})


def test_all_frames_are_as_without(orbits, tmp_path):
    """Every frame of every clip, drawn, is what is there without the setting; only the random numbers are others."""
    examples = LatentClips(orbits, FakeEngine(log_variance=-100.0), tmp_path / "cache", Counter(), "last", 3)
    whole = examples.batch(np.random.default_rng(0), [0, 1], 0.0)
    *some, rows = examples.batch(np.random.default_rng(0), [0, 1], 0.0, frames=3)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(some, whole)) and list(rows) == list(range(6))


@pytest.mark.parametrize("cache", [True, False])
def test_films_keep_their_motion(cache, tmp_path):
    """The condition is the first frame, and the motion is that of all frames, whichever are seen."""
    frames = np.zeros((4, SIZE, SIZE, 3), np.uint8)
    for k in range(4):
        frames[k, 4:20, 4 + 2 * k:20 + 2 * k] = 200
    (tmp_path / "films").mkdir()
    write_film(tmp_path / "films" / "a.mp4", frames)
    spec = small_spec("svd")
    recipe = DataSettings(data=[str(tmp_path / "films")], cache=cache, encode_chunk=4)
    examples, _ = open_data(recipe, FakeEngine(spec), Counter())
    motion = motion_bucket(examples.clips.frames(0))
    start = list(spec.vector_widths).index("motion_bucket_id") * 8
    for seed in range(5):
        x0, token, latent, vector, rows = examples.batch(np.random.default_rng(seed), [0], 0.0, frames=2)
        assert len(x0) == len(vector) == 2 and len(token) == 4 and rows[0] == 0 < rows[1]
        np.testing.assert_allclose(vector[:, start:start + 8], sinusoids(np.full(2, motion), 8), atol=1e-4)
        np.testing.assert_allclose(latent[0], mean_of(examples.clips.frames(0, [0]))[0], atol=1e-6)


def test_frames_that_a_clip_has_not():
    spec = load_spec("sv3d_p")
    for count in (1, 22):
        with pytest.raises(ConfigError, match=f"frames: found {count}, expected 2 to 21, the frames of a clip of sv3d_p"):
            check_fit(spec, Recipe(frames=count))
    for count in (0, 2, 21):
        check_fit(spec, Recipe(frames=count))
    whole, some = (memory(spec, Recipe(frames=count))["activations (estimate)"] for count in (0, 7))
    assert some == pytest.approx(whole / 3, rel=1e-6)
    assert dict(describe(spec, Recipe(steps=5, frames=7)))["steps"].startswith("5, each of 7 frames of 1 clips")


def test_models_that_differ_in_angles_share_latents_and_no_angles(orbits, tmp_path):
    """The cache holds nothing that depends on `condition.angle_scale`: it is told anew with every batch."""
    told = []
    for scale in (1, 8):
        engine = FakeEngine(small_spec("sv3d_p", f"condition.angle_scale={scale}"))
        examples = LatentClips(orbits, engine, tmp_path / "cache", Counter(), "last", 3)
        assert engine.encoded == (12 if scale == 1 else 0)
        x0, _, _, vector = examples.batch(np.random.default_rng(0), [0], 0.0)
        azimuths, elevations = orbits[0].angles
        for start, angles in ((8, 90 - elevations[[1, 3, 5]]), (16, (azimuths[[1, 3, 5]] - azimuths[5]) % 360)):
            wanted = sinusoids(scale * np.deg2rad(angles), 8)
            np.testing.assert_allclose(vector[:, start:start + 8], wanted, atol=1e-5)
        told.append((x0, vector))
    assert np.array_equal(told[0][0], told[1][0]) and not np.allclose(told[0][1][:, 8:], told[1][1][:, 8:])
