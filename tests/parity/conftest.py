"""The second check of the networks, independent of the goldens: diffusers and transformers on PyTorch, in this process
for small networks and in one of its own at full width."""
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "parity")]


def pytest_configure(config):
    config.addinivalue_line("markers", "parity: compares with diffusers or transformers on PyTorch")
    config.addinivalue_line("markers", "slow: takes minutes and several GB of memory")


@pytest.fixture(scope="session", autouse=True)
def pytorch():
    """Only where PyTorch is missing is there nothing to compare with."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install -r requirements-dev.txt")


@pytest.fixture
def both(tmp_path):
    """(ours, theirs), {task: output} of a `twins.Case`; both sides in this process."""
    import twins

    def compute(case):
        weights = tmp_path / "weights.safetensors"
        twins.draw_weights(case, weights)
        return tuple({name: task() for name, task in build(case, weights).items()}
                     for build in (twins.ours, twins.theirs))
    return compute
