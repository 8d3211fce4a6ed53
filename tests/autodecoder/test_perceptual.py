"""Losses on pyramids against numpy in float64."""
import numpy as np
import pytest
from mindspore import Tensor
from scipy.ndimage import correlate

from sgm.autodecoder import perceptual
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError


def images(count, channels, side):
    return np.random.default_rng(side).random((2, count, channels, side, side), np.float32)


def halved(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


@pytest.mark.parametrize("side, kind, levels", [(64, "gradients", 4), (16, "gradients", 3), (12, "gradients", 2),
                                                (256, "vgg", 4), (32, "vgg", 2), (24, "vgg", 1)])
def test_number_of_levels(side, kind, levels):
    assert perceptual.levels_of(side, kind) == levels


def test_multi_scale_gradients(agree):
    made, true = images(3, 3, 16)
    wanted, d = 0.0, made.astype(float) - true
    for level in range(3):
        d = halved(d) if level else d
        wanted += 10 * (np.abs(d).mean() + np.abs(np.diff(d, axis=3)).mean() + np.abs(np.diff(d, axis=2)).mean())
    agree("multi-scale gradients", perceptual.MultiScaleGradients(16)(Tensor(made), Tensor(true)), np.float64(wanted), 1e-5)


@pytest.fixture
def narrow(monkeypatch, tmp_path):
    """VGG with a sixteenth of its channels: (its file, {key: array})."""
    monkeypatch.setattr(perceptual, "CONVOLUTIONS", {k: out // 16 for k, out in perceptual.CONVOLUTIONS.items()})
    rng, weights, width = np.random.default_rng(0), {}, 3
    for number, out in perceptual.CONVOLUTIONS.items():
        weights[f"features.{number}.weight"] = rng.normal(0, (2 / 9 / width) ** 0.5, (out, width, 3, 3)).astype(np.float32)
        weights[f"features.{number}.bias"] = rng.normal(0, 0.1, out).astype(np.float32)
        width = out
    weights["classifier.0.bias"] = np.zeros(3, np.float32)      # torchvision's file has it
    save_safetensors(tmp_path / "vgg.safetensors", weights, {})
    return tmp_path / "vgg.safetensors", weights


def features(x, weights):
    """torchvision's vgg19 up to relu5_1: the five that are compared."""
    x = (x - np.array(perceptual.MEAN).reshape(1, 3, 1, 1)) / np.array(perceptual.STD).reshape(1, 3, 1, 1)
    layers, place, found = "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512".split(), 0, []
    for before, layer in zip(["", *layers], layers):
        if layer == "M":
            n, c, h, w = x.shape
            x, place = x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5)), place + 1
            continue
        weight = weights[f"features.{place}.weight"].astype(float)
        x = np.stack([[sum(correlate(channel, kernel, mode="constant") for channel, kernel in zip(image, kernels))
                       for kernels in weight] for image in x])
        x = np.maximum(x + weights[f"features.{place}.bias"].reshape(1, -1, 1, 1), 0)
        if before in ("", "M"):
            found.append(x)
        place += 2              # a convolution and its ReLU
    return found


def test_vgg_pyramid(narrow, agree):
    path, weights = narrow
    made, true = images(1, 3, 32)
    a, b, wanted = made.astype(float), true.astype(float), 0.0
    for level in range(2):
        if level:
            a, b = halved(a), halved(b)
        wanted += 10 * sum(np.abs(p - q).mean() for p, q in zip(features(a, weights), features(b, weights)))
    loss = perceptual.perceptual_loss(32, str(path))
    assert not loss.trainable_params()
    agree("VGG pyramid", loss(Tensor(made), Tensor(true)), np.float64(wanted), 1e-5)


def test_file_without_vgg_is_refused(narrow, tmp_path):
    _, weights = narrow
    del weights["features.28.weight"]
    save_safetensors(tmp_path / "other.safetensors", weights, {})
    with pytest.raises(CheckpointError, match="found no features.28.weight of shape .*, expected the weights of torchvision's"):
        perceptual.load_vgg(tmp_path / "other.safetensors", 32)
