"""Compiled graphs that are kept: each process gets its own graph, also where MindSpore alone would give it another one."""
import json
import subprocess
import sys

import pytest
from support.paths import ROOT

# Graphs "a", "b" ... in the order given; "a" and "b" differ in their constant, "A" is "a" of another shape. Printed: the
# results, each of which is 3 * 4 + constant, how many graphs were taken from files, and that compiling took time.
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import logging, json
import numpy as np
import mindspore as ms
from mindspore import Parameter, Tensor, nn
from sgm import ops
from sgm.ops import compilation

class Net(nn.Cell):
    def __init__(self, size, weight):
        super().__init__()
        self.weight = Parameter(Tensor(np.full(size, weight, np.float32)), name="weight")

class Five(Net):
    def construct(self, x):
        return x * self.weight + 5

class Seven(Net):
    def construct(self, x):
        return x * self.weight + 7

ops.set_device("CPU")
folder, identity, order, weight = sys.argv[1:]
found = []
with compilation.kept_graphs(folder, identity):
    for name in order:
        size = 9 if name.isupper() else 4
        net = {{"a": Five, "b": Seven}}[name.lower()](size, float(weight))
        result = ops.compiled(net.construct)(Tensor(np.full(size, 3, np.float32))).asnumpy()
        assert result.shape == (size,) and (result == result[0]).all()
        found.append(float(result[0]))
kept = compilation._State.kept
print(json.dumps([found, kept.taken, compilation.compile_seconds() > 0]))
"""


@pytest.fixture
def process(tmp_path):
    """process(order, weight=4, identity="one") -> what a process says that compiles in that order."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))

    def run(order, weight=4, identity="one"):
        done = subprocess.run([sys.executable, script, tmp_path / "kept", identity, order, str(weight)], capture_output=True,
                              text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
    return run


@pytest.mark.slow
def test_graphs_are_taken_only_where_they_are_the_same(process, tmp_path):
    assert process("ab") == [[17, 19], 0, True]
    assert process("ab", weight=2) == [[11, 13], 2, True]           # with the weights of now
    assert process("ba") == [[19, 17], 0, True]                     # MindSpore alone: 17, 19
    assert process("aA") == [[17, 17], 1, True]                     # MindSpore alone: of the shape of "b"
    assert process("abA") == [[17, 19, 17], 2, True] and process("abA") == [[17, 19, 17], 3, True]
    assert process("ab", identity="other") == [[17, 19], 0, True]
    # a process that was killed has written a graph, but not the list
    lists = sorted((tmp_path / "kept").glob("*/graphs.json"), key=lambda path: path.stat().st_size)
    assert [len(json.loads(path.read_text())) for path in lists] == [2, 3]
    lists[1].write_text(json.dumps(json.loads(lists[1].read_text())[:1]))
    assert process("aA") == [[17, 17], 1, True] and process("aA") == [[17, 17], 2, True]
