"""Traces the graph that MindSpore makes of a Cell, for any target, without a device or weights.

MindSpore's compiler runs as far as it does for an export, so no device is needed; Parameters are
made without their memory: the published models are traced at full size in half a minute. What a
device's own back end makes of the graph afterwards (fusion, choice of kernels) is not seen.
"""
import math
from dataclasses import dataclass, field
from itertools import count

import mindspore as ms
from mindspore import Tensor
from mindspore.common.api import JitConfig, _cell_graph_executor
from mindspore.common.initializer import initializer
from mindspore.nn.utils import no_init_parameters
from mindspore.train import anf_ir_pb2

from sgm import ops

# Nodes that hold the graph together and compute nothing.
STRUCTURE = {"MakeTuple", "TupleGetItem", "Load", "Depend", "UpdateState", "Return", "StopGradient"}
# Nodes whose result is the memory of their first input under another shape.
VIEWS = {"Reshape", "ExpandDims", "Squeeze"}
BYTES = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "int32": 4,
         "float32": 4, "int64": 8, "float64": 8, "complex64": 8, "complex128": 16}

_names = {value.number: value.name.removeprefix("DT_").lower()
          for value in anf_ir_pb2.DataType.DESCRIPTOR.values}
_numbers = count()


@dataclass(frozen=True)
class Type:
    """Element type ("float16") and shape of a tensor; a length known only at run time is < 0."""
    dtype: str
    shape: tuple

    @property
    def static(self):
        """True if the shape is known."""
        return all(length >= 0 for length in self.shape)

    @property
    def size(self):
        """Number of elements, 0 if it is not known."""
        return math.prod(self.shape) if self.static else 0

    @property
    def bytes(self):
        """Memory of the tensor."""
        return self.size * BYTES.get(self.dtype, 0)

    def __str__(self):
        return f"{self.dtype}{list(self.shape)}"


@dataclass
class Node:
    """One primitive.

    inputs: Types, tuples of them, and the values of constants other than tensors. outputs: Types;
    of a primitive with several results those that something reads.
    """
    op: str
    scope: str
    inputs: list
    outputs: list
    attributes: dict

    @property
    def tensors(self):
        """The tensors read, tuples opened."""
        return list(_flat(self.inputs))

    def __str__(self):
        read = ", ".join(map(str, self.tensors[:4])) + (", ..." if len(self.tensors) > 4 else "")
        scope = self.scope.removeprefix("Default").strip("/")
        return f"{self.op}({read}) in {scope or 'the graph itself'}"


@dataclass
class Graph:
    """A graph's primitives in running order, its arguments and weights by name, and its results."""
    nodes: list = field(default_factory=list)
    arguments: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)
    results: list = field(default_factory=list)

    @property
    def computing(self):
        """The nodes that compute something."""
        return [node for node in self.nodes if node.op not in STRUCTURE]


def lazily(cell, dtype):
    """Give every parameter of `cell` the type `dtype`, without memory; return the cell.

    (`Parameter.set_dtype` would allocate it.)
    """
    for _, part in cell.cells_and_names():
        for name, old in list(part.parameters_and_names(expand=False)):
            new = ms.Parameter(initializer("zeros", old.shape, dtype), name=old.name)
            setattr(part, name.rpartition(".")[2], new)
    return cell


def trace(make, arguments, target="Ascend"):
    """Return the `Graph` of the Cell that make() returns, in the operator forms of `target`.

    arguments: Types.
    """
    return _parse(traced(make, arguments, target), len(arguments))


def traced(make, arguments, target="Ascend"):
    """Return the proto of the compiled graph, in which values have names; see `trace`."""
    before = ops.target()
    ops.set_target(target)
    try:
        with no_init_parameters():
            cell = make()
        tensors = tuple(Tensor(shape=argument.shape, dtype=getattr(ms, argument.dtype))
                        for argument in arguments)
        return _compile(cell, tensors)
    finally:
        ops.set_target(before)


def _compile(cell, arguments):
    """Return the proto of the compiled graph, as `mindspore.export`, without memory for weights."""
    executor = _cell_graph_executor._graph_executor
    cell.__parse_method__ = "construct"
    # Without "export" in its name compilation goes on, for the device.
    phase = f"export.audit.{next(_numbers)}"
    executor.set_enable_tuple_broaden(False)
    cell.arguments_key = str(executor.generate_arguments_key(cell, arguments, {}, False))
    executor.compile(cell, arguments, {}, phase, JitConfig().jit_config_dict)
    proto = anf_ir_pb2.ModelProto()
    proto.ParseFromString(executor.get_func_graph_proto(phase, "anf_ir", False))
    executor.del_net_res(cell, {phase})
    return proto.graph


def _parse(proto, arguments):
    values = {item.key: constant_of(item.value) for item in proto.const_vals}
    graph = Graph()
    for i, parameter in enumerate(proto.parameters):
        kind = graph.arguments if i < arguments else graph.weights
        values[parameter.name] = kind[parameter.name] = type_of(parameter.type)
    made = {}
    for item in proto.node:
        result = values[item.name] = type_of(item.output_type)
        node = made[item.name] = Node(
            item.op_type, item.scope, [values.get(edge.name) for edge in item.input],
            [result] if isinstance(result, Type) else [],
            {a.name: constant_of(a.value) for a in item.attribute})
        if item.op_type == "MakeTuple":             # a tuple itself does not tell the shapes in it
            values[item.name] = tuple(node.inputs)
        elif item.op_type == "Depend":
            values[item.name] = node.inputs[0]
        elif item.op_type == "TupleGetItem" and isinstance(result, Type):
            if item.input[0].name in made:
                made[item.input[0].name].outputs.append(result)
        graph.nodes.append(node)
    graph.results = list(_flat(values[output.name] for output in proto.outputs))
    return graph


def type_of(proto):
    """Return a Type, or None for anything but a tensor."""
    if _names[proto.data_type] != "tensor":
        return None
    tensor = proto.tensor_type
    return Type(_names[tensor.elem_type], tuple(dim.size for dim in tensor.shape.dim))


def constant_of(proto):
    """Return a Type for a tensor, else the value; None for what is neither."""
    kind = _names[proto.dtype]
    if kind == "tensor":
        return Type(_names[proto.tensor_val.data_type], tuple(proto.tensor_val.dims))
    if kind in ("tuple", "list"):
        return tuple(constant_of(part) for part in proto.values)
    if kind == "bool":
        return proto.bool_val
    if kind == "string":
        return proto.str_val
    if kind == "float64":
        return proto.double_val
    if kind.startswith("float"):
        return proto.float_val
    return proto.int_val or proto.uint_val if "int" in kind else None


def _flat(values):
    for value in values:
        if isinstance(value, Type):
            yield value
        elif isinstance(value, tuple):
            yield from _flat(value)
