"""Weights into a network: what is loaded, what is refused and how."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer
from support.tensor_files import BIAS, WEIGHT, error_of, saved, tensors

from sgm.checkpoints.loading import file_hash, load_weights
from sgm.checkpoints.mapped_file import open_checkpoint

RANDOM = np.random.RandomState(0)


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


def values(net):
    return {key: parameter.asnumpy() for key, parameter in net.parameters_dict().items()}


def test_float32_weights_stay_in_the_file(tmp_path):
    net, ours = Net(), open_checkpoint(saved(tmp_path))
    report = load_weights(net, ours)
    assert (report.loaded, report.nbytes, report.unused, dict(report.converted)) == (4, 128, [], {})
    for key, array in values(net).items():
        assert np.array_equal(array, tensors()[key])
        assert np.shares_memory(array, ours.read(key)) and ours.holds(array)
    x = RANDOM.randn(2, 3).astype(np.float32)
    assert np.allclose(ms.jit(net.first.construct)(Tensor(x)).asnumpy(), x @ WEIGHT.T + BIAS, atol=1e-6)


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


def test_file_hash(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_hash(path) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(bytes(3 << 20))
    before = file_hash(path, whole=1 << 20, blocks=3)
    path.write_bytes(bytes((3 << 20) - 1) + b"\1")
    assert before.startswith("sha256-size-3MiB:") and file_hash(path, whole=1 << 20, blocks=3) != before
    assert "cannot be read" in error_of(file_hash, tmp_path / "none")
