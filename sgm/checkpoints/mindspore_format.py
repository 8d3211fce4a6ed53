"""The format of MindSpore's .ckpt: reads protobuf messages from a map, writes them as a stream."""
from sgm.checkpoints.dtypes import MAX_DIMS, Entry, nbytes
from sgm.checkpoints.store import CheckpointError, slices, stored_dtype, stored_size
from sgm.common.files import write_blocks

CKPT_DTYPES = {"Float64": "F64", "Float32": "F32", "Float16": "F16", "BFloat16": "BF16",
               "Int64": "I64", "Int32": "I32", "Int16": "I16", "Int8": "I8", "UInt64": "U64",
               "UInt32": "U32", "UInt16": "U16", "UInt8": "U8", "Bool": "BOOL"}
CKPT_PIECE = 512 << 20          # bytes of a message in a .ckpt; MindSpore's own size
_CKPT_NAMES = {name: long for long, name in CKPT_DTYPES.items()}


def ckpt_entries(path, data, size):
    """Return ({key: Entry}, metadata) of a file of `size` bytes, mapped as `data`.

    Walks the file by its lengths; MindSpore's own reader holds the whole file twice. Raises
    CheckpointError.
    """
    def bad(what, remedy="the file is cut off, encrypted or damaged: save or download it again"):
        return CheckpointError(f"{path}: {what}; {remedy}")

    # Written by save_checkpoint(crc_check=True).
    if size >= 17 and data[size - 17:size - 10] == b"crc_num":
        size -= 17
    entries, metadata, last = {}, {}, None
    try:
        for _, start, end in _fields(data, 0, size, {1: 2}):
            value = {number: (b, e) for number, b, e in _fields(data, start, end, {1: 2, 2: 2})}
            key = data[slice(*value[1])].decode("utf-8")
            shape, kind, content = [], "", (0, 0)
            for number, b, e in _fields(data, *value[2], {1: 0, 2: 2, 3: 2}):
                if number == 1:
                    shape.append(b)
                elif number == 2:
                    kind = data[b:e].decode("utf-8")
                else:
                    content = (b, e)
            if kind == "str":
                metadata[key] = data[slice(*content)].decode("utf-32-le").rstrip("\0")
                continue
            if kind not in CKPT_DTYPES:
                raise bad(f"{key}: found element type {kind[:20]!r}, expected one of"
                          f" {', '.join(CKPT_DTYPES)}")
            new = Entry(CKPT_DTYPES[kind], () if shape == [0] else tuple(shape), (content,))
            if key == last and entries[key][:2] == new[:2]:     # a large tensor is saved in pieces
                new = new._replace(pieces=entries[key].pieces + new.pieces)
            elif key in entries:
                raise bad(f"{key}: found twice, expected once")
            entries[key], last = new, key
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise bad("found no MindSpore checkpoint (its messages do not add up), expected names and"
                  " tensors") from None
    for key, entry in entries.items():
        found = sum(end - start for start, end in entry.pieces)
        need = nbytes(entry.dtype, entry.shape)
        if found != need:
            wanted = f"at most {MAX_DIMS} sizes, together below 2^63," if need is None else need
            raise bad(f"{key}: found {found} bytes, expected {wanted} for {entry.dtype}"
                      f" {str(list(entry.shape))[:60]}")
    if not entries:
        raise bad("found no tensors, expected weights")
    return entries, metadata


def _fields(data, at, end, known):
    """Yield the fields of a protobuf message.

    They are (number, start, end) of length-delimited fields and (number, value, None) of integers.
    known: {number: wire type}, 2 for length-delimited fields and 0 for integers. Raises ValueError.
    """
    while at < end:
        tag, at = _read_varint(data, at, end)
        value, at = _read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if known.get(number) != wire or (wire == 2 and value > end - at):
            raise ValueError("not a checkpoint message")
        yield (number, at, at + value) if wire == 2 else (number, value, None)
        at += value if wire == 2 else 0


def _read_varint(data, at, end):
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            raise ValueError("cut off")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("an endless number")


def write_ckpt(path, store, dtype=None, progress=None, metadata=None):
    """Write all tensors of a TensorStore as a MindSpore .ckpt for `mindspore.load_checkpoint`.

    Arguments and exceptions are those of `sgm.checkpoints.safetensors_format.write_safetensors`;
    metadata become texts in the file.
    """
    def blocks():
        for name, text in (store.metadata if metadata is None else metadata).items():
            data = text.encode("utf-32-le") or bytes(4)
            yield _message(name, (), "str", len(data)) + data
        for key in store:
            name = stored_dtype(store, key, dtype)
            if store.shape(key) == (0,):        # which is read as a number without axes
                raise CheckpointError(f"{store.path}: {key}: found no elements, expected some; a"
                                      " .ckpt cannot hold it: write safetensors")
            size, space = stored_size(store, key, name), 0
            for start, block in _placed(slices(store, key, dtype)):
                if start == space:      # a new piece; all slices but the last divide it evenly
                    piece = min(CKPT_PIECE, size - start)
                    space += piece
                    yield _message(key, store.shape(key), _CKPT_NAMES[name], piece)
                yield block
            if not size:
                yield _message(key, store.shape(key), _CKPT_NAMES[name], 0)
            store.release(key)
    write_blocks(path, blocks(), progress)


def _message(key, shape, kind, size):
    """Return a Checkpoint message up to, but without, its `size` bytes of content."""
    tensor = b"".join(b"\x08" + _varint(n) for n in shape)
    tensor += _bytes(2, kind.encode()) + b"\x1a" + _varint(size)
    name = _bytes(1, key.encode("utf-8", "backslashreplace"))
    value = name + b"\x12" + _varint(len(tensor) + size) + tensor
    return b"\x0a" + _varint(len(value) + size) + value


def _bytes(number, content):
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def _placed(blocks):
    at = 0
    for block in blocks:
        yield at, block
        at += len(block)
