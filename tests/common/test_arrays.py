"""Numpy files that are not what they should be."""
import numpy as np
import pytest

from sgm.common.arrays import read_npy
from sgm.common.errors import InputError

GOOD = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("mode", [None, "r", "r+"])
def test_reading(mode, tmp_path):
    np.save(tmp_path / "a.npy", GOOD)
    assert np.array_equal(read_npy(tmp_path / "a.npy", mode, np.float32, (2, 3)), GOOD)
    np.save(tmp_path / "scalar.npy", np.float64(3))
    assert read_npy(tmp_path / "scalar.npy", mode)[()] == 3
    with pytest.raises(FileNotFoundError):
        read_npy(tmp_path / "none.npy", mode)


@pytest.mark.parametrize("content, said", [
    (lambda good: b"", "cannot be read as an array"), (lambda good: good[:-1], "cannot be read as an array"),
    (lambda good: good + b"\0", "expected 152"), (lambda good: good.replace(b"<f4", b">f4"), "found >f4 of shape (2, 3), expected"),
    (lambda good: good.replace(b"<f4", b"<i4"), "found int32"), (lambda good: good.replace(b"<f4", b"|O4"), "cannot be read"),
    (lambda good: good.replace(b"(2, 3)", b"(3, 2)"), "found float32 of shape (3, 2), expected float32 of shape (2, 3)"),
    (lambda good: good.replace(b"(2, 3)", b"(" * 6), "cannot be read as an array"),
    (lambda good: b"PK\3\4" + good[4:], "cannot be read as an array"), (lambda good: good[:8] + b"\x72" + good[9:], "bytes, expected")])
@pytest.mark.parametrize("mode", [None, "r"])
def test_damage(content, said, mode, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, GOOD)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(InputError) as refusal:
        read_npy(path, mode, np.float32, (2, 3))
    assert str(refusal.value).startswith(f"{path}: ") and (said in str(refusal.value) or "cannot be read" in str(refusal.value))
