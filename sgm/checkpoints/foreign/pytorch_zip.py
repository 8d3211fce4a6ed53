"""Reads the index of a file of torch.save (its zip form, since PyTorch 1.6). Runs nothing in it.

The file is a zip: a pickle of dicts and tensors, and the tensors' bytes, not compressed, so that
they are read where they lie. Of the pickle, the opcodes of dicts, lists, numbers, texts and tensors
are followed (`sgm.common.pickle_opcodes`); a file that names anything else is refused. Files come
from anywhere, hence every size and offset is checked before it is used.
"""
import struct
import zipfile

import numpy as np

from sgm.checkpoints.dtypes import DTYPES, Entry, nbytes
from sgm.checkpoints.store import CheckpointError
from sgm.common.pickle_opcodes import PickleError, follow

MAX_PICKLE = 64 << 20                           # bytes of the index
MAX_NODES, MAX_DEPTH = 1 << 20, 32              # of what it holds, aliases written out
LOCAL_HEADER = 30                               # bytes of a zip's local header without its texts
_STORAGES = {"Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Long": "I64",
             "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL"}
_REMEDY = ("save its weights alone where PyTorch is:"
           " safetensors.torch.save_file(state_dict, 'model.safetensors')")


class _Tensor:
    """A tensor of the pickle: type, name of its storage, and its place there in elements."""

    def __init__(self, dtype, key, offset, shape, strides):
        self.dtype, self.key, self.offset = dtype, key, offset
        self.shape, self.strides = shape, strides


def pytorch_entries(path, data, size):
    """Return ({key: Entry}, {}) of the tensors of a file of `size` bytes, mapped as `data`.

    Keys of nested dicts and lists are joined by dots; values other than tensors are left out.
    Raises CheckpointError.
    """
    records = _records(path, data, size)
    pickles = [name for name in records if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{path}: found a zip file with {len(pickles)} data.pkl in it,"
                              " expected one, as torch.save writes; give the file of the weights")
    root = pickles[0].removesuffix("data.pkl")
    start, end = records[pickles[0]]
    if end - start > MAX_PICKLE:
        raise CheckpointError(f"{path}: {pickles[0]}: found {end - start} bytes, expected at most"
                              f" {MAX_PICKLE}; {_REMEDY}")
    if root + "byteorder" in records:
        order = bytes(data[slice(*records[root + "byteorder"])])
        if order != b"little":
            raise CheckpointError(f"{path}: found byte order {order[:20]!r}, expected little;"
                                  f" {_REMEDY}")
    try:
        found = follow(data[start:end], _FUNCTIONS, _build, _storage)
        tensors = _flat(found)
    except PickleError as error:
        raise CheckpointError(f"{path}: its pickle {str(error)[:200]}, which is not read: expected"
                              f" dicts of tensors; {_REMEDY}") from None
    entries = {}
    for key, tensor in tensors.items():
        entries[key] = _entry(path, key, tensor, records.get(f"{root}data/{tensor.key}"))
    return entries, {}


def _records(path, data, size):
    """Return {name: (start, end)} of the records of a zip file, in bytes. Raises CheckpointError.
    """
    def bad(what, remedy="download it again"):
        return CheckpointError(f"{path}: found a zip file {what}, expected one of torch.save;"
                               f" {remedy}")

    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error, EOFError,
            OverflowError, IndexError) as error:
        raise bad(f"that cannot be read ({str(error)[:80]})") from None
    records = {}
    for info in infos:
        name, at = info.filename, info.header_offset
        if name in records:
            raise bad(f"with {name[:80]} twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise bad(f"with {name[:80]} compressed or encrypted", _REMEDY)
        header = bytes(data[max(at, 0):max(at, 0) + LOCAL_HEADER])
        if at < 0 or len(header) < LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise bad(f"without {name[:80]} where it should be")
        start = at + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
        if info.compress_size != info.file_size or start + info.file_size > size:
            raise bad(f"with the end of {name[:80]} at byte {start + info.file_size} of {size}")
        records[name] = start, start + info.file_size
    return records


def _entry(path, key, tensor, record):
    """Return where a tensor lies. Raises CheckpointError unless it lies in its record."""
    def bad(found, expected):
        return CheckpointError(f"{path}: {key}: found {found}, expected {expected}; the file is"
                               " damaged: download it again")

    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    if not all(isinstance(numbers, (tuple, list)) and all(type(n) is int and n >= 0
                                                          for n in numbers)
               for numbers in (shape, strides, (offset,))):
        raise bad(f"shape {str(shape)[:40]} and steps {str(strides)[:40]}", "natural numbers")
    need = nbytes(tensor.dtype, shape)
    if need is None or len(shape) != len(strides):
        raise bad(f"shape {str(shape)[:60]} with {len(strides)} steps", "at most 32 sizes, a step"
                  " for each")
    if record is None:
        raise bad(f"no data of its storage {tensor.key[:40]!r}", "them in the file")
    if need == 0:
        return Entry(tensor.dtype, tuple(shape), ())
    width, (start, end) = np.dtype(DTYPES[tensor.dtype]).itemsize, record
    last = offset + sum((length - 1) * step for length, step in zip(shape, strides)) + 1
    if last * width > end - start:
        raise bad(f"its end at byte {last * width} of its storage", f"at most {end - start}")
    piece = (start + offset * width, start + last * width)
    dense = _dense(shape)
    if all(length == 1 or step == wanted for length, step, wanted in zip(shape, strides, dense)):
        strides = None
    return Entry(tensor.dtype, tuple(shape), (piece,), None if strides is None else tuple(strides))


def _dense(shape):
    """Return the steps of a tensor whose elements follow one another."""
    steps, step = [], 1
    for length in reversed(shape):
        steps.append(step)
        step *= length
    return steps[::-1]


def _flat(found):
    """Return {joined keys: tensor} of nested dicts and lists. Raises PickleError."""
    tensors, nodes = {}, 0
    stack = [("", found, 0)]
    if isinstance(found, _Tensor):
        raise PickleError("holds a single tensor")
    while stack:
        prefix, value, depth = stack.pop()
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise PickleError(f"holds more than {MAX_NODES} values or {MAX_DEPTH} levels")
        if isinstance(value, _Tensor):
            if prefix in tensors:
                raise PickleError(f"holds {prefix[:80]} twice")
            tensors[prefix] = value
            continue
        items = ()
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, (list, tuple)):
            items = enumerate(value)
        below = []
        for key, part in items:
            if type(key) not in (str, int):
                raise PickleError(f"holds a key of type {type(key).__name__}")
            below.append((f"{prefix}.{key}" if prefix else str(key), part, depth + 1))
        stack += below[::-1]
    return tensors


def _storage(reference):
    """Return (type, name) of the storage that a persistent reference stands for."""
    what, kind, key, _, count = reference
    dtype = getattr(kind, "call", None)
    if what != "storage" or not isinstance(dtype, str) or not isinstance(key, str):
        raise PickleError("refers to something other than a storage of numbers")
    return dtype, key


def _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks, marks=None):
    dtype, key = storage
    if marks:
        raise PickleError("holds a tensor that is marked as negated or conjugated")
    if dtype not in DTYPES or not isinstance(key, str):
        raise PickleError("makes a tensor of something other than a storage")
    return _Tensor(dtype, key, offset, shape, strides)


def _rebuild_parameter(tensor, *_):
    if not isinstance(tensor, _Tensor):
        raise PickleError("makes a parameter of something other than a tensor")
    return tensor


def _ordered_dict(*pairs):
    return dict(*pairs)


def _size(lengths=()):
    return tuple(lengths)


def _build(value, state):
    """Pass over what PyTorch notes at the dict of a module: versions of its layers."""
    if not isinstance(value, dict):
        raise PickleError("builds an object of another class")


_FUNCTIONS = {f"torch {name}Storage": dtype for name, dtype in _STORAGES.items()}
_FUNCTIONS |= {"torch._utils _rebuild_tensor_v2": _rebuild_tensor,
               "torch._utils _rebuild_parameter": _rebuild_parameter,
               "collections OrderedDict": _ordered_dict, "torch Size": _size}
