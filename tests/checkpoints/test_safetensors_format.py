"""Safetensors files: round trips, the library's bytes, hostile files, what cannot be written."""
import filecmp
import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file
from support.tensor_files import BIAS, TENSORS, WEIGHT, error_of, f32, raw, saved, tensors

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors, write_safetensors

ODD = {"m": WEIGHT, "scalar": np.array(2.5, np.float32), "half": BIAS.astype(np.float16), "é ü": WEIGHT.astype(float),
       "none": np.zeros((2, 0, 3), np.float32), "int": np.arange(5), "bool": np.array([True, False, True]),
       "turned": WEIGHT.T, "big": np.arange(3, dtype=">i4")}


def test_texts_that_are_no_utf8_round_trip(tmp_path):
    path = saved(tmp_path, {"\ud800a": BIAS}, metadata={"init": os.fsdecode(b"m\xff")})
    found = open_checkpoint(path)
    assert list(found) == ["\ud800a"] and found.metadata == {"init": "m\udcff"}


def test_safetensors_round_trip_and_the_library_agrees(tmp_path):
    path = saved(tmp_path, ODD, metadata={"step": 3})
    ours, theirs = open_checkpoint(path), load_file(path)
    assert ours.metadata == {"step": "3"} and set(ours) == set(ODD) == set(theirs) and len(ours) == len(ODD)
    for key, array in ODD.items():
        assert np.array_equal(ours.read(key), array) and np.array_equal(theirs[key], array)
        assert ours.shape(key) == array.shape == ours.read(key).shape
        assert ours.read(key).flags.aligned
    save_file({"a": WEIGHT}, tmp_path / "theirs.safetensors")
    assert np.array_equal(open_checkpoint(tmp_path / "theirs.safetensors").read("a"), WEIGHT)
    assert sorted(os.listdir(tmp_path)) == ["net.safetensors", "theirs.safetensors"]


def test_bfloat16_is_read_as_float32(tmp_path):
    array = Tensor(WEIGHT).astype(ms.bfloat16)
    path = saved(tmp_path, {"w": array.asnumpy()})
    assert open_checkpoint(path).dtype("w") == "BF16"
    assert np.array_equal(open_checkpoint(path).read("w"), array.astype(ms.float32).asnumpy())


HOSTILE = {
    "empty": (b"", "found an empty file"),
    "short": (b"\x08\0\0", "header of 8 bytes in a file of 3"),
    "cut off": (raw({"a": f32([4], 0, 16)}, b"\0" * 15), "a: found its end at byte"),
    "header beyond the file": (raw(b"{}", length=1000), "header of 1000 bytes in a file of 10"),
    "huge header": (raw(b"{}", length=2 ** 63), "header of 9223372036854775808 bytes"),
    "not JSON": (raw(b'{"a": '), "header that is not JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "header that is not JSON"),
    "deep JSON": (raw(b'{"a":' + b"[" * 100_000), "header that is not JSON"),
    "a list": (raw(b"[1, 2, 3]"), "header that is not a mapping"),
    "a key twice": (raw(b'{"a": 1, "a": 2}'), "a key twice"),
    "metadata": (raw({"__metadata__": {"a": 1}}), "__metadata__: found other than texts"),
    "no entry": (raw({"a": 3}), "a: found element type None"),
    "unknown type": (raw({"a": f32([4], 0, 4, "F8_E4M3")}, b"\0" * 4), "a: found element type F8_E4M3"),
    "type is a list": (raw({"a": f32([4], 0, 16, ["F32"])}, b"\0" * 16), "a: found element type ['F32']"),
    "negative shape": (raw({"a": f32([-4, -1], 0, 16)}, b"\0" * 16), "a: found shape [-4, -1]"),
    "shape of truths": (raw({"a": f32([True], 0, 4)}, b"\0" * 4), "a: found shape [True]"),
    "endless shape": (raw({"a": f32([2 ** 62, 4], 0, 0)}), "a: found shape [4611686018427387904, 4]"),
    "size": (raw({"a": f32([4], 0, 12)}, b"\0" * 12), "a: found 12 bytes, expected 16 for F32 [4]"),
    "backwards": (raw({"a": f32([4], 16, 0)}, b"\0" * 16), "a: found -16 bytes"),
    "offsets": (raw({"a": {**f32([4], 0, 16), "data_offsets": [16]}}, b"\0" * 16), "a: found data_offsets [16]"),
    "overlap": (raw({"a": f32([4], 0, 16), "b": f32([4], 8, 24)}, b"\0" * 24), "b: found its start at byte"),
    "same bytes": (raw({"a": f32([4], 0, 16), "b": f32([4], 0, 16)}, b"\0" * 16), "b: found its start at byte"),
    "hole": (raw({"a": f32([1], 4, 8)}, b"\0" * 8), "a: found its start at byte"),
    "a name of many lines": (raw({"a\nb\x1b" + "c" * 5000: 3}), "a b?ccc"),
    "more": (raw({"a": f32([1], 0, 4)}, b"\0" * 9), "found 5 bytes after the last tensor"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors(name, tmp_path):
    content, expected = HOSTILE[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    message = error_of(open_checkpoint, path)
    assert message.startswith(f"{path}: ") and expected in message


def test_what_cannot_be_written(tmp_path):
    assert "w: found element type complex64" in error_of(saved, tmp_path, {"w": WEIGHT + 0j})
    assert "cannot be written" in error_of(save_safetensors, tmp_path / "none" / "x.safetensors", tensors())
    assert os.listdir(tmp_path) == []


def test_the_safetensors_librarys_bytes(tmp_path):
    """A file of the library's, read and written again, is the same file; and it reads what we write."""
    save_file(TENSORS, tmp_path / "theirs.safetensors", {"format": "pt"})
    write_safetensors(tmp_path / "ours.safetensors", open_checkpoint(tmp_path / "theirs.safetensors"))
    assert filecmp.cmp(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors", shallow=False)
    save_safetensors(tmp_path / "arrays.safetensors", TENSORS)
    for key, array in load_file(tmp_path / "arrays.safetensors").items():
        assert np.array_equal(array, TENSORS[key])


def test_nothing_at_the_end_of_a_page(tmp_path):
    """An empty tensor behind the last byte of a file of whole pages: there is nothing there to map."""
    path = tmp_path / "a.safetensors"
    for count in range(900, 1024):
        save_safetensors(path, {"a": np.ones(count, np.float32), "z": np.zeros((0, 2), np.float32)})
        if path.stat().st_size % 4096 == 0:
            break
    assert path.stat().st_size == 4096
    write_safetensors(tmp_path / "b.safetensors", open_checkpoint(path))
    assert filecmp.cmp(path, tmp_path / "b.safetensors", shallow=False)
