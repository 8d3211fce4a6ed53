"""Files as they are written: what MindSpore and the safetensors library read of them, rounding, failures."""
import errno
import filecmp
import os

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from sgm.checkpoints import mindspore_format, store
from sgm.checkpoints.dtypes import cast
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import write_ckpt
from sgm.checkpoints.safetensors_format import Arrays, save_safetensors, write_safetensors
from sgm.checkpoints.store import CheckpointError, View, passthrough, stored_bytes
from sgm.common.errors import InputError
from sgm.common.files import HOST, atomic

RANDOM = np.random.RandomState(0)
TENSORS = {"w": RANDOM.randn(7, 5).astype(np.float32), "half": RANDOM.randn(3).astype(np.float16),
           "é ü": RANDOM.randn(2, 3, 1),
           "scalar": np.array(2.5, np.float32), "int": np.arange(5), "bool": np.array([True, False])}


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def test_mindspore_reads_our_ckpt(tmp_path):
    """Every element type, a number without axes, texts."""
    path = tmp_path / "x.ckpt"
    brain = Tensor(TENSORS["w"]).astype(ms.bfloat16)
    write_ckpt(path, Arrays(path, {**TENSORS, "brain": brain.asnumpy()}, {"format": "pt", "empty": "", "ö": "ß x"}))
    theirs = ms.load_checkpoint(str(path))
    assert {key: theirs.pop(key) for key in ("format", "empty", "ö")} == {"format": "pt", "empty": "", "ö": "ß x"}
    assert theirs["brain"].dtype == ms.bfloat16 and np.array_equal(
        theirs.pop("brain").astype(ms.float32).asnumpy(), brain.astype(ms.float32).asnumpy())
    assert set(theirs) == set(TENSORS)
    for key, array in TENSORS.items():
        found = theirs[key].asnumpy()
        assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)
    ours = open_checkpoint(path)
    assert ours.metadata == {"format": "pt", "empty": "", "ö": "ß x"} and ours.dtype("brain") == "BF16"


def test_large_tensors_are_written_in_pieces(tmp_path, monkeypatch):
    """MindSpore joins messages of one name; 512 MB each in truth, 64 bytes here."""
    monkeypatch.setattr(mindspore_format, "CKPT_PIECE", 64)
    monkeypatch.setattr(store, "SLICE", 8)
    path = tmp_path / "x.ckpt"
    large = {"a": RANDOM.randn(9, 11).astype(np.float32), "b": RANDOM.randn(40).astype(np.float16), "c": np.float32([1]),
             "d": np.array(2, np.float32)}
    write_ckpt(path, Arrays(path, large))
    ours, theirs = open_checkpoint(path), ms.load_checkpoint(str(path))
    assert [len(ours._entries[key].pieces) for key in large] == [7, 2, 1, 1]
    for key, array in large.items():
        assert np.array_equal(ours.read(key), array) and np.array_equal(theirs[key].asnumpy(), array)
    monkeypatch.undo()
    write_ckpt(tmp_path / "ours.ckpt", ours)
    ms.save_checkpoint([{"name": key, "data": Tensor(array)} for key, array in large.items()], str(tmp_path / "theirs.ckpt"))
    assert filecmp.cmp(tmp_path / "ours.ckpt", tmp_path / "theirs.ckpt", shallow=False)


def test_the_safetensors_librarys_bytes(tmp_path):
    """A file of the library's, read and written again, is the same file; and it reads what we write."""
    save_file(TENSORS, tmp_path / "theirs.safetensors", {"format": "pt"})
    write_safetensors(tmp_path / "ours.safetensors", open_checkpoint(tmp_path / "theirs.safetensors"))
    assert filecmp.cmp(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors", shallow=False)
    save_safetensors(tmp_path / "arrays.safetensors", TENSORS)
    for key, array in load_file(tmp_path / "arrays.safetensors").items():
        assert np.array_equal(array, TENSORS[key])


def test_by_way_of_a_ckpt(tmp_path):
    save_file({key: array for key, array in TENSORS.items()}, tmp_path / "a.safetensors", {"format": "pt"})
    write_ckpt(tmp_path / "b.ckpt", open_checkpoint(tmp_path / "a.safetensors"))
    write_safetensors(tmp_path / "c.safetensors", open_checkpoint(tmp_path / "b.ckpt"))
    assert filecmp.cmp(tmp_path / "a.safetensors", tmp_path / "c.safetensors", shallow=False)


def test_a_ckpt_cannot_hold_an_empty_list(tmp_path):
    with pytest.raises(CheckpointError, match="none: found no elements"):
        write_ckpt(tmp_path / "x.ckpt", Arrays("x", {"none": np.zeros(0, np.float32)}))
    write_ckpt(tmp_path / "x.ckpt", Arrays("x", {"none": np.zeros((2, 0), np.float32)}))
    assert open_checkpoint(tmp_path / "x.ckpt").shape("none") == (2, 0)


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


# --- rounding --------------------------------------------------------------------------------------------------

def widened(brain):
    return (brain.astype(np.uint32) << 16).view(np.float32)


def test_bfloat16_is_rounded_as_mindspore_does():
    numbers = np.concatenate([RANDOM.randn(20_000) * 10.0 ** RANDOM.randint(-38, 38, 20_000), [0.0, -0.0, 1e-45, -1e-40]])
    numbers = np.clip(numbers, -3e38, 3e38).astype(np.float32)
    theirs = Tensor(numbers).astype(ms.bfloat16).astype(ms.float32).asnumpy()
    assert np.array_equal(widened(cast(numbers, "F32", "BF16")), theirs)


def test_bfloat16_ties_go_to_even_and_every_value_is_kept():
    every = np.arange(1 << 16, dtype=np.uint16)
    number = ~np.isnan(widened(every))
    kept = cast(widened(every), "F32", "BF16")
    assert np.array_equal(kept[number], every[number]) and np.isnan(widened(kept[~number])).all()
    odd = np.uint32([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001]).view(np.float32)  # which rounding would make numbers
    assert np.isnan(widened(cast(odd, "F32", "BF16"))).all()
    below = every[np.isfinite(widened(every)) & np.isfinite(widened(every + np.uint16(1)))]
    middle = ((below.astype(np.uint32) << 16) + 0x8000).view(np.float32)
    assert np.array_equal(cast(middle, "F32", "BF16"), below + (below & 1))
    assert np.array_equal(cast((middle.view(np.uint32) + 1).view(np.float32), "F32", "BF16"), below + 1)


@pytest.mark.parametrize("found, wanted, array", [
    ("F32", "F16", np.float32([65504, -1e-8, np.inf, np.nan, 1.0005])), ("F16", "F32", np.float16([1.5, -np.inf, 6e-8])),
    ("F64", "F32", np.array([0.1, 1e-50])), ("F32", "F32", np.float32([1.1]))])
def test_other_precisions_are_numpys(found, wanted, array):
    expected = array.astype({"F16": np.float16, "F32": np.float32}[wanted])
    assert np.array_equal(bits(cast(array, found, wanted)), bits(expected))


@pytest.mark.parametrize("found, wanted, value", [
    ("F32", "F16", np.float32(1e5)), ("F64", "F32", np.float64(1e39)), ("F64", "BF16", np.float64(1e39)),
    ("F32", "BF16", np.float32(3.4e38)), ("BF16", "F16", np.uint16(0x7F00))])
def test_a_number_never_becomes_infinite(found, wanted, value):
    with pytest.raises(OverflowError):
        cast(np.array([0, value], value.dtype), found, wanted)


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


# --- failures --------------------------------------------------------------------------------------------------

def test_progress_counts_the_tensors(tmp_path):
    told = []
    write_safetensors(tmp_path / "x", Arrays("x", TENSORS), progress=told.append)
    write_ckpt(tmp_path / "y", Arrays("x", TENSORS), progress=told.append)
    assert sum(told) == 2 * stored_bytes(Arrays("x", TENSORS))


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), CheckpointError("x")])
def test_what_fails_vanishes(folder, error, tmp_path):
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError):
        with atomic(tmp_path / "x") as temporary:
            if folder:
                temporary.mkdir()
            (temporary / "a" if folder else temporary).write_bytes(b"half")
            raise error
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Of this host: what another one's processes write into a shared folder is theirs."""
    gone, running = (tmp_path / f".x[1].safetensors.{HOST}.{pid}.tmp" for pid in (4194305, os.getppid()))
    elsewhere = tmp_path / ".x[1].safetensors.another.4194305.tmp"
    elsewhere.write_bytes(b"half")
    gone.write_bytes(b"half")
    running.write_bytes(b"half")
    save_safetensors(tmp_path / "x[1].safetensors", {"a": TENSORS["w"]})
    assert sorted(os.listdir(tmp_path)) == sorted([running.name, elsewhere.name, "x[1].safetensors"])


def test_a_view_is_made_when_it_is_read():
    store = Arrays("x", {"a": TENSORS["w"], "b": TENSORS["half"]})
    view = View("y", "arrays", {"c": passthrough(store, "a"), "d": passthrough(store, "b", "renamed")})
    over = View("z", "arrays", {"e": passthrough(view, "d", "again")})
    assert over.origin("e") == (["b"], "renamed; again") and view.origin("c") == (["a"], "")
    assert np.array_equal(over.read("e"), TENSORS["half"]) and not over.holds(over.read("e"))
