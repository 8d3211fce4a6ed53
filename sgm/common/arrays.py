"""Reads numpy files, of which every byte may be damaged."""
import os

import numpy as np

from sgm.common.errors import InputError
from sgm.common.files import check_file


def read_npy(path, mode=None, dtype=None, shape=None):
    """Return the array of a .npy file; it is never unpickled.

    mode: None reads it, "r" and "r+" map it. dtype, shape: what it must have; None for anything.
    Raises InputError naming the file, OSError where there is none.
    """
    check_file(path)
    try:
        if mode:
            array = np.lib.format.open_memmap(path, mode=mode)
            end = array.offset + array.nbytes
        else:
            with open(path, "rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                end = file.tell()
        if end != os.path.getsize(path):        # the header's own length is wrong
            raise ValueError(f"{os.path.getsize(path)} bytes, expected {end}")
    except OSError:
        raise
    except Exception as error:      # a damaged header raises whatever Python's parser does
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: cannot be read as an array ({reason}); the file is damaged:"
                         " remove it") from None
    expected = dtype and np.dtype(dtype), shape and tuple(shape)
    if any(wanted not in (None, found)
           for wanted, found in zip(expected, (array.dtype, array.shape))):
        raise InputError(f"{path}: found {array.dtype} of shape {array.shape}, expected"
                         f" {expected[0]} of shape {expected[1]}; the file is damaged, or of"
                         " another program: remove it")
    return array
