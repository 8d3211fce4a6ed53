"""Weights of torch.save: a file that PyTorch 2.13 wrote, and hostile ones, none of which runs or crashes anything."""
import io
import pickle
import shutil
import warnings
import zipfile

import numpy as np
import pytest
from support.badfiles import Payload, torch_zip
from support.paths import GOLDEN
from support.torch_pickles import dict_of, number, numbers, storage, tensor, text

from sgm.checkpoints import mapped_file
from sgm.checkpoints.foreign import pytorch_zip
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import write_safetensors
from sgm.checkpoints.store import CheckpointError

FILE = GOLDEN / "lrm" / "torch_save.pt"
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
GOOD = tensor(storage(0, count=6), (2, 3), (3, 1))


def test_a_file_of_pytorch():
    """Every type, shared storages, views that are turned, cut or repeated, modules, parameters, lists; no numbers and texts."""
    store = open_checkpoint(FILE)
    found = {key: store.read(key) for key in store}
    expected = {"views.base": BASE, "views.turned": BASE.T, "views.part": BASE[1:3, 2:5], "views.same": BASE,
                "views.column": BASE[:, 1], "views.wide": np.tile(BASE[:1], (3, 1)), "kinds.half": BASE.astype(np.float16),
                "kinds.bf16": BASE, "kinds.double": BASE.astype(np.float64), "kinds.long": BASE.astype(np.int64),
                "kinds.bool": BASE > 3, "kinds.scalar": np.float32(2.5), "kinds.none": np.zeros((0, 3), np.float32),
                "parameter": BASE + 1, "list.0": BASE, "list.1": BASE + 2,
                "model_state_dict.0.weight": np.float32([[0, 1], [2, 3], [4, 5]]),
                "model_state_dict.0.bias": np.float32([10, 11, 12]), "model_state_dict.1.weight": np.float32([20, 21, 22]),
                "model_state_dict.1.bias": np.float32([30, 31, 32]), "model_state_dict.1.running_mean": np.zeros(3, np.float32),
                "model_state_dict.1.running_var": np.ones(3, np.float32), "model_state_dict.1.num_batches_tracked": np.int64(0)}
    assert list(found) == list(expected)[16:] + list(expected)[:16]
    for key, array in expected.items():
        assert found[key].dtype == array.dtype and found[key].shape == array.shape and np.array_equal(found[key], array), key
    assert store.dtype("kinds.bf16") == "BF16" and store.format == "pytorch"
    assert store.holds(store.raw("views.part")) is False and store.holds(store.raw("views.same"))


def test_told_by_content_and_written_again(tmp_path):
    """The ending does not matter; views are written whole."""
    shutil.copy(FILE, tmp_path / "a.safetensors")
    store = open_checkpoint(tmp_path / "a.safetensors")
    write_safetensors(tmp_path / "b.safetensors", store)
    again = open_checkpoint(tmp_path / "b.safetensors")
    assert again.format == "safetensors" and all(np.array_equal(again.read(key), store.read(key)) for key in store)


def shares(levels):
    """A list that holds a list twice, which holds a list twice, ...: 2^levels values in few bytes."""
    return b"]q\x00" + b"".join(b"]q" + bytes([i + 1]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(levels))


ITSELF = b"}q\x00" + text("a") + b"h\x00s"
HOSTILE = {
    "runs a command": (b"cos\nsystem\n(" + text("touch touched") + b"tR", "holds a os.system"),
    "runs by another opcode": (b"(" + text("touch touched") + b"ios\nsystem\n", "holds the opcode INST"),
    "makes an object": (b"ccollections\nOrderedDict\n)\x81", "holds the opcode NEWOBJ"),
    "an extension": (b"\x82\x01", "holds the opcode EXT1"),
    "calls a text": (text("os.system") + text("x") + b"\x85R", "calls what is no function"),
    "calls a storage": (b"ctorch\nFloatStorage\n)R", "is damaged"),
    "state of a list": (b"]" + b"}b", "builds an object of another class"),
    "no storage": (tensor(storage(0, what="file"), (1,), (1,)), "refers to something other than a storage"),
    "a storage of a text": (tensor(b"(" + text("storage") * 4 + number(1) + b"tQ", (1,), (1,)), "refers to something other"),
    "a tensor of numbers": (tensor(numbers((1, 2)), (1,), (1,)), "makes a tensor of something other than a storage"),
    "negated": (tensor(storage(0, count=6), (6,), (1,), more=dict_of({"neg": b"\x88"})), "marked as negated"),
    "another storage": (tensor(storage(0, "ComplexFloat"), (1,), (1,)), "holds a torch.ComplexFloatStorage"),
    "aliases": (shares(30), "holds more than 1048576 values"),
    "itself": (ITSELF, "or 32 levels"),
    "key of a number": (b"}" + b"G\0\0\0\0\0\0\0\0" + GOOD + b"s", "holds a key of type float"),
    "one key twice": (dict_of({"a.b": GOOD, "a": dict_of({"b": GOOD})}), "holds a.b twice"),
    "cut off": (b"X\xff\xff\xff\x7fabc", "is damaged"),
    "nothing on the stack": (b"s", "is damaged"),
    "no end": (b"}", "is damaged"),
}
MISPLACED = {
    "beyond": (tensor(storage(0, count=600), (100,), (1,)), "x: found its end at byte 400 of its storage, expected at most 24"),
    "offset": (tensor(storage(0, count=6), (2,), (1,), offset=5), "found its end at byte 28 of its storage"),
    "steps": (tensor(storage(0, count=6), (2, 3), (9, 1)), "found its end at byte 48"),
    "negative step": (tensor(storage(0, count=6), (2,), (-1,)), "expected natural numbers"),
    "negative size": (tensor(storage(0, count=6), (-2,), (1,)), "expected natural numbers"),
    "negative offset": (tensor(storage(0, count=6), (2,), (1,), offset=-3), "expected natural numbers"),
    "too large": (tensor(storage(0), (2 ** 40, 2 ** 40), (0, 0)), "expected at most 32 sizes"),
    "no steps": (tensor(storage(0), (2, 3), (1,)), "expected at most 32 sizes, a step for each"),
    "not there": (tensor(storage(7), (1,), (1,)), "found no data of its storage '7'"),
}


@pytest.mark.parametrize("name", [*HOSTILE, *MISPLACED])
def test_hostile_pickles(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, said = {**HOSTILE, **MISPLACED}[name]
    index = dict_of({"x": content}) if name in MISPLACED else content
    end = b"" if name in ("no end", "cut off") else b"."
    path = tmp_path / "x.ckpt"
    path.write_bytes(torch_zip(b"\x80\x02" + index + end, [bytes(24)]))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    assert said in str(error.value) and str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pythons_own_payloads(protocol, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(torch_zip(pickle.dumps({"a": Payload(tmp_path / "touched")}, protocol)))
    with pytest.raises(CheckpointError, match="which is not read: expected dicts of tensors"):
        open_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]


def zipped(*records, kind=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")     # of two records of one name
        for name, content in records:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("content, said", [
    (b"PK\x03\x04", "found a zip file that cannot be read"),
    (torch_zip(b"\x80\x02}.")[:-30], "found a zip file that cannot be read"),
    (zipped(("a.txt", "x")), "found a zip file with 0 data.pkl in it, expected one"),
    (zipped(("a/data.pkl", b"\x80\x02}."), ("b/data.pkl", b"\x80\x02}.")), "with 2 data.pkl in it"),
    (zipped(("a/data.pkl", b"\x80\x02}."), ("a/data.pkl", b"\x80\x02}.")), "with a/data.pkl twice"),
    (zipped(("a/data.pkl", bytes(999)), kind=zipfile.ZIP_DEFLATED), "a/data.pkl compressed or encrypted"),
    (torch_zip(b"\x80\x02}.", byteorder=b"big"), "found byte order b'big', expected little"),
    (torch_zip(b"\x80\x02" + GOOD + b".", [bytes(24)]), "its pickle holds a single tensor")])
def test_zip_files_that_are_no_weights(content, said, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_no_change_of_a_byte_crashes(tmp_path):
    """Whatever a byte of the index becomes, the file is refused in a line, or every tensor is read within it."""
    content, path = FILE.read_bytes(), tmp_path / "x.pt"
    random = np.random.RandomState(0)
    opened = 0
    for place in random.randint(0, len(content), 400):
        path.write_bytes(content[:place] + bytes([random.randint(256)]) + content[place + 1:])
        try:
            store = open_checkpoint(path)
            opened += sum(store.read(key).size < 1 << 20 for key in store) > 0
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
    assert opened > 50


def test_large_index_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(pytorch_zip, "MAX_PICKLE", 10)
    with pytest.raises(CheckpointError, match="data.pkl: found .* bytes, expected at most 10"):
        mapped_file.open_checkpoint(FILE)
