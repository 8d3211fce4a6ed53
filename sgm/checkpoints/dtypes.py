"""Element types of stored tensors, and conversion between them."""
from typing import NamedTuple, Optional

import numpy as np

# safetensors' names of element types. BF16 has no numpy type: it is stored as 16 bits, and read as
# float32.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
          "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
          "BOOL": "?"}
FLOATS = ("F64", "F32", "F16", "BF16")
MAX_DIMS = 32                                   # numpy's limit


class Entry(NamedTuple):
    """A tensor's element type, shape, and its pieces as (start, end) bytes of the file.

    strides: elements from one to the next along each axis; None if they follow one another.
    """
    dtype: str
    shape: tuple
    pieces: tuple
    strides: Optional[tuple] = None


def nbytes(dtype, shape):
    """Return the bytes of a tensor, or None if numpy has no array of that shape, even empty."""
    size = np.dtype(DTYPES[dtype]).itemsize
    for length in shape:
        size *= max(length, 1)
        if size >= 2 ** 63:     # at every turn: the product of a long list would take forever
            return None
    return None if len(shape) > MAX_DIMS else 0 if 0 in shape else size


def cast(bits, found, wanted):
    """Return a flat array that is stored as the type `found` as it is stored as `wanted`.

    Numbers are rounded to nearest, ties to even. Raises OverflowError when a finite number becomes
    infinite.
    """
    if found == wanted:
        return bits
    numbers = (bits.astype(np.uint32) << 16).view(np.float32) if found == "BF16" else bits
    try:
        with np.errstate(over="raise"):
            if wanted != "BF16":
                return numbers.astype(DTYPES[wanted])
            numbers = numbers.astype(np.float32, copy=False)
    except FloatingPointError:
        raise OverflowError from None
    bits = numbers.view(np.uint32)
    rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
    finite = np.isfinite(numbers)
    if not finite.all():                        # infinities and NaN stay what they are
        special = bits >> 16 | np.isnan(numbers) * np.uint32(0x40)
        rounded = np.where(finite, rounded, special).astype(np.uint16)
    if (finite & (rounded & 0x7FFF == 0x7F80)).any():
        raise OverflowError
    return rounded
