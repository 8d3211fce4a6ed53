"""Tells good generated clips from bad ones: a linear SVM on the features of their frames.

VFusion3D (Han et al. 2024, arXiv 2403.12034) filters what its video model made by a linear SVM on
DINO's features of the frames. Here they are the tokens of a network's own encoder (DINOv2's where
the network is a published one), and the SVM is that of LIBLINEAR with a squared hinge (Fan et al.
2008), whose primal problem is solved directly.
"""
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError

CORRUPTIONS = ("shuffled", "swapped", "static", "drifting")
COST = 1.0              # of a clip on the wrong side; features are standardized
DRIFT = 0.6             # by how much brightness has risen or fallen at the end of a drifting clip


class ClipFilter(NamedTuple):
    """A trained filter: good clips have scores above 0. name: of the network whose tokens it reads.
    """
    mean: np.ndarray                # (F,) of the features of the training
    deviation: np.ndarray           # (F,)
    weight: np.ndarray              # (F,)
    bias: float
    name: str

    def scores(self, features):
        """Return the scores (N,) of clips' features (N, F)."""
        return (features - self.mean) / self.deviation @ self.weight + self.bias

    def save(self, path):
        """Write it as a safetensors file."""
        arrays = {key: np.float32(getattr(self, key)) for key in ("mean", "deviation", "weight")}
        save_safetensors(path, {**arrays, "bias": np.float32([self.bias])},
                         {"network": self.name})


def load_filter(path):
    """Return the ClipFilter of a file. Raises CheckpointError."""
    store = open_checkpoint(path)
    keys = ("mean", "deviation", "weight", "bias")
    missing = [key for key in keys if key not in store]
    if missing or len({tuple(store.shape(key)) for key in keys[:3]}) > 1:
        raise CheckpointError(f"{path}: found no {missing[0] if missing else 'equal shapes'},"
                              " expected a filter of tools/synthesize.py learn")
    mean, deviation, weight, bias = (np.array(store.read(key), np.float64) for key in keys)
    return ClipFilter(mean, deviation, weight, float(bias[0]), store.metadata.get("network", ""))


def clip_features(tokens):
    """Return the features (4 * 2 C,) of a clip, of its frames' tokens (T, 1 + N, C), a full turn.

    Of each frame class token and mean of the others; of these the mean and deviation over frames,
    the mean and the largest of the changes from a frame to the next.
    """
    frames = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1).astype(np.float64)
    change = np.abs(np.roll(frames, -1, 0) - frames)
    return np.concatenate([frames.mean(0), frames.std(0), change.mean(0), change.max(0)])


def fit_filter(features, good, name, cost=COST):
    """Return the ClipFilter of clips' features (N, F) and which of them are good (N,) bool.

    Both classes weigh the same. Raises ValueError if there is only one.
    """
    good = np.asarray(good, bool)
    if good.all() or not good.any():
        raise ValueError(f"found {good.sum()} good clips of {len(good)}, expected some of both")
    mean, deviation = features.mean(0), np.maximum(features.std(0), 1e-6)
    x = (features - mean) / deviation
    sign = np.where(good, 1.0, -1.0)
    weight = cost * np.where(good, 0.5 / good.mean(), 0.5 / (1 - good.mean())) / len(good)

    def loss(parameters):
        """Return the loss and its gradient; the bias is not shrunk."""
        w, b = parameters[:-1], parameters[-1]
        slack = np.maximum(1 - sign * (x @ w + b), 0)
        pull = -2 * weight * slack * sign
        shrink = 0.5 / x.shape[1]
        value = shrink * (w @ w) + (weight * slack ** 2).sum()
        return value, np.append(2 * shrink * w + x.T @ pull, pull.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return ClipFilter(mean, deviation, found[:-1], float(found[-1]), name)


def auc(scores, good):
    """Return the area under the ROC curve: how often a good clip has the higher score than a bad.
    """
    good = np.asarray(good, bool)
    above = np.asarray(scores)[good][:, None] - np.asarray(scores)[~good][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def corrupted(kind, frames, other, rng):
    """Return a clip that is spoilt on purpose, of one on white, frames (T, H, W, 3) uint8.

    shuffled: in another order; swapped: another object, `other`, from the middle on; static: the
    first frame throughout; drifting: brightness rises or falls to the end.
    """
    count = len(frames)
    if kind == "shuffled":
        return frames[rng.permutation(count)]
    if kind == "swapped":
        return np.concatenate([frames[:count // 2], other[count // 2:]])
    if kind == "static":
        return np.repeat(frames[:1], count, 0)
    factor = 1 + rng.choice([-DRIFT, DRIFT]) * np.linspace(0, 1, count).reshape(-1, 1, 1, 1)
    made = frames.copy()
    made[..., :3] = np.clip(frames[..., :3] * factor, 0, 255)
    return made


def frame_change(frames):
    """Return the mean change from a frame to the next, of (T, H, W, 3) on white: a baseline."""
    values = np.float32(frames) / 255
    return float(np.abs(np.roll(values, -1, 0) - values).mean())
