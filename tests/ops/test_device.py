"""The target and the switch of the compiler."""
import pytest

from sgm import ops


def test_unknown_target():
    with pytest.raises(ValueError, match="found 'GPU', expected one of CPU, Ascend"):
        ops.set_target("GPU")
    assert ops.target() == "CPU"


def test_compiled_can_be_switched_off(pynative):
    def function(x):
        return x
    assert ops.compiled(function) is function
