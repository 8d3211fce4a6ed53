"""The UNet in half precision against the original in float32: outputs, sampled latents, pictures of the embedded model."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from support.badfiles import object_on_white
from support.goldens import unet_of

from sgm import ops
from sgm.diffusion.denoiser import PublishedUNet
from sgm.diffusion.engine import Engine
from sgm.diffusion.pipeline import generate, load_model
from sgm.ops.tokens import held

FRAMES, LIMIT = 5, 1e-2
# what it computes in, and what its weights are kept in
HALVES = pytest.mark.parametrize("dtype, kept", [(ms.float16, None), (ms.float32, ms.float16)], ids=["fp16", "fp16-weights"])


def inputs(golden):
    return [Tensor(golden[f"in/{name}"]) for name in ("x", "timesteps", "context", "y")]


def half_engine(filled, spec, dtype, kept):
    engine = filled(Engine(spec, None, dtype, kept))
    engine._load("model")
    assert {parameter.dtype for parameter in engine.model.get_parameters()} == {ms.float16}
    return engine


@HALVES
@pytest.mark.parametrize("name", [
    pytest.param("sv3d_p", marks=pytest.mark.slow), pytest.param("sv3d_u", marks=pytest.mark.slow), "svd"])
def test_outputs(name, dtype, kept, golden, tiny_spec, filled, relative_error):
    g, engine = golden(f"unet_{name}"), half_engine(filled, tiny_spec(name), dtype, kept)
    x, timesteps, context, y = inputs(g)
    for which in ("", "_mixed"):
        still = Tensor(g[f"in/image_only_indicator{which}"])
        result = engine.model.diffusion_model(x, timesteps, context, y, FRAMES, still)
        assert result.dtype == ms.float32 and 1e-5 < relative_error(result, g[f"out/y{which}"]) < LIMIT


@pytest.mark.slow
@HALVES
@pytest.mark.parametrize("name", ["sv3d_p", "sv3d_u", "svd"])
def test_width_64(name, dtype, kept, golden, filled, relative_error):
    name = f"unet64_{name}_noweights"
    g = golden(name)
    unet = filled(PublishedUNet(*unet_of(name)), "unet64.")
    for parameter in unet.get_parameters():
        parameter.set_dtype(ms.float16)
    unet.dtype = dtype
    assert 1e-5 < relative_error(unet(*inputs(g), FRAMES), g["out/y"]) < LIMIT


@pytest.mark.slow
@HALVES
def test_sampled_latents(dtype, kept, golden, tiny_spec, filled, relative_error, pynative):
    """Ten guided steps from the same noise."""
    g, engine = golden("sample_sv3d_p"), half_engine(filled, tiny_spec("sv3d_p"), dtype, kept)
    sides = [{key: g[f"in/{side}/{key}"] for key in ("crossattn", "concat", "vector")} for side in ("c", "uc")]
    assert 1e-5 < relative_error(engine.sample(g["in/randn"], *sides), g["out/z"]) < LIMIT


def psnr(one, other):
    return 10 * np.log10(255 ** 2 / max(np.mean((one.astype(float) - other) ** 2), 1e-9))


@pytest.mark.slow
def test_pictures_of_the_embedded_model():
    """All 21 views of one picture: more than 35 dB from those of float32; the embedded weights are of float16 anyway."""
    picture = Image.fromarray(np.asarray(object_on_white()))
    exact, *halves = (generate(load_model(dtype=dtype), picture, seed=3).frames[:-1]
                      for dtype in ("fp32", "fp16", "fp16-weights"))
    assert 35 < psnr(halves[0], exact) < 80 and psnr(halves[1], exact) > 80


def test_weights_are_widened_by_their_layer():
    """Within 2^-11 of each weight, as float16 rounds; products are those of float32."""
    random = np.random.RandomState(0)
    x, weight, bias = (random.standard_normal(shape).astype(np.float32) for shape in ((6, 40), (8, 40), (8,)))
    rounded = weight.astype(np.float16), bias.astype(np.float16)
    wanted = x @ rounded[0].astype(np.float32).T + rounded[1]
    found = ops.linear(Tensor(x), *map(Tensor, rounded))
    assert found.dtype == ms.float32
    np.testing.assert_allclose(found.asnumpy(), wanted, rtol=0, atol=2e-6)
    same = Tensor(weight)
    assert held(same, Tensor(x)) is same        # what needs no widening is not copied
