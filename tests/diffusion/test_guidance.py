"""Guidance scales of the frames, and what they are applied to, against the reference's numbers."""
import numpy as np
import pytest
from mindspore import Tensor
from support.goldens import TIGHT

from sgm.diffusion.guidance import guide, scales


@pytest.mark.parametrize("frames", [5, 14, 21, 25])
@pytest.mark.parametrize("name, kind, low, high", [
    ("linear_2.5", "linear", 1, 2.5), ("linear_1.5_3.0", "linear", 1.5, 3), ("triangle_2.5", "triangle", 1, 2.5)])
def test_guidance_scales(name, kind, low, high, frames, math):
    ours = scales(kind, low, high, frames)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, math[f"out/{name}_{frames}"][0], **TIGHT)


def test_trapezoid_and_constant_by_hand():
    ramp = [1, 1.5, 2]
    np.testing.assert_allclose(scales("trapezoid", 1, 2, 30), ramp + [2] * 24 + ramp[::-1])
    np.testing.assert_allclose(scales("trapezoid", 1, 2, 9), [2] * 9)      # too short for an edge
    np.testing.assert_allclose(scales("constant", 1, 4, 3), [4, 4, 4])
    with pytest.raises(ValueError, match="guidance: found 'square', expected one of linear, triangle"):
        scales("square", 1, 2, 5)


@pytest.mark.parametrize("name, kind, low, high", [
    ("linear", "linear", 1, 2.5), ("triangle", "triangle", 1, 2.5), ("vanilla_4", "constant", 1, 4)])
def test_guided(name, kind, low, high, math, agree):
    """The batch holds the unconditional frames first."""
    both = Tensor(math["in/guider_x"])
    scale = Tensor(scales(kind, low, high, 21).reshape(-1, 1, 1, 1))
    agree(f"diffusion_math guided_{name}", guide(both[:21], both[21:], scale), math[f"out/guided_{name}"], 1e-6)
