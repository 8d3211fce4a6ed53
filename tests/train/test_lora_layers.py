"""Adapted layers against numpy: the frozen product plus alpha / rank times the trained one."""
import numpy as np
from mindspore import Tensor
from scipy.special import ndtr

from sgm.models.attention import GegluProjection
from sgm.models.blocks import Linear
from sgm.train.lora_layers import AdaptedGeglu, AdaptedLinear

RANK, ALPHA = 2, 6


def filled(cell):
    rng = np.random.default_rng(0)
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(rng.standard_normal(parameter.shape).astype(np.float32)))
    return cell


def by_hand(layer, x):
    weight, bias, down, up = (p.asnumpy() for p in (layer.weight, layer.bias, layer.lora_A.weight, layer.lora_B.weight))
    return x @ weight.T + bias + ALPHA / RANK * (x @ down.T) @ up.T


def test_an_adapted_layer(pynative):
    layer = filled(AdaptedLinear(Linear(5, 3), RANK, ALPHA))
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), by_hand(layer, x), rtol=1e-5, atol=1e-5)


def test_an_adapted_gated_layer(pynative):
    projection = GegluProjection(5, 3)
    frozen = projection.proj.weight
    layer = filled(AdaptedGeglu(projection, RANK, ALPHA))
    assert layer.proj.weight is frozen
    x = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    both = by_hand(layer.proj, x)
    expected = both[:, :3] * both[:, 3:] * ndtr(both[:, 3:])            # value * gate * Phi(gate)
    np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-5)
