"""MindSpore's .ckpt files: what it writes and we read, what we write and it reads, hostile files."""
import filecmp

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file
from support.tensor_files import BIAS, TENSORS, error_of, tensors

from sgm.checkpoints import mindspore_format, store
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import write_ckpt
from sgm.checkpoints.safetensors_format import Arrays, write_safetensors
from sgm.checkpoints.store import CheckpointError

RANDOM = np.random.RandomState(0)


def test_mindspore_ckpt_round_trip(tmp_path):
    path = tmp_path / "net.ckpt"
    named = {**tensors(), "half": BIAS.astype(np.float16), "scalar": np.array(7)}
    ms.save_checkpoint([{"name": key, "data": Tensor(value)} for key, value in named.items()], str(path),
                       append_dict={"note": "hello"}, crc_check=True)
    ours = open_checkpoint(path)
    assert ours.format == "ckpt" and set(ours) == set(named) and ours.metadata == {"note": "hello"}
    for key, array in named.items():
        assert np.array_equal(ours.read(key), array) and ours.shape(key) == array.shape and ours.read(key).flags.aligned


def test_large_ckpt_tensors_come_in_pieces(tmp_path, monkeypatch):
    from mindspore.train import serialization
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # KiB
    path, large = tmp_path / "net.ckpt", RANDOM.randn(40, 20).astype(np.float32)
    ms.save_checkpoint([{"name": "w", "data": Tensor(large)}, {"name": "b", "data": Tensor(BIAS)}], str(path))
    ours = open_checkpoint(path)
    assert path.read_bytes().count(b"\n\x01w") == 4
    assert np.array_equal(ours.read("w"), large) and np.array_equal(ours.read("b"), BIAS)


@pytest.mark.parametrize("content, expected", [
    (b"PK\x03\x04rest of a zip", "found a zip file that cannot be read"), (b"\x80\x02}q\x00.", "found a pickle"),
    (b"GIF89a and so on", "found neither safetensors nor a MindSpore .ckpt"),
    (b"\n\x05hello", "found no MindSpore checkpoint"),
    (b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "found no MindSpore checkpoint"),
    (b"\n\x0b\n\x01a\x12\x06\x08\x04\x12\x02XX", "a: found element type 'XX'"),
    (b"\n\x10\n\x01a\x12\x0b\x08\x04\x12\x07Float32", "a: found 0 bytes, expected 16 for F32 [4]")])
def test_hostile_ckpt(content, expected, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    assert expected in error_of(open_checkpoint, path)


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
