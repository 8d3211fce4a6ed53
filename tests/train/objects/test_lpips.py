"""LPIPS beside its definition in float64, on random weights of its real shapes."""
import numpy as np
import pytest
from mindspore import Tensor

from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.train.objects.lpips import load_lpips

# Written down once more: torchvision's `features` of vgg16, M halves; LPIPS takes the ReLUs before each M and the last one.
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


@pytest.fixture(scope="module")
def weights():
    rng, vgg, own, width, number = np.random.default_rng(0), {}, {}, 3, 0
    for out in VGG16:
        if out != "M":
            vgg[f"features.{number}.weight"] = (rng.standard_normal((out, width, 3, 3)) * (2 / width / 9) ** 0.5).astype(np.float32)
            vgg[f"features.{number}.bias"] = (0.1 * rng.standard_normal(out)).astype(np.float32)
            width, number = out, number + 1
        else:
            own[f"lin{len(own)}.model.1.weight"] = rng.random((1, width, 1, 1), np.float32)
        number += 1
    vgg["classifier.0.weight"] = np.zeros((2, 2), np.float32)
    return vgg, own


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    found = [tmp_path_factory.mktemp("lpips") / f"{name}.safetensors" for name in ("vgg16", "own")]
    for file, arrays in zip(found, weights):
        save_safetensors(file, arrays, {})
    return found


def features(images, vgg):
    """The features that are compared, of pictures (N, 3, H, W) in [0, 1], float64."""
    x, number, found = (2 * images - 1 - np.reshape([-.030, -.088, -.188], (1, 3, 1, 1))), 0, []
    x = x / np.reshape([.458, .448, .450], (1, 3, 1, 1))
    for out in VGG16:
        if out == "M":
            found.append(x)
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5)) if h > 1 else x
        else:
            padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
            weight, bias = (np.float64(vgg[f"features.{number}.{leaf}"]) for leaf in ("weight", "bias"))
            x = np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias.reshape(1, -1, 1, 1), 0)
            number += 1
        number += 1
    return found


def test_lpips_is_its_definition(weights, files):
    vgg, own = weights
    a, b = np.random.default_rng(1).random((2, 2, 3, 16, 16))
    expected = 0.0
    for place, (one, other) in enumerate(zip(features(a, vgg), features(b, vgg))):
        one, other = (x / (np.sqrt((x ** 2).sum(1, keepdims=True)) + 1e-10) for x in (one, other))
        expected += ((one - other) ** 2 * own[f"lin{place}.model.1.weight"]).sum(1).mean()
    loss = load_lpips(files)
    found = float(loss(*(Tensor(x.astype(np.float32)) for x in (a, b))).asnumpy())
    assert found == pytest.approx(expected, rel=1e-4) and not loss.trainable_params()
    assert float(loss(Tensor(np.float32(a)), Tensor(np.float32(a))).asnumpy()) == 0


def test_files_that_are_none(files, tmp_path):
    with pytest.raises(CheckpointError, match="found no lin0.model.1.weight of 64 values, expected the weights of LPIPS 0.1"):
        load_lpips([files[0], files[0]])
