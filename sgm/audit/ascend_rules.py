"""Checks a traced graph against Ascend's documented limits: primitives, dtypes, shapes.

Sources: MindSpore's docstrings (read from what is installed), `operators.yaml`, and for the shapes
the pages named at each rule. It is evidence, not proof: only a device can show that a graph runs.
"""
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

import yaml

from sgm.audit.graph import VIEWS

KINDS = ("unsupported primitives", "dtypes", "dynamic shapes", "shape rules")

# Tensors of any operator: CANN's documents say "shape 1-8 dimensions" throughout; an index has 32
# bits.
MAX_RANK, MAX_ELEMENTS = 8, 2 ** 31 - 1
# 2-D convolution (CANN 8.1, opp/.../impl/conv2d.py and nn_calculation_ops.h): "W exceeding 4096 may
# cause compilation errors", H up to 100000; its gradients: H and W of both maps up to 4096; kernel
# 255, stride 63, padding 255.
CONV_WIDTH, CONV_HEIGHT, CONV_GRAD_SIDE = 4096, 100000, 4096
CONV_KERNEL, CONV_STRIDE, CONV_PAD = 255, 63, 255
# Flash attention: the docstring of mindspore.ops.flash_attention_score; its gradient
# (aclnnFlashAttentionScoreGrad.md) allows more.
FLASH_BATCH, FLASH_HEADS, FLASH_TOKENS = 2048, 256, 512 * 1024
FLASH_HEAD_SIZE, FLASH_HEAD_UNIT = 512, 16
FLASH_BNSD = 1          # MindSpore's number of the layout (batch, heads, tokens, head size)


@dataclass
class Findings:
    """What `examine` found.

    violations: {kind: texts}, one for each different node; exceptions: {primitive: times}, those
    that operators.yaml allows by naming a `kernel` of CANN.
    """
    violations: dict = field(default_factory=lambda: {kind: [] for kind in KINDS})
    exceptions: Counter = field(default_factory=Counter)

    def add(self, kind, text):
        """Add a violation, unless it is known."""
        if text not in self.violations[kind]:
            self.violations[kind].append(text)

    @property
    def empty(self):
        """True without any violation."""
        return not any(self.violations.values())


def examine(graph):
    """Return the `Findings` of a graph."""
    found = Findings()
    for node in graph.computing:
        known = operators().get(node.op)
        if known is None or not (known["kernel"] or documented(node.op, known["doc"])):
            why = "not in operators.yaml" if known is None else "no docstring names Ascend"
            found.add("unsupported primitives", f"{node}: {why}")
        elif known["kernel"]:
            found.exceptions[node.op] += 1
        for tensor in node.tensors + node.outputs:
            if known is not None and tensor.dtype not in known["dtypes"]:
                found.add("dtypes", f"{node}: {tensor.dtype}; {', '.join(known['dtypes'])} are"
                                    " documented")
            if not tensor.static:
                found.add("dynamic shapes", f"{node}: {tensor}")
        if all(tensor.static for tensor in node.tensors + node.outputs):
            for text in (*_size(node), *SHAPES.get(node.op, lambda node: ())(node)):
                found.add("shape rules", f"{node}: {text}")
    return found


@cache
def operators():
    """Return {primitive: {dtypes, source (a URL), doc, kernel}} of `operators.yaml`."""
    path = Path(__file__).parent / "operators.yaml"
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = {}
    for name, row in table["operators"].items():
        source, _, page = row["source"].partition(" ")
        found[name] = {"dtypes": tuple(row["dtypes"]), "source": table["sources"][source] + page,
                       "doc": row.get("doc"), "kernel": row.get("kernel")}
    return found


@cache
def documented(primitive, public=None):
    """Return whether MindSpore's docstring of a primitive names Ascend as a platform.

    So may the docstring of the function that it refers to. `public`: that function, as "mint.sum",
    where the primitive does not name it.
    """
    if public is not None:
        return _names_ascend(_find("mindspore." + public))
    for module in ("mindspore.ops", "mindspore.ops.operations",
                   "mindspore.ops.auto_generate.gen_ops_prim"):
        found = _find(f"{module}.{primitive}")
        refers = re.search(r"Refer to :func:`([\w.]+)`", getattr(found, "__doc__", None) or "")
        if _names_ascend(found) or (refers and _names_ascend(_find(refers[1]))):
            return True
    return False


def _find(name):
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute, None)
    except ImportError:
        return None


def _names_ascend(thing):
    docstring = getattr(thing, "__doc__", None) or ""
    platforms = re.search(r"Supported Platforms:\s*\n\s*(.+)", docstring)
    return bool(platforms) and "Ascend" in platforms[1]


def _size(node):
    for tensor in node.tensors + node.outputs:
        if len(tensor.shape) > MAX_RANK:
            yield f"{len(tensor.shape)} dimensions; at most {MAX_RANK}"
        if tensor.size > MAX_ELEMENTS and node.op not in VIEWS:
            yield f"{tensor.size} elements; fewer than 2^31"


def _over(limits):
    """Return texts for (what, value, highest allowed) where the value is higher."""
    return [f"{what} {value}; at most {most}" for what, value, most in limits if value > most]


def _convolution(node):
    x, weight = node.tensors[:2]
    yield from _over([("input width", x.shape[3], CONV_WIDTH),
                      ("input height", x.shape[2], CONV_HEIGHT),
                      ("kernel", max(weight.shape[2:]), CONV_KERNEL),
                      ("stride", max(node.attributes["stride"]), CONV_STRIDE),
                      ("padding", max(node.attributes["pad_list"]), CONV_PAD)])
    if node.attributes["group"] not in (1, x.shape[1]):         # mindspore.ops.Conv2D
        yield f"{node.attributes['group']} groups; only 1, or as many as channels"


def _convolution_gradient(node):
    maps = [tensor for tensor in (*node.tensors[:2], *node.outputs) if len(tensor.shape) == 4]
    kernel = node.outputs[0] if node.op.endswith("Filter") else node.tensors[1]
    return _over(("side of a map", max(map_.shape[2:]), CONV_GRAD_SIDE)
                 for map_ in maps if map_.shape != kernel.shape)


def _flash(node):
    _, _, scale, _, _, _, layout, _ = node.inputs[10:]
    yield from _flash_limits(node.tensors[:3], scale, layout)
    if len(node.tensors) > 3:
        yield "a mask; ours has none"


def _flash_gradient(node):
    _, _, scale, _, _, _, layout, _ = node.inputs[15:]
    # q, k, v, slope; the forward pass's result
    yield from _flash_limits([*node.inputs[:4], node.inputs[11]], scale, layout)
    if {statistic.dtype for statistic in node.inputs[8:10]} != {"float32"}:
        yield "statistics that are not float32"
    if any(node.inputs[4:8]):
        yield "a mask; ours has none"


def _flash_limits(halves, scale, layout):
    """Yield texts on what limits both flash attention and its gradient.

    halves: the tensors of shape (batch, heads, tokens, head size).
    """
    query = halves[0]
    if len(query.shape) != 4 or layout != FLASH_BNSD:
        yield "layout; only BNSD is used here"
        return
    batch, heads, tokens, size = query.shape
    if not math.isclose(scale, size ** -0.5, rel_tol=1e-6):
        yield f"scale {scale}; expected {size ** -0.5}"
    yield from _over([("batch", batch, FLASH_BATCH), ("heads", heads, FLASH_HEADS),
                      ("tokens", tokens, FLASH_TOKENS), ("head size", size, FLASH_HEAD_SIZE)])
    if size % FLASH_HEAD_UNIT:
        yield f"head size {size}; a multiple of {FLASH_HEAD_UNIT}"
    if len({half.dtype for half in halves}) > 1:
        yield "query, key, value or result of different dtypes"
    if query.dtype == "float32":
        yield "float32; only half precision"


def _layer_norm(node):
    begin_norm, begin_params = [value for value in node.inputs if isinstance(value, int)][:2]
    if begin_norm != begin_params:                              # mindspore.ops.LayerNorm
        yield "begin_norm_axis and begin_params_axis differ"


def _group_norm(node):
    if len({tensor.dtype for tensor in node.tensors}) > 1:      # mindspore.ops.group_norm
        yield "gain and offset of another dtype than the input"


def _bias_add(node):
    if not 2 <= len(node.tensors[0].shape) <= 5:                # mindspore.ops.BiasAdd
        yield f"{len(node.tensors[0].shape)} dimensions; 2 to 5"


def _product(node):
    if len({tensor.dtype for tensor in node.tensors[:2]}) > 1:  # mindspore.ops.MatMul
        yield "factors of different dtypes"
    # CANN, batch_mat_mul_v3/README.md
    if node.op == "BatchMatMul" and len(node.tensors[0].shape) > 6:
        yield f"{len(node.tensors[0].shape)} dimensions; at most 6"


SHAPES = {"Conv2D": _convolution, "Conv2DBackpropInput": _convolution_gradient,
          "Conv2DBackpropFilter": _convolution_gradient, "FlashAttentionScore": _flash,
          "FlashAttentionScoreGrad": _flash_gradient, "LayerNorm": _layer_norm,
          "GroupNorm": _group_norm,
          "BiasAdd": _bias_add, "MatMul": _product, "BatchMatMul": _product}
