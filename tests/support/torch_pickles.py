"""Opcodes of pickles as torch.save writes them, without PyTorch."""
import struct

KINDS = {"float32": "Float", "float16": "Half", "float64": "Double", "int64": "Long", "bool": "Bool"}


def text(value):
    """A string."""
    value = value.encode()
    return b"X" + struct.pack("<I", len(value)) + value


def number(value):
    """An int."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(values):
    """A tuple of ints."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key, kind="Float", count=1, what="storage"):
    """A reference to a storage, a file data/<key>."""
    return b"(" + text(what) + f"ctorch\n{kind}Storage\n".encode() + text(str(key)) + text("cpu") + number(count) + b"tQ"


def tensor(reference, shape, strides, offset=0, more=b""):
    """A tensor of a storage."""
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + number(offset) + numbers(shape) + numbers(strides)
            + b"\x89ccollections\nOrderedDict\n)R" + more + b"tR")


def tensor_of(key, array):
    """A tensor of a whole storage in C order."""
    strides = [step // array.itemsize for step in array.strides]
    return tensor(storage(key, KINDS[str(array.dtype)], array.size), array.shape, strides)


def dict_of(items):
    """A dict of {text: opcodes of its value}."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"
