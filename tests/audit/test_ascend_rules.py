"""`sgm.audit.ascend_rules` and `cost`: what must be found is found, what is right passes, figures worked by hand."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore import ops as ms_ops
from mindspore.ops import operations as P
from mindspore.ops.operations.nn_ops import FlashAttentionScore
from support.auditing import graph_of

from sgm import ops
from sgm.audit import ascend_rules
from sgm.audit.cost import cost
from sgm.audit.graph import Graph, Node, Type


def conv(width, height=8):
    """A convolution of a map of that size."""
    weight = Tensor(np.zeros((4, 4, 3, 3), np.float32))

    def function(x):
        return P.Conv2D(4, 3, pad_mode="pad", pad=1)(x, weight)
    return function, ("float32", 1, 4, height, width)


def flash(size, scale=0.25):
    """Flash attention of 2 heads of `size`."""
    def function(q, k, v):
        return FlashAttentionScore(2, scale_value=scale, input_layout="BNSD")(q, k, v)[3]
    return function, *[("float16", 1, 2, 256, size)] * 3


def differentiated(function, *arguments):
    """The gradient of a function's sum."""
    def summed(*given):
        return function(*given).astype(ms.float32).sum()
    return ms.grad(summed, (0, 1, 2)), *arguments


def double(x):
    return x + x


def huge(x):
    return x.broadcast_to((2 ** 11, 2 ** 20)) + 1


def conv3d(x):
    return P.Conv3D(4, 3, pad_mode="pad", pad=1)(x, ms_ops.ones((4, 4, 3, 3, 3), ms.float32))


def norm(x):
    return P.LayerNorm(1, 2)(x, x[0, 0], x[0, 0])[0]


# What is wrong: the kind of the finding, words of its text, a function and its arguments.
WRONG = {
    "a primitive that Ascend lacks": ("unsupported primitives", "BesselJ0(", P.BesselJ0(), ("float32", 4)),
    "one that is not in the table": ("unsupported primitives", "Conv3D(", conv3d, ("float32", 1, 4, 8, 8, 8)),
    "float64": ("dtypes", "float64; int32, int64, float16", double, ("float64", 4)),
    "bfloat16 where a 910B has none": ("dtypes", "bfloat16; float16, float32", ms_ops.erfc, ("bfloat16", 4)),
    "a shape that depends on the data": ("dynamic shapes", "int64[-", P.NonZero(), ("float32", 4)),
    "a convolution too wide": ("shape rules", "input width 4097; at most 4096", *conv(4097)),
    "a convolution too high": ("shape rules", "input height 100001; at most 100000", *conv(2, 100001)),
    "the gradient of a high convolution": ("shape rules", "side of a map 4098; at most 4096", ms.grad(conv(2)[0]),
                                           ("float32", 1, 4, 4098, 2)),
    "heads of a wrong size": ("shape rules", "head size 24; a multiple of 16", *flash(24)),
    "attention without its scale": ("shape rules", "scale 1.0; expected 0.25", *flash(16, scale=1.0)),
    "its gradient": ("shape rules", "Grad_FlashAttentionScore: scale 1.0; expected 0.25",
                     *differentiated(*flash(16, scale=1.0))),
    "nine dimensions": ("shape rules", "9 dimensions; at most 8", double, ("float32", *[1] * 9)),
    "2^31 elements": ("shape rules", "2147483648 elements", huge, ("float16", 2 ** 11, 1)),
    "norms of other axes than their gains": ("shape rules", "begin_params_axis differ", norm, ("float32", 2, 3, 4)),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_audit_can_fail(what):
    kind, text, function, *arguments = WRONG[what]
    found = ascend_rules.examine(graph_of(function, *arguments))
    assert any(text in line for line in found.violations[kind]), found.violations
    assert not found.empty


def test_what_is_right_passes():
    """The counterparts of what fails."""
    for function, *arguments in (conv(4096), conv(2, 100000), flash(16), differentiated(*flash(16)),
                                 (double, ("float32", 4))):
        found = ascend_rules.examine(graph_of(function, *arguments))
        assert found.empty, found.violations


def test_flash_attention_is_of_one_half_precision():
    """All but its statistics: the table allows them float32, which nothing else may be."""
    half, single, most = Type("float16", (1, 2, 256, 16)), Type("float32", (1, 2, 256, 16)), Type("float32", (1, 2, 256, 8))
    options = [2, 1.0, 0.25, 65536, 65536, 0, ascend_rules.FLASH_BNSD, 0]

    def found(op, inputs, outputs):
        return ascend_rules.examine(Graph([Node(op, "", [*inputs, *options], outputs, {})])).violations["shape rules"]

    def forward(q, k, v):
        return found("FlashAttentionScore", [q, k, v, *[None] * 7], [most, most, q])

    def backward(q, slope, statistic, mask=None):
        return found("FlashAttentionScoreGrad", [q, q, q, slope, *[None] * 3, mask, statistic, statistic, None, q,
                                                 *[None] * 3], [q, q, q])

    assert not forward(half, half, half) and not backward(half, half, most)
    wrong = {"float32; only half": [forward(single, single, single), backward(single, single, most)],
             "of different dtypes": [forward(half, half, single), backward(half, single, most)],
             "statistics that are not float32": [backward(half, half, half)], "a mask": [backward(half, half, most, half)]}
    for text, cases in wrong.items():
        assert all(len(lines) == 1 and text in lines[0] for lines in cases), (text, cases)


def test_exceptions_are_those_of_the_table():
    """A primitive without a page of its own counts as an exception; each row of the table names where it is from."""
    graph = graph_of(ms.grad(ops.silu), ("float32", 4))
    assert ascend_rules.examine(graph).exceptions == {"SiLUGrad": 1}
    for name, row in ascend_rules.operators().items():
        assert row["source"].startswith("https://") and row["dtypes"], name
        assert (row["kernel"] is None) == ascend_rules.documented(name, row["doc"]), name


def test_documented():
    """By the docstring itself, by the function that it refers to, by the public function named."""
    documented = ascend_rules.documented
    assert documented("Conv2D") and documented("Erfc") and documented("SumExt", "mint.sum")
    assert not any(documented(name) for name in ("BesselJ0", "SiLUGrad", "NoSuchThing"))


def test_costs_by_hand():
    """Bytes and operations of two products and a view; weights and results; a convolution and its gradients."""
    a, b, c, d = (Type("float16", shape) for shape in ((6, 4), (5, 4), (6, 5), (30,)))
    graph = Graph([Node("MatMul", "", [a, b, False, True], [c], {}), Node("Reshape", "", [c, (30,)], [d], {}),
                   Node("MakeTuple", "", [c], [], {})], {"x": a}, {"w": b}, [c])
    spent = cost(graph, [0], fetched=True)
    assert (spent.flops, spent.bytes, spent.weights, spent.host) == (2 * 6 * 5 * 4, 2 * (24 + 20 + 30), 40, 48 + 60)
    x, w, y = Type("float32", (2, 3, 8, 8)), Type("float32", (7, 3, 3, 3)), Type("float32", (2, 7, 8, 8))
    for node in (Node("Conv2D", "", [x, w], [y], {}), Node("Conv2DBackpropInput", "", [y, w, ()], [x], {}),
                 Node("Conv2DBackpropFilter", "", [y, x, ()], [w], {})):
        assert cost(Graph([node])).flops == 2 * 2 * 8 * 8 * 7 * 3 * 9
    transposed = Node("MatMul", "", [Type("float32", (4, 6)), Type("float32", (4, 5)), True, False], [c], {})
    assert cost(Graph([transposed])).flops == 2 * 6 * 5 * 4
