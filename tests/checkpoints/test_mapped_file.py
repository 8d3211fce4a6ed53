"""Weights: files of both formats, hostile files, what is loaded, what is refused and how."""
import errno
import json
import os

os.environ.setdefault("GLOG_v", "3")

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer
from safetensors.numpy import load_file, save_file
from support.goldens import build_checkpoint
from support.paths import GOLDEN

from sgm.checkpoints.dtypes import Entry
from sgm.checkpoints.identify import Fingerprint, adapt_spec, fingerprint_of
from sgm.checkpoints.loading import file_hash, load_weights
from sgm.checkpoints.mapped_file import Checkpoint, open_checkpoint
from sgm.checkpoints.original_keys import is_unused
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.common.errors import InputError
from sgm.config.model_files import load_spec

MANIFESTS = GOLDEN / "manifests"
RELEASED = ["svd", "svd_xt", "sv3d_u", "sv3d_p", "svd_image_decoder"]
RANDOM = np.random.RandomState(0)
WEIGHT, BIAS = RANDOM.randn(4, 3).astype(np.float32), RANDOM.randn(4).astype(np.float32)


class Layer(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(initializer("zeros", (4, 3), ms.float32))
        self.bias = Parameter(initializer("zeros", (4,), ms.float32))

    def construct(self, x):
        return ms.ops.matmul(x, self.weight.T) + self.bias


class Net(nn.Cell):
    """Two layers; parameters first.weight, first.bias, second.weight, second.bias."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Layer(), Layer()
        for name, parameter in self.parameters_and_names():
            parameter.name = name


def tensors(**changes):
    """The arrays of a Net; None leaves one out, dots are written __."""
    arrays = {"first.weight": WEIGHT, "first.bias": BIAS, "second.weight": WEIGHT * 2, "second.bias": BIAS * 2}
    arrays.update({key.replace("__", "."): value for key, value in changes.items()})
    return {key: value for key, value in arrays.items() if value is not None}


def saved(folder, arrays=None, name="net.safetensors", **kwargs):
    path = folder / name
    save_safetensors(path, tensors() if arrays is None else arrays, **kwargs)
    return path


def error_of(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:       # a CheckpointError, or that of a file that cannot be written
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values(net):
    return {key: parameter.asnumpy() for key, parameter in net.parameters_dict().items()}


# --- round trips -----------------------------------------------------------------------------------------------

ODD = {"m": WEIGHT, "scalar": np.array(2.5, np.float32), "half": BIAS.astype(np.float16), "é ü": WEIGHT.astype(float),
       "none": np.zeros((2, 0, 3), np.float32), "int": np.arange(5), "bool": np.array([True, False, True]),
       "turned": WEIGHT.T, "big": np.arange(3, dtype=">i4")}


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


def test_writing_into_a_view_leaves_the_file_alone(tmp_path):
    path = saved(tmp_path)
    before = path.read_bytes()
    open_checkpoint(path).read("first.weight")[:] = 0
    assert path.read_bytes() == before


# --- hostile files ---------------------------------------------------------------------------------------------

def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def f32(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


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


@pytest.mark.parametrize("content, expected", [
    (b"PK\x03\x04rest of a zip", "found a pickle"), (b"\x80\x02}q\x00.", "found a pickle"),
    (b"GIF89a and so on", "found neither safetensors nor a MindSpore .ckpt"),
    (b"\n\x05hello", "found no MindSpore checkpoint"),
    (b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "found no MindSpore checkpoint"),
    (b"\n\x0b\n\x01a\x12\x06\x08\x04\x12\x02XX", "a: found element type 'XX'"),
    (b"\n\x10\n\x01a\x12\x0b\x08\x04\x12\x07Float32", "a: found 0 bytes, expected 16 for F32 [4]")])
def test_hostile_ckpt(content, expected, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    assert expected in error_of(open_checkpoint, path)


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


# --- into a network --------------------------------------------------------------------------------------------

def test_float32_weights_stay_in_the_file(tmp_path):
    net, ours = Net(), open_checkpoint(saved(tmp_path))
    report = load_weights(net, ours)
    assert (report.loaded, report.nbytes, report.unused, dict(report.converted)) == (4, 128, [], {})
    for key, array in values(net).items():
        assert np.array_equal(array, tensors()[key])
        assert np.shares_memory(array, ours.read(key)) and ours.holds(array)
    x = RANDOM.randn(2, 3).astype(np.float32)
    assert np.allclose(ms.jit(net.first.construct)(Tensor(x)).asnumpy(), x @ WEIGHT.T + BIAS, atol=1e-6)


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


@pytest.mark.parametrize("stored, wanted", [("f2", None), ("bf16", None), ("f4", ms.float16), ("bf16", ms.float16),
                                            ("f8", None), ("f2", ms.float16), ("f4", ms.bfloat16)])
def test_other_precisions(stored, wanted, tmp_path):
    def cast(array):
        return Tensor(array).astype(ms.bfloat16).asnumpy() if stored == "bf16" else array.astype(stored)

    net = Net()
    report = load_weights(net, saved(tmp_path, {key: cast(value) for key, value in tensors().items()}), wanted)
    assert {parameter.dtype for parameter in net.parameters_dict().values()} == {wanted or ms.float32}
    assert sum(report.converted.values()) == (0 if stored == "f2" and wanted else 4)
    for key, parameter in net.parameters_dict().items():
        found = parameter.astype(ms.float32).asnumpy()
        assert np.allclose(found, tensors()[key], rtol=1e-2 if "b" in stored or wanted == ms.bfloat16 else 1e-3)
    assert ("4 converted from" in str(report)) == bool(report.converted)


def test_ckpt_weights(tmp_path):
    path, net = tmp_path / "net.ckpt", Net()
    ms.save_checkpoint([{"name": key, "data": Tensor(value)} for key, value in tensors().items()], str(path))
    assert str(load_weights(net, path)) == f"{path}: 4 tensors, 0.00 GB"
    assert all(np.array_equal(array, tensors()[key]) for key, array in values(net).items())


def test_a_part_of_a_model(tmp_path):
    net = Net()
    load_weights(net.second, saved(tmp_path), prefix="second.")
    assert np.array_equal(net.second.bias.asnumpy(), BIAS * 2) and not net.first.weight.asnumpy().any()
    assert "2 left over: first.weight, first.bias" in error_of(load_weights, net.second, saved(tmp_path))


@pytest.mark.parametrize("changes, expected", [
    (dict(first__bias=None), ["1 keys missing: first.bias"]),
    (dict(first__weight=WEIGHT.T), ["1 misshapen: first.weight (found (3, 4), expected (4, 3))"]),
    (dict(first__bias=np.arange(4)), ["1 misshapen: first.bias (found I64, expected a floating type)"]),
    (dict(third__bias=BIAS), ["1 left over: third.bias"]),
    (dict(first__weight=None, second__bias=BIAS[:2], third=BIAS),
     ["1 keys missing: first.weight; 1 misshapen: second.bias (found (2,), expected (4,)); 1 left over: third"]),
    ({f"more__{i}": BIAS for i in range(20)}, ["20 left over: more.0, more.1, ", "more.7, ...; "]),
])
def test_what_does_not_fit_is_named_and_nothing_is_changed(changes, expected, tmp_path):
    net, path = Net(), saved(tmp_path, tensors(**changes))
    message = error_of(load_weights, net, path)
    assert message.startswith(f"{path}: does not fit the model: ") and all(part in message for part in expected)
    assert not any(array.any() for array in values(net).values())


def test_values_beyond_half_precision(tmp_path):
    path = saved(tmp_path, tensors(first__bias=BIAS + 1e6))
    assert "first.bias: found values beyond the range of float16" in error_of(load_weights, Net(), path, ms.float16)


def test_unused_keys_are_passed_over(tmp_path):
    unused = ["conditioner.embedders.0.open_clip.model.logit_scale", "first_stage_model.encoder.conv_in.weight",
              "conditioner.embedders.3.encoder.decoder.conv_in.bias"]
    report = load_weights(Net(), saved(tmp_path, {**tensors(), **{key: BIAS for key in unused}}))
    assert sorted(report.unused) == sorted(unused) and "3 unused keys passed over" in str(report)


# --- which model it is -----------------------------------------------------------------------------------------

def published(name, **changes):
    """An open checkpoint with the published keys and shapes, without data."""
    shapes = {**json.loads((MANIFESTS / f"{name}.json").read_text()), **changes}
    return Checkpoint(f"{name}.safetensors", "safetensors",
                      {key: Entry("F32", tuple(shape), ()) for key, shape in shapes.items()}, {}, b"")


@pytest.mark.parametrize("name, fingerprint", list(zip(RELEASED, [
    Fingerprint("temporal", False, 768, 3, 320), Fingerprint("temporal", False, 768, 3, 320),
    Fingerprint("image", False, 256, 1, 320), Fingerprint("image", False, 1280, 1, 320),
    Fingerprint("image", True, 768, 3, 320)])))
def test_published_fingerprints(name, fingerprint):
    checkpoint = published(name)
    assert fingerprint_of(checkpoint) == fingerprint
    config = "svd" if name == "svd_image_decoder" else name
    spec = adapt_spec(load_spec(config), checkpoint)
    assert (spec.vae.decoder, spec.vae.post_quant_conv) == fingerprint[:2]
    assert config != name or spec == load_spec(name)
    # the conditioner's decoder and post_quant_conv, six text remnants, and a first-stage encoder where there is one
    encoder = 106 * (not name.startswith("sv3d"))
    assert sum(map(is_unused, checkpoint)) == 138 + 2 + 6 + encoder + 2 * fingerprint.post_quant_conv


@pytest.mark.parametrize("config, name, expected", [
    ("sv3d_p", "sv3d_u", "found 256 columns, expected 1280 for sv3d_p; it looks like sv3d_u: pass --config sv3d_u"),
    ("sv3d_u", "sv3d_p", "found 1280 columns, expected 256 for sv3d_u; it looks like sv3d_p: pass --config sv3d_p"),
    ("sv3d_u", "svd_xt", "it looks like svd or svd_xt: pass --config svd")])
def test_another_model_is_named(config, name, expected):
    message = error_of(adapt_spec, load_spec(config), published(name))
    assert message.startswith(f"{name}.safetensors: ") and expected in message


def test_another_width_and_no_model_of_ours(tmp_path):
    path = saved(tmp_path, build_checkpoint("sv3d_u"))
    assert "found 32 channels, expected 320 for sv3d_u; it looks like sv3d_u of other widths" in error_of(
        adapt_spec, load_spec("sv3d_u"), open_checkpoint(path))
    unknown = published("sv3d_u", **{"model.diffusion_model.label_emb.0.0.weight": [1280, 99]})
    assert "found 99 columns, expected 256 for sv3d_u; it is another model" in error_of(
        adapt_spec, load_spec("sv3d_u"), unknown)
    other = open_checkpoint(saved(tmp_path, {"a": BIAS}, "other.safetensors"))
    assert adapt_spec(load_spec("sv3d_u"), other) == load_spec("sv3d_u")
    part = open_checkpoint(saved(tmp_path, {"down_blocks.0.resnets.0.conv1.weight": BIAS}, "part.safetensors"))
    assert "found the names of a part of a diffusers folder" in error_of(adapt_spec, load_spec("sv3d_u"), part)


# --- writing ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_write_leaves_the_earlier_file(name, tmp_path, monkeypatch):
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, name, full)
    message = error_of(saved, tmp_path, tensors(first__bias=None))
    assert "cannot be written (No space left on device, 0.0 MB needed)" in message and "free space" in message
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_what_cannot_be_written(tmp_path):
    assert "w: found element type complex64" in error_of(saved, tmp_path, {"w": WEIGHT + 0j})
    assert "cannot be written" in error_of(save_safetensors, tmp_path / "none" / "x.safetensors", tensors())
    assert os.listdir(tmp_path) == []


def test_file_hash(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_hash(path) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(bytes(3 << 20))
    before = file_hash(path, whole=1 << 20, blocks=3)
    path.write_bytes(bytes((3 << 20) - 1) + b"\1")
    assert before.startswith("sha256-size-3MiB:") and file_hash(path, whole=1 << 20, blocks=3) != before
    assert "cannot be read" in error_of(file_hash, tmp_path / "none")
