"""The filter of clips: its SVM against its optimality conditions, its features, what spoils a clip."""
import numpy as np
import pytest

from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.feedforward.clip_filter import (
    CORRUPTIONS,
    auc,
    clip_features,
    corrupted,
    fit_filter,
    frame_change,
    load_filter,
)


def test_the_svm_is_at_its_minimum():
    """Beside the loss written out: no step in any direction is better; both classes weigh the same."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4)) * [1, 5, 0.1, 2] + 3
    good = x[:, 0] + 0.3 * rng.standard_normal(60) > 3.8          # fewer good ones than bad ones
    found = fit_filter(x, good, "net", cost=2.0)
    z, sign = (x - x.mean(0)) / x.std(0), np.where(good, 1, -1)

    def loss(w, b):
        slack = np.maximum(1 - sign * (z @ w + b), 0) ** 2
        return 0.5 / 4 * (w ** 2).sum() + 2.0 * 0.5 * (slack[good].mean() + slack[~good].mean())

    least = loss(found.weight, found.bias)
    for step in rng.standard_normal((200, 5)) * 1e-2:
        assert loss(found.weight + step[:4], found.bias + step[4]) > least - 1e-7
    np.testing.assert_allclose(found.scores(x), z @ found.weight + found.bias)
    assert auc(found.scores(x), good) > 0.95 and abs(found.weight[0]) == np.abs(found.weight).max()
    with pytest.raises(ValueError, match="found 60 good clips of 60, expected some of both"):
        fit_filter(x, np.ones(60), "net")


def test_area_under_the_curve():
    """By hand: of six pairs the good one is higher in four, and one is a tie."""
    assert auc([3, 1, 2], [True, True, False]) == 0.5 and auc([5, 4, 1, 3, 4], [1, 1, 0, 0, 0]) == pytest.approx(5.5 / 6)


def test_features_of_a_clip():
    tokens = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    found = clip_features(tokens).reshape(4, 6)
    np.testing.assert_allclose(found[0, :3], tokens[:, 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found[1, 3:], tokens[:, 1:].mean(1).std(0), rtol=1e-5)
    steps = np.abs(np.diff(tokens[[0, 1, 2, 3, 4, 0], 0], axis=0))          # a turn is closed
    np.testing.assert_allclose(found[2:, :3], [steps.mean(0), steps.max(0)], rtol=1e-5)
    still = clip_features(np.repeat(tokens[:1], 5, 0)).reshape(4, 6)
    assert (still[1:] == 0).all()


def test_what_spoils_a_clip():
    frames = np.full((6, 4, 4, 3), 255, np.uint8)
    frames[:, 1:3, 1:3] = np.arange(6).reshape(6, 1, 1, 1) * 20 + 40
    made = {kind: corrupted(kind, frames, frames[::-1], np.random.default_rng(1)) for kind in CORRUPTIONS}
    assert sorted(made["shuffled"][:, 1, 1, 0]) == frames[:, 1, 1, 0].tolist() and (made["shuffled"] != frames).any()
    assert (made["swapped"][:3] == frames[:3]).all() and (made["swapped"][3:] == frames[::-1][3:]).all()
    assert (made["static"] == frames[:1]).all() and frame_change(made["static"]) == 0 < frame_change(frames)
    drift = made["drifting"][:, 1, 1, 0] / frames[:, 1, 1, 0]
    assert drift[0] == 1 and abs(abs(drift[-1] - 1) - 0.6) < 0.02 and (made["drifting"].dtype == np.uint8)


def test_a_filter_from_its_file(tmp_path):
    x = np.random.default_rng(0).standard_normal((20, 3))
    found = fit_filter(x, x[:, 0] > 0, "lrm_small")
    found.save(tmp_path / "filter.safetensors")
    again = load_filter(tmp_path / "filter.safetensors")
    np.testing.assert_allclose(again.scores(x), found.scores(x), rtol=1e-4, atol=1e-5)
    assert again.name == "lrm_small"
    save_safetensors(tmp_path / "other.safetensors", {"mean": np.zeros(3, np.float32)}, {})
    with pytest.raises(CheckpointError, match="found no deviation, expected a filter of"):
        load_filter(tmp_path / "other.safetensors")
