"""What the tests of the operators share: comparison with numpy, and every operator form in turn."""
import numpy as np
import pytest
from mindspore import Tensor
from support.gradients import draw, numeric_gradients, ours_gradients

from sgm import ops


@pytest.fixture
def same(relative_error):
    """same(ours, exact, arrays): values within 2e-6 of numpy's, gradients with respect to `arrays` within 2e-5."""
    def check(ours, exact, arrays, gradients=True):
        wanted = exact(*(array.astype(np.float64) for array in arrays))
        assert relative_error(ours(*map(Tensor, arrays)), wanted) < 2e-6
        if gradients:
            cotangent = draw(99, *wanted.shape)
            pairs = zip(ours_gradients(ours, arrays, cotangent), numeric_gradients(exact, arrays, cotangent))
            for mine, theirs in pairs:
                assert relative_error(mine, theirs) < 2e-5
    return check


@pytest.fixture
def target(request):
    """Every operator form in turn; the Ascend ones run on a CPU as well, where it has the kernels."""
    ops.set_target(request.param)
    yield request.param
    ops.set_target("CPU")
