"""What an untrained network starts from."""
import numpy as np
import pytest
from mindspore import Tensor
from support.goldens import PACKAGED
from support.training import POSED

from sgm.config.model_files import load_spec
from sgm.diffusion.engine import Engine
from sgm.models.initialization import initial_weight, initialize


def test_initial_weights():
    """Every parameter has a random stream of its own: its name and the seed decide, not the order."""
    name = "model.diffusion_model.time_embed.0.weight"
    weight = initial_weight(name, (64, 100), 0)
    np.testing.assert_array_equal(weight, initial_weight(name, (64, 100), 0))
    for other in (initial_weight(name, (64, 100), 1), initial_weight(name.replace("0.w", "2.w"), (64, 100), 0)):
        assert abs(np.corrcoef(weight.ravel(), other.ravel())[0, 1]) < 0.05
    assert weight.dtype == np.float32 and np.abs(weight).max() <= 0.1
    assert weight.std() == pytest.approx(0.1 / 3 ** 0.5, rel=0.05)
    convolution = initial_weight("model.diffusion_model.input_blocks.0.0.weight", (8, 4, 3, 3), 0)
    assert 0.9 / 6 < np.abs(convolution).max() <= 1 / 6
    assert (initial_weight("a.norm.weight", (5,), 0) == 1).all() and (initial_weight("a.norm.bias", (5,), 0) == 0).all()
    assert (initial_weight("a.mix_factor", (1,), 0) == 0.5).all()
    assert (initial_weight("a.layer_scale1.lambda1", (5,), 0) == 1).all() and (initial_weight("a.ls1.gamma", (5,), 0) == 1).all()
    assert initial_weight("a.visual.proj", (400, 100), 0).std() == pytest.approx(0.1, rel=0.05)
    assert initial_weight("transformer.pos_embed", (1, 192, 256), 0).std() == pytest.approx(0.5, rel=0.05)


def test_a_network_starts_as_the_identity(relative_error):
    """Residual branches end in zeros, and so does the UNet: its first estimate is what the noise level alone says."""
    engine = Engine(load_spec(PACKAGED / "tiny_sv3d_p.yaml", POSED))
    initialize(engine, 0)
    parameters = engine.model.parameters_dict()
    zero = {name for name, parameter in parameters.items()
            if name.endswith(".weight") and not parameter.asnumpy().any()}
    assert {name for name in parameters if name.endswith(("out_layers.3.weight", "proj_out.weight"))} < zero
    assert "model.diffusion_model.out.2.weight" in zero and len(zero) < 0.2 * len(parameters)
    coders = {**engine.conditioner.parameters_dict(), **engine.first_stage_model.parameters_dict()}
    last = [parameter for name, parameter in coders.items() if name.endswith("conv2.weight")]
    assert len(last) > 8 and not any(parameter.asnumpy().any() for parameter in last)
    rng = np.random.RandomState(0)
    x, concat = (Tensor(rng.randn(3, 4, 8, 8).astype(np.float32)) for _ in range(2))
    prepared = engine.model.prepare(Tensor(rng.randn(3, 1, 32).astype(np.float32)), 3)
    vector, image_only = Tensor(rng.randn(3, 24).astype(np.float32)), Tensor(np.zeros(3, np.float32))
    estimate = engine.model(x, Tensor(np.full(3, 2, np.float32)), prepared, concat, vector, image_only, 3)
    assert relative_error(estimate, x.asnumpy() / 5) < 1e-6
