"""The second check of the networks, independent of the goldens: diffusers and transformers on PyTorch, in this process
for small networks and in one of its own at full width."""
import pytest


@pytest.fixture(scope="session", autouse=True)
def pytorch():
    """Only where PyTorch is missing is there nothing to compare with."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install -r requirements-dev.txt")


@pytest.fixture
def both(tmp_path):
    """both(case) -> the outputs of ours and theirs of a `twins.Case`, {task: array} each, in this process."""
    import twins

    def compute(case):
        weights = tmp_path / "weights.safetensors"
        twins.draw_weights(case, weights)
        return tuple({name: task() for name, task in build(case, weights).items()}
                     for build in (twins.ours, twins.theirs))
    return compute
