"""What a gradient's graph keeps, counted by hand; and what train.py --dry-run says of memory, against full-width blocks."""
import pytest
from mindspore import nn, ops
from support import gradient_memory

from sgm.audit.graph import Type, traced
from sgm.config.model_files import load_spec
from sgm.train.run.plan import block_memory


class Exponentials(nn.Cell):
    """exp(exp(exp(x))) of 64 bytes."""

    def construct(self, x):
        return ops.exp(ops.exp(ops.exp(x)))


def test_by_hand():
    """The gradient of each takes its result: three are kept. Then there are at most those, and one product."""
    arguments = [Type("float32", (4, 4))] * 2
    found = gradient_memory.of_gradient(traced(lambda: gradient_memory._Gradient(Exponentials()), arguments), 2)
    assert found == (3 * 64, 4 * 64)


@pytest.mark.parametrize("dtype, precision", [
    ("float32", "fp32"), pytest.param("float16", "fp16", marks=pytest.mark.slow), ("bfloat16", "bf16")])
@pytest.mark.parametrize("number, level", [(8, 2), pytest.param(5, 1, marks=pytest.mark.slow),
                                           pytest.param(2, 0, marks=pytest.mark.slow)])
def test_the_plan_says_what_a_block_keeps(number, level, dtype, precision):
    """SV3D's input blocks at full width, 21 frames of 576 x 576, as an NPU would have them."""
    spec, key, wide = load_spec("sv3d_p"), f"input_blocks.{number}", 4 if precision == "fp32" else 2
    kept, working, passed = block_memory(spec.unet, 72, 72, 21, precision)[f"{key}.0"]
    assert passed == 21 * (72 >> level) ** 2 * 320 * 2 ** level
    make, arguments = gradient_memory.gradient_of_block(spec, key, dtype)
    found = gradient_memory.of_gradient(traced(make, arguments), len(arguments))
    assert wide * kept == pytest.approx(found.kept, rel=0.12)
    assert wide * (kept + working) == pytest.approx(found.peak, rel=0.2)
