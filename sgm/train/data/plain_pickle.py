"""Reads a pickle of numbers, lists and numpy arrays, without Python's unpickler.

That one runs what a file tells it to; and even if it is allowed nothing but numpy's own functions,
a crafted array crashes the process inside them. Here the few opcodes that plain data need are
followed, and arrays are made of their bytes once their shape is known to fit.
"""
import pickletools
import re
from math import prod

import numpy as np

_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# what numpy's arrays are pickled with; numpy 2 calls its core _core
_FUNCTIONS = {
    "numpy.core.multiarray _reconstruct", "numpy.core.multiarray scalar",
    "numpy.core.numeric _frombuffer", "numpy ndarray", "numpy dtype", "_codecs encode"}


class PickleError(ValueError):
    """A pickle that holds anything else than plain data; the message says what."""


class _Function(str):
    """The name of a function of _FUNCTIONS."""


class _Built:
    """A numpy type or array, whose value comes with its BUILD."""
    value = None


def read_pickle(data):
    """Return what the bytes of a pickle hold: numbers, texts, lists, tuples, dicts, numpy arrays.

    Arrays are those of numbers, and wrapped: `plain` gives them. Raises PickleError for anything
    else.
    """
    try:
        return _run(data)
    except PickleError:
        raise
    # a damaged file: too few values on the stack, unknown opcodes, wrong lengths
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PickleError(f"is damaged ({error})") from None


def plain(value):
    """Return a value of a pickle, the array if it is a wrapped one."""
    return value.value if isinstance(value, _Built) else value


def _run(data):
    """Follow the opcodes and return the last value, in which arrays are _Built."""
    stack, marks, memo = [], [], {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _TUPLES:
            stack[-_TUPLES[name]:] = [tuple(stack[-_TUPLES[name]:])]
        elif name in ("TUPLE", "LIST"):
            first = marks.pop()
            stack[first:] = [(tuple if name == "TUPLE" else list)(stack[first:])]
        elif name in ("APPEND", "APPENDS"):
            first = len(stack) - 1 if name == "APPEND" else marks.pop()
            stack[first - 1].extend(stack[first:])
            del stack[first:]
        elif name in ("DICT", "SETITEM", "SETITEMS"):
            first = len(stack) - 2 if name == "SETITEM" else marks.pop()
            if name == "DICT":
                stack.insert(first, {})
                first += 1
            stack[first - 1].update(zip(stack[first::2], stack[first + 1::2]))
            del stack[first:]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(_function(argument))
        elif name == "STACK_GLOBAL":
            stack[-2:] = [_function(" ".join(stack[-2:]))]
        elif name == "REDUCE":
            stack[-2:] = [_call(*stack[-2:])]
        elif name == "BUILD":
            _build(stack[-2], stack.pop())
        else:
            raise PickleError(f"holds the opcode {name}, expected numbers, lists and arrays only")
    raise PickleError("ends too early")


def _function(name):
    name = name.replace("numpy._core.", "numpy.core.")
    if name not in _FUNCTIONS:
        raise PickleError(f"holds a {name.replace(' ', '.')}")
    return _Function(name)


def _call(function, arguments):
    """Return what a function of numpy would make of its arguments."""
    if not isinstance(function, _Function):
        raise PickleError("calls what is no function")
    if function == "_codecs encode":
        return arguments[0].encode("latin-1")
    built = _Built()
    if function == "numpy dtype":
        if not re.fullmatch("[fiu][1248]|b1", arguments[0]):
            raise PickleError(f"holds an array of type {arguments[0]!r}, expected numbers")
        built.value = np.dtype(arguments[0])
    elif function == "numpy.core.multiarray scalar":
        return _array(arguments[1], arguments[0].value, ())[()]
    elif function == "numpy.core.numeric _frombuffer":
        raw, kind, shape, order = arguments
        built.value = _array(raw, kind.value, shape, order)
    elif function != "numpy.core.multiarray _reconstruct":
        raise PickleError(f"makes a {function.replace(' ', '.')}")
    return built


def _build(built, state):
    """Complete a type by its byte order, an array by its shape, type and bytes."""
    if not isinstance(built, _Built):
        raise PickleError("builds an object of another class")
    if isinstance(built.value, np.dtype):
        built.value = built.value.newbyteorder(state[1])
    else:
        _, shape, kind, is_fortran, raw = state
        built.value = _array(raw, kind.value, shape, "F" if is_fortran else "C")


def _array(raw, kind, shape, order="C"):
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not all(type(side) is int and side >= 0 for side in shape):
        raise PickleError(f"holds an array of shape {shape}")
    if prod(shape) * kind.itemsize != len(raw):
        raise PickleError(f"holds an array of shape {shape} in {len(raw)} bytes")
    return np.frombuffer(raw, kind).reshape(shape, order=order)
