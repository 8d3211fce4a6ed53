"""The target and the switch of the compiler."""
import pytest

from sgm import ops
from sgm.ops import device


def test_unknown_target():
    with pytest.raises(ValueError, match="found 'GPU', expected one of CPU, Ascend"):
        ops.set_target("GPU")
    assert ops.target() == "CPU"


def test_compiled_can_be_switched_off(pynative):
    def function(x):
        return x
    assert ops.compiled(function) is function


def test_threads_that_only_look_do_not_work(tmp_path):
    """On a shared core idle threads stand in its queue; they run for microseconds, working ones for milliseconds."""
    def others(**threads):
        for name, (state, ran, begun) in threads.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "stat").write_text(f"{name} (Kernel (0)) {state} 1 2")
            (tmp_path / name / "schedstat").write_text(f"{ran} 7 {begun}")
        return device._others_work(seen[-1], tmp_path)

    seen = [{}]
    for threads, expected in (
            ({"1": ("R", 0, 0), "2": ("S", 0, 0)}, True),                       # not seen before
            ({"1": ("R", 60_000, 12)}, False),                                  # 5 microseconds at a time
            ({"1": ("R", 60_000, 12)}, True),                                   # in the queue since: nobody knows
            ({"1": ("R", 4_060_000, 13)}, True),                                # 4 milliseconds at once
            ({"1": ("S", 4_060_000, 13), "2": ("D", 1, 1)}, True),              # another one
            ({"1": ("S", 4_060_000, 13), "2": ("S", 1, 1)}, False)):
        working, found = others(**threads)
        assert working == expected, threads
        seen.append(found)
