"""Files of both formats as they are mapped: damaged, misaligned, absent, written into."""
import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support.tensor_files import error_of, f32, raw, saved, tensors

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError

RANDOM = np.random.RandomState(0)


def test_writing_into_a_view_leaves_the_file_alone(tmp_path):
    path = saved(tmp_path)
    before = path.read_bytes()
    open_checkpoint(path).read("first.weight")[:] = 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_damage_is_an_error_or_harmless(suffix, tmp_path):
    """Bytes changed or cut off at random: the file is refused in one line, or its tensors keep to their sizes."""
    path = tmp_path / f"net.{suffix}"
    if suffix == "ckpt":
        ms.save_checkpoint([{"name": key, "data": Tensor(value)} for key, value in tensors().items()], str(path))
    else:
        save_safetensors(path, tensors())
    good, random = path.read_bytes(), np.random.RandomState(1)
    broken = tmp_path / f"broken.{suffix}"
    refused = 0
    for _ in range(400):
        content = bytearray(good)
        for at in random.randint(0, len(good), 3):
            content[at] = random.randint(256)
        broken.write_bytes(bytes(content[:random.randint(1, len(good) + 1) if random.rand() < 0.3 else None]))
        try:
            ours = open_checkpoint(broken)
            assert all(ours.read(key).shape == ours.shape(key) for key in ours)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_what_is_no_file(tmp_path):
    assert "cannot be read (No such file or directory)" in error_of(open_checkpoint, tmp_path / "none.safetensors")
    assert "found a folder" in error_of(open_checkpoint, tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    said = error_of(open_checkpoint, tmp_path)
    assert "found a diffusers folder, expected one file; make one of it: tools/convert.py" in said


def test_a_misaligned_file_is_copied_and_its_pages_given_back(tmp_path):
    large = RANDOM.randn(100, 100).astype(np.float32)
    header = json.dumps({"a": f32([100, 100], 0, 40_000), "b": f32([100, 100], 40_000, 80_000)}).encode()
    header += b" " * ((1 - len(header)) % 4)
    (tmp_path / "x.safetensors").write_bytes(raw(header, large.tobytes() * 2))
    ours = open_checkpoint(tmp_path / "x.safetensors")
    array = ours.read("a")
    assert array.flags.aligned and not ours.holds(array)
    ours.release("a")
    assert np.array_equal(array, large) and np.array_equal(ours.read("a"), large)
    assert np.array_equal(ours.read("b"), large)
