"""What a recipe's paths are taken for, held-back clips, and what is refused."""
import json

import numpy as np
import pytest
from support.making_data import (
    SIZE,
    Counter,
    FakeEngine,
    small_spec,
    write_film,
    write_orbit,
    write_packed,
)

from sgm.config.yaml_reader import ConfigError
from sgm.train.data import DataError, DataSettings, Memo, open_data, read_clips
from sgm.train.data.sources import cache_folder, expand, find
from sgm.views.cameras import Orbit


def settings(*data, **more):
    return DataSettings(data=[str(path) for path in data], cache=False, **more)


def names(clips):
    return [clip.name.rsplit("/", 1)[1] for clip in clips.items]


@pytest.fixture
def data(tmp_path):
    """Four orbits, two of them a level down, beside a cache and the unfinished rest of a rendering."""
    for k, place in enumerate(("a", "b", "more/c", "more/d")):
        write_orbit(tmp_path / "data" / place, seed=k)
    (tmp_path / "data" / "cache").mkdir()
    (tmp_path / "data" / "cache" / "memo.jsonl").touch()
    (tmp_path / "data" / ".e.partial").mkdir()
    (tmp_path / "data" / "failed.txt").write_text("")
    return tmp_path / "data"


def test_folders_and_globs(data):
    spec = small_spec()
    for paths, wanted in (([data], "abcd"), ([data / "more"], "cd"), ([data / "b"], "b"), ([data / "[ab]"], "ab"),
                          ([data / "**" / "d", data / "a"], "da")):
        (clips, _), held = read_clips(settings(*paths), spec, Memo())
        assert names(clips) == list(wanted) and held[0] is None


def test_train_and_val(data):
    spec = small_spec()
    (data / "train.txt").write_text("a\nmore\n")
    (train, _), (val, _) = read_clips(settings(data), spec, Memo())
    assert names(train) == ["a", "c", "d"] and val is None
    (data / "val.txt").write_text("# held back\nb\n\n")
    (train, _), (val, _) = read_clips(settings(data), spec, Memo())
    assert names(train) == ["a", "c", "d"] and names(val) == ["b"]
    (data / "train.txt").unlink()
    (data / "val.txt").write_text("more/d\na\n")
    (train, _), (val, _) = read_clips(settings(data), spec, Memo())
    assert names(train) == ["b", "c"] and names(val) == ["d", "a"]


def test_val_of_its_own(data):
    (train, _), (val, _) = read_clips(settings(data / "a", val=[str(data / "more")]), small_spec(), Memo())
    assert names(train) == ["a"] and names(val) == ["c", "d"]


@pytest.mark.parametrize("train, val, said", [
    ("a\nz\n", None, "train.txt: names z, which is not in"), ("a\n", "a\nb\n", "a is in train.txt and in val.txt"),
    ("", None, "found no clip to train on")])
def test_splits_that_cannot_be(train, val, said, data):
    (data / "train.txt").write_text(train)
    if val is not None:
        (data / "val.txt").write_text(val)
    with pytest.raises(DataError, match=said):
        read_clips(settings(data), small_spec(), Memo())


def test_packed_sets_beside_folders(data, tmp_path):
    packed = write_packed(tmp_path / "set", clips=3)
    (clips, _), _ = read_clips(settings(packed, data / "a"), small_spec(), Memo())
    assert names(clips) == ["set[0]", "set[1]", "set[2]", "a"]
    assert clips.num_frames == 4 and clips.size == SIZE and clips.frames(3, [1]).shape == (1, 3, SIZE, SIZE)
    assert find(tmp_path, True) == {"train": [("orbit", data / place) for place in ("a", "b", "more/c", "more/d")]
                                    + [("packed", packed)], "val": []}


@pytest.mark.parametrize("make, more, model, said", [
    (lambda p: write_packed(p, size=16), {}, "sv3d_p", "views of 16 pixels, expected 32 or a multiple of it; render it with --size 32"),
    (lambda p: write_packed(p, views=3), {}, "sv3d_p", "3 views of each orbit, and .* takes 4; render it with --frames 4"),
    (write_packed, {"background": "random"}, "sv3d_p", "background: found random, and .* is packed, on white"),
    (write_packed, {}, "svd", "holds orbits, and .* learns from videos"),
    (lambda p: p.mkdir(), {}, "sv3d_p", "transforms.json"),
    (lambda p: p.mkdir(), {}, "svd", "found 0 frames"),
    (lambda p: None, {}, "sv3d_p", "no such file or folder"),
    (lambda p: p.write_text("hello"), {}, "sv3d_p", "transforms.json|is not JSON"),
    (lambda p: p.write_text("hello"), {}, "svd", "ffmpeg cannot read it")])
def test_refused(make, more, model, said, tmp_path):
    make(tmp_path / "place")
    with pytest.raises(DataError, match=said) as error:
        read_clips(settings(tmp_path / "place", **more), small_spec(model), Memo())
    assert "\n" not in str(error.value) and "place" in str(error.value)


def test_the_autoencoder_takes_single_views(data, tmp_path):
    """It does not mind how many views an orbit or a film has."""
    recipe, spec = settings(write_packed(tmp_path / "set", views=3), data / "a"), small_spec()
    with pytest.raises(DataError, match="3 views of each orbit"):
        read_clips(recipe, spec, Memo())
    recipe.task = "autoencoder"
    (clips, _), _ = read_clips(recipe, spec, Memo())
    assert len(clips) == 3 and clips.num_frames == 3
    film = np.repeat(np.arange(3, dtype=np.uint8) * 80, SIZE * SIZE * 3).reshape(3, SIZE, SIZE, 3)
    recipe.data = [str(write_film(tmp_path / "film.gif", film))]
    (clips, _), _ = read_clips(recipe, small_spec("svd"), Memo())
    assert len(clips) == 3 and clips.frames(2, [0]).shape == (1, 3, SIZE, SIZE)


def test_an_unposed_model_is_not_told_elevations(tmp_path, caplog):
    write_orbit(tmp_path / "level")
    write_orbit(tmp_path / "moving", Orbit.sine(30, 10, 4))
    read_clips(settings(tmp_path / "*"), small_spec("sv3d_p"), Memo())
    assert not caplog.messages
    read_clips(settings(tmp_path / "*"), small_spec("sv3d_u"), Memo())
    assert len(caplog.messages) == 1 and "1 of 2 orbits are not level" in caplog.text and "moving" in caplog.text


def test_many_clips_have_a_progress_bar(tmp_path, monkeypatch):
    monkeypatch.setattr("sgm.train.data.sources.MANY", 2)
    for k in range(3):
        write_orbit(tmp_path / "data" / f"{k}")
    counter = Counter()
    read_clips(settings(tmp_path / "data"), small_spec(), Memo(), counter)
    assert counter.counts == {"reading cameras": 3}


def test_nothing_given():
    with pytest.raises(DataError, match="data: found no clip"):
        read_clips(settings(), small_spec(), Memo())
    for name in ("/nowhere/*", "", "a\0b", "x" * 5000):
        with pytest.raises(DataError, match="val: .*: no such file") as error:
            expand([name], "val")
        assert "\n" not in str(error.value) and len(str(error.value)) <= 2000


@pytest.mark.parametrize("values, said", [
    ({"background": "blue"}, "background: found 'blue', expected one of white, random, both"),
    ({"condition": "first"}, "condition"), ({"augment": [1.0]}, "augment"), ({"augment": [0.0, float("nan")]}, "augment"),
    ({"augment": [0.0, -1.0]}, "augment"), ({"stride": 0}, "stride"), ({"cache_gb": 0.0}, "cache_gb"),
    ({"encode_chunk": 0}, "encode_chunk")])
def test_settings_that_cannot_be(values, said):
    DataSettings(augment=[-3, 0.5]).validate_data()
    with pytest.raises(ConfigError, match=said):
        DataSettings(**values).validate_data()


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache_folder(DataSettings(data=["data/toys"])) == tmp_path / "data" / "cache"
    assert cache_folder(DataSettings(data=["data/toys/*/x[12]"])) == tmp_path / "data" / "cache"
    assert cache_folder(DataSettings(data=["data/toys"], cache_folder="/elsewhere")).as_posix() == "/elsewhere"


def test_a_cache_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache_folder .*file.*cannot be written") as error:
        open_data(DataSettings(data=[str(data)], cache_folder=str(tmp_path / "file" / "cache")), FakeEngine(), Counter())
    assert "\n" not in str(error.value)


def test_training_and_validation_examples(data, tmp_path, no_clip):
    """The door: two sets of examples with one cache."""
    (data / "val.txt").write_text("b\n")
    recipe = DataSettings(data=[str(data)], cache_folder=str(tmp_path / "cache"))
    counter = Counter()
    train, val = open_data(recipe, FakeEngine(), counter)
    assert (len(train), len(val)) == (3, 1) and counter.counts == {"encoding clips": 4}
    for examples in (train, val):
        x0, token, latent, vector = examples.batch(np.random.default_rng(0), [0, 0], 0.1, 0.5)
        assert x0.shape == latent.shape == (8, 4, 8, 8) and token.shape == (8, 1, 32) and vector.shape == (8, 24)
        assert all(array.dtype == np.float32 for array in (x0, token, latent, vector))


def test_a_memo_that_was_cut_off_or_damaged(tmp_path, caplog):
    """A line that was being written is nothing to say; a damaged one is named, and its result is computed again."""
    path, file = tmp_path / "memo.jsonl", tmp_path / "x"
    file.write_text("x")
    for what in "abc":
        Memo(path).of(file, what, lambda: 1)
    path.write_bytes(path.read_bytes()[:-9])
    assert Memo(path).of(file, "c", lambda: 2) == 2 and not caplog.records
    assert [Memo(path).of(file, what, lambda: 3) for what in "abc"] == [1, 1, 2]
    assert not caplog.records
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace(", 1, ", ", 7, "), *lines[1:]]) + "\n")
    assert Memo(path).of(file, "a", lambda: 5) == 5 and "memo.jsonl: 1 damaged lines, the first is line 1" in caplog.text
    path.write_text(json.dumps(json.loads(lines[1])[:2]) + "\n")                    # of an earlier version, without checksums
    assert Memo(path).of(file, "b", lambda: 5) == 1
