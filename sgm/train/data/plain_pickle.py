"""Reads a pickle of numbers, lists and numpy arrays, without Python's unpickler.

Even if that one is allowed nothing but numpy's own functions, a crafted array crashes the process
inside them. Here arrays are made of their bytes once their shape is known to fit.
"""
import re
from math import prod

import numpy as np

from sgm.common.pickle_opcodes import PickleError, follow


class _Built:
    """A numpy type or array, whose value may come with its BUILD."""

    def __init__(self, value=None):
        self.value = value


def read_pickle(data):
    """Return what the bytes of a pickle hold: numbers, texts, lists, tuples, dicts, numpy arrays.

    Arrays are those of numbers, and wrapped: `plain` gives them. Raises PickleError for anything
    else.
    """
    return follow(data, _FUNCTIONS, _build)


def plain(value):
    """Return a value of a pickle, the array if it is a wrapped one."""
    return value.value if isinstance(value, _Built) else value


def _encode(text, encoding):
    return text.encode("latin-1")


def _dtype(name, *_):
    if not re.fullmatch("[fiu][1248]|b1", name):
        raise PickleError(f"holds an array of type {name!r}, expected numbers")
    return _Built(np.dtype(name))


def _scalar(kind, raw):
    return _array(raw, kind.value, ())[()]


def _frombuffer(raw, kind, shape, order):
    return _Built(_array(raw, kind.value, shape, order))


def _reconstruct(*_):
    return _Built()


def _class(*_):
    raise PickleError("makes a numpy.ndarray")


# What numpy's arrays are pickled with; numpy 2 calls its core _core.
_FUNCTIONS = {"numpy ndarray": _class, "numpy dtype": _dtype, "_codecs encode": _encode}
for _core in ("core", "_core"):
    _FUNCTIONS[f"numpy.{_core}.multiarray _reconstruct"] = _reconstruct
    _FUNCTIONS[f"numpy.{_core}.multiarray scalar"] = _scalar
    _FUNCTIONS[f"numpy.{_core}.numeric _frombuffer"] = _frombuffer


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
