"""Costs of a graph: operations, bytes moved, bytes that cross between host and device."""
from dataclasses import dataclass

from sgm.audit.graph import VIEWS


@dataclass
class Cost:
    """What one call of a graph costs.

    flops: of products and convolutions. bytes: read and written by all operators, each by itself,
    so an upper bound of what a fused graph moves. weights: bytes of the parameters. host: bytes
    that cross from and to the host.
    """
    flops: int
    bytes: int
    weights: int
    host: int


def cost(graph, host=(), fetched=False):
    """Return the `Cost` of one call.

    host: positions of the arguments that come from the host; fetched: the result goes there.
    """
    arguments = list(graph.arguments.values())
    moved = [part.bytes for node in graph.computing if node.op not in VIEWS
             for part in node.tensors + node.outputs]
    results = sum(result.bytes for result in graph.results)
    return Cost(flops=sum(map(flops, graph.nodes)), bytes=sum(moved),
                weights=sum(weight.bytes for weight in graph.weights.values()),
                host=sum(arguments[i].bytes for i in host) + fetched * results)


def flops(node):
    """Return a node's operations: two per multiplication of a product or convolution, else 0."""
    count = COUNTS.get(node.op)
    return count(node) if count else 0


def _product(node):
    first = node.tensors[0].shape
    transposed = len(node.inputs) > 2 and node.inputs[2] is True
    return 2 * node.outputs[0].size * first[-2 if transposed else -1]


def _convolution(node):
    return _of_kernel(node.outputs[0], node.tensors[1])


def _input_gradient(node):
    return _of_kernel(node.tensors[0], node.tensors[1])


def _kernel_gradient(node):
    return _of_kernel(node.tensors[0], node.outputs[0])


def _of_kernel(result, kernel):
    """Return the operations of a convolution with that result, or of one of its gradients."""
    return 2 * result.size * kernel.size // kernel.shape[0]


def _attention(node):
    batch, heads, tokens, size = node.tensors[0].shape
    return 4 * batch * heads * tokens * tokens * size


def _attention_gradient(node):
    return _attention(node) * 5 // 2    # five products, the first of which the forward pass has too


COUNTS = {"MatMul": _product, "MatMulExt": _product, "BatchMatMul": _product,
          "Conv2D": _convolution, "Conv2DBackpropInput": _input_gradient,
          "Conv2DBackpropFilter": _kernel_gradient,
          "FlashAttentionScore": _attention, "FlashAttentionScoreGrad": _attention_gradient}
