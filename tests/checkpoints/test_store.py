"""Stores of tensors: their sizes in another precision, progress while they are written, views."""
import numpy as np
import pytest
from support.tensor_files import TENSORS

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import write_ckpt
from sgm.checkpoints.safetensors_format import Arrays, write_safetensors
from sgm.checkpoints.store import CheckpointError, View, passthrough, stored_bytes


def test_dtype_is_for_floating_tensors_only(tmp_path):
    path = tmp_path / "x.safetensors"
    store = Arrays("x", TENSORS)
    write_safetensors(path, store, "F16")
    ours = open_checkpoint(path)
    assert {key: ours.dtype(key) for key in ours} == {**dict.fromkeys(TENSORS, "F16"), "int": "I64", "bool": "BOOL"}
    assert stored_bytes(store, "F16") == stored_bytes(ours) < stored_bytes(store)
    too_large = Arrays("x", {"w": np.float32([1e6])})
    with pytest.raises(CheckpointError, match="x: w: found values beyond the range of F16.*; keep fp32, or take bf16"):
        write_safetensors(path, too_large, "F16")


def test_progress_counts_the_tensors(tmp_path):
    told = []
    write_safetensors(tmp_path / "x", Arrays("x", TENSORS), progress=told.append)
    write_ckpt(tmp_path / "y", Arrays("x", TENSORS), progress=told.append)
    assert sum(told) == 2 * stored_bytes(Arrays("x", TENSORS))


def test_a_view_is_made_when_it_is_read():
    store = Arrays("x", {"a": TENSORS["w"], "b": TENSORS["half"]})
    view = View("y", "arrays", {"c": passthrough(store, "a"), "d": passthrough(store, "b", "renamed")})
    over = View("z", "arrays", {"e": passthrough(view, "d", "again")})
    assert over.origin("e") == (["b"], "renamed; again") and view.origin("c") == (["a"], "")
    assert np.array_equal(over.read("e"), TENSORS["half"]) and not over.holds(over.read("e"))
