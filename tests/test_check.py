"""tools/check.py and `sgm.audit`: what a machine has, operators and networks against goldens, graphs in their Ascend form."""
import ast
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore import ops as ms_ops
from mindspore.ops import operations as P
from mindspore.ops.operations.nn_ops import FlashAttentionScore

import golden_operators
from sgm import engine as engine_module
from sgm import ops
from sgm.audit import cases, machine, networks, reference, rules
from sgm.audit.cost import cost
from sgm.audit.graph import Graph, Node, Type, trace
from sgm.engine import Engine
from sgm.ops import attend, convolution
from sgm.specs import ClipSpec, ConditionSpec, ModelSpec, UNetSpec, VaeSpec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import check  # noqa: E402

# Two levels, attention on both; 256 tokens, so that half precision takes flash attention.
SMALL = ModelSpec(
    name="small", num_frames=2, height=32, width=32,
    unet=UNetSpec(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[1],
                  num_head_channels=16, context_dim=32),
    vae=VaeSpec(ch=32, ch_mult=[1, 2], num_res_blocks=1),
    clip=ClipSpec(image_size=28, width=32, layers=1, head_width=16, embed_dim=32), condition=ConditionSpec(scalar_dim=32))


@pytest.fixture(autouse=True)
def target():
    """Whatever a test selects, the next one finds the CPU's forms."""
    yield
    ops.set_target("CPU")


# --- the machine ------------------------------------------------------------------------------------------------

NPU_SMI = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 93.8        49                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3161 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | Warning       | 93.8        49                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3161 / 65536         |
"""


def test_a_machine_without_an_npu():
    found = machine.versions()
    assert found["mindspore"] == ms.__version__ and found["numpy"] == np.__version__
    assert (found["cann"], found["driver"], found["chips"], found["generation"]) == (None, None, [], None)


def test_a_machine_with_one(tmp_path, monkeypatch):
    """CANN's version where ASCEND_HOME_PATH points, else below /usr/local/Ascend; the driver's always there."""
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "version.info").write_text("package_version=\nVersion=24.1.rc2\nascendhal_version=7.35\n")
    usual = tmp_path / "ascend-toolkit" / "latest"
    usual.mkdir(parents=True)
    (usual / "version.cfg").write_text("# version: 1.0\nruntime_running_version=[7.3.0.1.231:8.0.RC3]\n")
    monkeypatch.setattr(machine, "ASCEND", tmp_path)
    monkeypatch.setattr(machine, "_npu_smi", lambda: NPU_SMI)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    found = machine.versions()
    assert (found["cann"], found["driver"], found["firmware"]) == ("8.0.RC3", "24.1.rc2", None)
    assert (found["chips"], found["generation"]) == (["910B3", "910B3"], "A2")
    own = tmp_path / "own"
    (own / "compiler").mkdir(parents=True)
    (own / "compiler" / "version.info").write_text("Version=8.2.RC1\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(own))
    assert machine.versions()["cann"] == "8.2.RC1"


def test_generations():
    chips = {"910B1": "A2", "910B2C": "A2", "910B4-1": "A2", "910_9392": "A2", "910A": "910A", "910B": "910A",
             "910ProB": "910A", "910PremiumA": "910A", "310P3": "310P"}
    assert {chip: machine.generation(chip) for chip in chips} == chips


@pytest.mark.parametrize("changed, device, said", [
    ({}, "CPU", []),
    ({"mindspore": "2.9.0"}, "CPU", ["about 100 times slower on a CPU"]),
    ({"mindspore": "2.9.0"}, "Ascend", []),
    ({"mindspore": "2.10.0rc1"}, "CPU", ["about 100 times slower on a CPU"]),
    ({"mindspore": "2.5.0"}, "Ascend", ["2.5.0 is too old"]),
    ({"numpy": "2.1.3"}, "CPU", ["built for numpy 1"]),
    ({"chips": ["910A"], "generation": "910A"}, "Ascend", ["a 910A: it has no bfloat16"]),
    ({"chips": ["310P3"], "generation": "310P"}, "Ascend", ["a 310P3: it is for inference"]),
    ({"chips": ["910B3"], "generation": "A2"}, "CPU", ["--device Ascend checks them"]),
    ({"cann": "8.0.RC3"}, "Ascend", ["made for CANN 8.2, 8.3, 8.5; found 8.0.RC3"]),
    ({"cann": "8.2.RC1"}, "Ascend", []),
])
def test_warnings(changed, device, said, monkeypatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", "/somewhere")
    found = {"mindspore": "2.8.0", "numpy": "1.26.4", "cann": None, "chips": [], "generation": None, **changed}
    warnings = list(machine.warnings(found, device))
    assert len(warnings) == len(said) and all(text in warning for text, warning in zip(said, warnings))


# --- operators and networks against goldens ---------------------------------------------------------------------

def test_the_goldens_are_what_numpy_makes():
    with np.load(golden_operators.FILE) as file:
        stored = dict(file)
    made = golden_operators.compute()
    assert set(stored) == set(made) and set(golden_operators.FORMS) == set(cases.OPERATORS)
    for key, array in made.items():
        np.testing.assert_allclose(stored[key], array, rtol=1e-5, atol=1e-6, err_msg=key)
    with_gradients = {key.partition("/cotangent")[0] for key in stored if key.endswith("/cotangent")}
    assert with_gradients == {name for name, operator in cases.OPERATORS.items() if operator.trained}


def test_every_operator_is_tried():
    """Whatever `sgm.ops` offers networks has a case."""
    tree = ast.parse((ROOT / "sgm" / "audit" / "cases.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and
            isinstance(node.value, ast.Name) and node.value.id == "ops"}
    order = {"in_slices", "not_before"}     # of other operators
    around = {"TARGETS", "compiled", "fetch", "on_ascend", "release", "set_device", "set_jit", "set_target", "settle",
              "target"}
    assert set(ops.__all__) - around - order <= used


class Straight(nn.Cell):
    """SiLU with the gradient of the identity."""

    def construct(self, x):
        return ops.silu(x)

    def bprop(self, x, out, dout):
        return (dout,)


def test_operators_are_judged(monkeypatch, capsys):
    """One that is right, one that is wrong, one whose gradient is, one that is not finite, one that cannot run."""
    def fails(x):
        raise RuntimeError("Unsupported op [X]\nC++ call stack")

    def not_finite(x):
        return x / (x - x)

    made = {"linear": ops.linear, "gelu": ops.silu, "silu": Straight(), "softmax": not_finite, "upsample_nchw": fails}
    monkeypatch.setattr(cases, "OPERATORS", {name: cases.Operator(function) for name, function in made.items()})
    report = check.Report()
    check.check_operators(report, ["float32"])
    failed = report.data["failed"]
    assert [text.partition(":")[0] for text in failed] == [
        "gelu, float32", "gelu, float32, gradient of input 0", "silu, float32, gradient of input 0", "softmax, float32",
        "softmax, float32, gradient of input 0", "upsample_nchw, float32"]
    assert "relative error" in failed[0] and "at most 1e-04 allowed" in failed[0] and "error nan" in failed[3]
    assert "RuntimeError: " in failed[5] and "Unsupported op [X]" in failed[5]
    assert f"FAILED: {failed[0]}" in capsys.readouterr().out
    assert [row["operator"] for row in report.data["operators"]] == list(made)
    assert report.data["operators"][0]["error"] < 1e-6


def test_networks_are_judged(monkeypatch, capsys):
    """CLIP against its golden, and against another."""
    import golden_networks
    from sgm.specs import load_spec

    spec = load_spec(golden_networks.GOLDEN / "tiny_sv3d_p.yaml")
    name, function, arguments, wanted = next(golden_networks.encoders(Engine(spec)))
    assert name == "CLIP"
    monkeypatch.setattr(golden_networks, "networks", lambda dtype: [
        (name, function, arguments, wanted), ("wrong", function, arguments, 1.001 * wanted),
        ("broken", lambda x: x + None, arguments, wanted)])
    report = check.Report()
    check.check_networks(report, "CPU", ["float32", "float16"])
    first, second, third = report.data["networks"]
    assert first["error"] < 2e-5 < second["error"] and len(first["seconds"]) == 2 and "error" not in third
    assert [text.partition(":")[0] for text in report.data["failed"]] == ["wrong, float32", "broken, float32"]


@pytest.fixture
def opencv(monkeypatch):
    """opencv(code, said): what the process that loads OpenCV first shall end with."""
    def ends(code, said):
        process = SimpleNamespace(returncode=code, communicate=lambda: ("", said))
        monkeypatch.setattr(machine, "start_opencv_first", lambda: process)
    ends(0, "")
    return ends


def test_without_the_device(opencv, tmp_path, capsys):
    """The report of a machine that has no NPU says so, and what else is wrong."""
    opencv(1, "ImportError: libgomp.so.1: cannot allocate memory in static TLS block")
    assert check.run(["--device", "Ascend", "--report", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["machine"]["mindspore"] == ms.__version__ and "operators" not in report
    assert len(report["failed"]) == 2
    assert "--device Ascend: ConfigError" in report["failed"][0] and "cannot use it" in report["failed"][0]
    assert "static TLS block, start with LD_PRELOAD" in report["failed"][1]
    said = capsys.readouterr().out
    assert "CANN not found, driver not found" in said and "2 failed" in said


@pytest.mark.parametrize("flags, said", [
    (["--device", "GPU"], "invalid choice: 'GPU'"),
    (["--device-id", "first"], "invalid int value"),
    (["--audit", "sv3d_q"], "sv3d_q: no such file or name"),
    (["--report", "/dev/null/report.json"], "--report /dev/null/report.json: Not a directory"),
])
def test_wrong_usage(flags, said, opencv, capsys):
    try:
        code = check.run(flags)
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert code == 2 and said in captured.err and captured.err.count("\n") == 1


def test_an_interrupt_is_none_of_the_failures(opencv, capsys, monkeypatch):
    """MindSpore turns Ctrl-C inside it into an error of its own."""
    def interrupted(*_):
        raise RuntimeError("KeyboardInterrupt: At: somewhere")

    monkeypatch.setattr(check, "sample", interrupted)
    for name in ("check_operators", "check_networks"):
        monkeypatch.setattr(check, name, lambda *_: None)
    assert check.run([]) == 130
    assert capsys.readouterr().err == "\ncheck.py: interrupted\n"


@pytest.mark.slow
def test_all_of_it(tmp_path, capsys):
    """As a user runs it; under a minute on two quiet cores."""
    assert check.run(["--report", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["failed"] and report["end_to_end"]["stages"]["sample"]["seconds"] > 0
    assert Counter(row["dtype"] for row in report["operators"])["float32"] == len(cases.OPERATORS)
    assert [row["network"] for row in report["networks"]] == [
        "UNet", "CLIP", "VAE encoder", "VAE decoder", "temporal VAE decoder"]
    assert "ready (" in capsys.readouterr().out


# --- the audit --------------------------------------------------------------------------------------------------

class Of(nn.Cell):
    """A function as a Cell."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, *given):
        return self.function(*given)


def graph_of(function, *arguments):
    return trace(lambda: Of(function), [Type(dtype, shape) for dtype, *shape in arguments])


def small_cases(names):
    """The cases of the small model, with either decoder, whose names begin with one of `names`."""
    found = {case.name: case for spec in (SMALL, replace(SMALL, vae=replace(SMALL.vae, decoder="image")))
             for case in networks.cases(spec)}
    return [pytest.param(case, id=name, marks=pytest.mark.slow if "float32" in name else ())
            for name, case in found.items() if name.startswith(names)]


def examined(case):
    row = networks.audit(case)
    assert row["violations"] == {kind: [] for kind in rules.KINDS}
    assert row["flops"] > 0 and row["bytes"] > row["weight_bytes"] > 0
    return row


@pytest.mark.parametrize("case", small_cases(("UNet", "CLIP", "VAE")))
def test_graphs_of_sampling_have_no_violations(case):
    """And cost what the reference does, but for what we compute once instead of for every pixel and step."""
    row = examined(case)
    assert row["exceptions"] == {}
    if row["reference_flops"] is not None and not case.name.startswith("UNet"):
        assert row["flops"] == row["reference_flops"]
    if case.name.startswith("UNet step"):
        assert 0.9 < row["flops"] / row["reference_flops"] < 1
        assert row["host_bytes"] == 4 + 4 * SMALL.num_frames    # the noise level and the guidance of each frame
        half = "float32" not in case.name
        assert row["primitives"].get("FlashAttentionScore", 0) == 3 * half      # where there are 256 tokens
        weights = sum(parameter.size for parameter in Engine(SMALL).model.get_parameters())
        assert (row["weight_bytes"] <= 2 * weights) == half


@pytest.mark.parametrize("case", small_cases("training step, autoencoder"))
def test_training_has_no_violations(case):
    row = examined(case)
    assert {"Conv2DBackpropInput", "Conv2DBackpropFilter", "GroupNormGrad", "SiLUGrad"} <= set(row["exceptions"])
    assert 0.9 < row["flops"] / row["reference_flops"] < 1      # the first layers need no gradient of their input
    assert row["host_bytes"] == 4 * (8 + 3 * 32 ** 2 + 4 * 16 ** 2 + 2)     # rates, image, noise; loss and norm


@pytest.mark.slow
@pytest.mark.parametrize("case", small_cases("training step, UNet"))
def test_training_the_unet_has_no_violations(case):
    assert 0.9 < (row := examined(case))["flops"] / row["reference_flops"] < 1


def test_the_arguments_are_those_of_a_run(golden, tiny_engine, monkeypatch):
    """What the Engine gives its compiled step, and that the noise level is all it uploads for it."""
    g, engine, seen, uploads = golden("sample_sv3d_p"), tiny_engine("sv3d_p"), [], []
    sides = [{key: g[f"in/{side}/{key}"] for key in ("crossattn", "concat", "vector")} for side in ("c", "uc")]

    def record(*given):
        seen.extend(given)
        return given[0]

    monkeypatch.setitem(engine._graphs, ("pair", 5), record)
    denoise = engine.denoiser(*sides, np.ones(5))

    def upload(array):
        uploads.append(array.nbytes)
        return Tensor(array)

    monkeypatch.setattr(engine_module, "Tensor", upload)
    denoise(Tensor(g["trace/x.0"]), 1.0)
    spec = replace(engine.spec, num_frames=5, height=8 * g["trace/x.0"].shape[2], width=8 * g["trace/x.0"].shape[3])
    case = next(networks.denoising(spec, "float32"))
    assert [tuple(tensor.shape) for tensor in seen] == [argument.shape for argument in case.arguments.values()]
    assert uploads == [case.arguments["sigma"].bytes]


def conv(width, height=8):
    """A convolution of a map of that size."""
    weight = Tensor(np.zeros((4, 4, 3, 3), np.float32))

    def function(x):
        return P.Conv2D(4, 3, pad_mode="pad", pad=1)(x, weight)
    return function, ("float32", 1, 4, height, width)


def flash(size, scale=0.25):
    """Flash attention of 2 heads of `size`."""
    def function(q, k, v):
        return FlashAttentionScore(2, scale_value=scale, input_layout="BNSD")(q, k, v)[3]
    return function, *[("float16", 1, 2, 256, size)] * 3


def double(x):
    return x + x


def huge(x):
    return x.broadcast_to((2 ** 11, 2 ** 20)) + 1


def conv3d(x):
    return P.Conv3D(4, 3, pad_mode="pad", pad=1)(x, ms_ops.ones((4, 4, 3, 3, 3), ms.float32))


def norm(x):
    return P.LayerNorm(1, 2)(x, x[0, 0], x[0, 0])[0]


# What is wrong: the kind of the finding, words of its text, a function and its arguments.
WRONG = {
    "a primitive that Ascend lacks": ("unsupported primitives", "BesselJ0(", P.BesselJ0(), ("float32", 4)),
    "one that is not in the table": ("unsupported primitives", "Conv3D(", conv3d, ("float32", 1, 4, 8, 8, 8)),
    "float64": ("dtypes", "float64; int32, int64, float16", double, ("float64", 4)),
    "bfloat16 where a 910B has none": ("dtypes", "bfloat16; float16, float32", ms_ops.erfc, ("bfloat16", 4)),
    "a shape that depends on the data": ("dynamic shapes", "int64[-", P.NonZero(), ("float32", 4)),
    "a convolution too wide": ("shape rules", "input width 4097; at most 4096", *conv(4097)),
    "a convolution too high": ("shape rules", "input height 100001; at most 100000", *conv(2, 100001)),
    "the gradient of a high convolution": ("shape rules", "side of a map 4098; at most 4096", ms.grad(conv(2)[0]),
                                           ("float32", 1, 4, 4098, 2)),
    "heads of a wrong size": ("shape rules", "head size 24; a multiple of 16", *flash(24)),
    "attention without its scale": ("shape rules", "scale 1.0; expected 0.25", *flash(16, scale=1.0)),
    "nine dimensions": ("shape rules", "9 dimensions; at most 8", double, ("float32", *[1] * 9)),
    "2^31 elements": ("shape rules", "2147483648 elements", huge, ("float16", 2 ** 11, 1)),
    "norms of other axes than their gains": ("shape rules", "begin_params_axis differ", norm, ("float32", 2, 3, 4)),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_audit_can_fail(what):
    kind, text, function, *arguments = WRONG[what]
    found = rules.examine(graph_of(function, *arguments))
    assert any(text in line for line in found.violations[kind]), found.violations
    assert not found.empty


def test_what_is_right_passes():
    """The counterparts of what fails."""
    for function, *arguments in (conv(4096), conv(2, 100000), flash(16), (double, ("float32", 4))):
        found = rules.examine(graph_of(function, *arguments))
        assert found.empty, found.violations


def test_a_failed_audit_is_told(monkeypatch, capsys, opencv):
    """By the command: a violation, a graph that cannot be made, and exit code 1."""
    def cases_of(spec):
        yield networks.Case("bessel", lambda: Of(P.BesselJ0()), {"x": Type("float32", (4,))}, host=("x",), fetched=True)
        yield networks.Case("unmakeable", lambda: None, {})

    monkeypatch.setattr(networks, "cases", cases_of)
    assert check.run(["--audit", "sv3d_tiny"]) == 1
    said = capsys.readouterr().out
    assert "FAILED: bessel, unsupported primitives: BesselJ0(float32[4])" in said and "FAILED: sv3d_tiny, unmakeable:" in said
    assert "2 failed" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("  bessel"))
    assert row == ["bessel", "0.0", "0.00", "0.00", "32", "1", "1"]


def test_exceptions_are_those_of_the_table():
    """A primitive without a page of its own counts as an exception; each row of the table names where it is from."""
    graph = graph_of(ms.grad(ops.silu), ("float32", 4))
    assert rules.examine(graph).exceptions == {"SiLUGrad": 1}
    for name, row in rules.operators().items():
        assert row["source"].startswith("https://") and row["dtypes"], name
        assert (row["kernel"] is None) == rules.documented(name, row["doc"]), name


def test_documented():
    """By the docstring itself, by the function that it refers to, by the public function named."""
    assert rules.documented("Conv2D") and rules.documented("Erfc") and rules.documented("SumExt", "mint.sum")
    assert not rules.documented("BesselJ0") and not rules.documented("SiLUGrad") and not rules.documented("NoSuchThing")


def test_costs_by_hand():
    """Bytes and operations of two products and a view; weights and results; a convolution and its gradients."""
    a, b, c, d = (Type("float16", shape) for shape in ((6, 4), (5, 4), (6, 5), (30,)))
    graph = Graph([Node("MatMul", "", [a, b, False, True], [c], {}), Node("Reshape", "", [c, (30,)], [d], {}),
                   Node("MakeTuple", "", [c], [], {})], {"x": a}, {"w": b}, [c])
    spent = cost(graph, [0], fetched=True)
    assert (spent.flops, spent.bytes, spent.weights, spent.host) == (2 * 6 * 5 * 4, 2 * (24 + 20 + 30), 40, 48 + 60)
    x, w, y = Type("float32", (2, 3, 8, 8)), Type("float32", (7, 3, 3, 3)), Type("float32", (2, 7, 8, 8))
    for node in (Node("Conv2D", "", [x, w], [y], {}), Node("Conv2DBackpropInput", "", [y, w, ()], [x], {}),
                 Node("Conv2DBackpropFilter", "", [y, x, ()], [w], {})):
        assert cost(Graph([node])).flops == 2 * 2 * 8 * 8 * 7 * 3 * 9
    transposed = Node("MatMul", "", [Type("float32", (4, 6)), Type("float32", (4, 5)), True, False], [c], {})
    assert cost(Graph([transposed])).flops == 2 * 6 * 5 * 4


@pytest.mark.parity
@pytest.mark.parametrize("size, frames, height, width", [("SMALL", 5, 16, 24), ("FULL", 14, 72, 128), ("FULL", 21, 72, 72)])
def test_the_references_operations(size, frames, height, width):
    """Against PyTorch's counter of diffusers' network, at full size too, which embeds time per video and not per frame."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -r requirements-dev.txt")
    sys.path.insert(0, str(ROOT / "tests" / "parity"))
    import twins
    from torch.utils.flop_counter import FlopCounterMode

    spec = replace(getattr(twins, size), num_frames=frames)
    for videos in (1, 2):
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            network = twins._their_unet(spec).to("meta")
            network(torch.empty(videos, frames, 8, height, width), torch.empty(videos),
                    torch.empty(videos, 1, spec.unet.context_dim), torch.empty(videos, len(spec.vector_widths)))
        assert counter.get_total_flops() == pytest.approx(reference.unet(spec, height, width, videos * frames), rel=2e-4)


# --- what the audit and the check found stays mended -------------------------------------------------------------

@pytest.mark.parametrize("target", ops.TARGETS)
def test_gelu_in_float16(target, relative_error):
    """Far from zero too, where a polynomial in float16 gave x instead of 0."""
    ops.set_target(target)
    x = np.linspace(-9, 9, 1001).astype(np.float16)
    exact = golden_operators.gelu(x.astype(np.float64))
    assert relative_error(ops.gelu(Tensor(x)), exact) < 5e-4
    assert relative_error(ops.gelu(Tensor(x[x < 0])), exact[x < 0]) < 1e-3


def test_a_convolution_over_the_frames_of_a_large_image(monkeypatch, relative_error):
    """More pixels than Ascend's convolution takes rows: in as many pieces as it needs, with the same result."""
    monkeypatch.setattr(convolution, "ASCEND_CONV_HEIGHT", 3)
    ops.set_target("Ascend")
    x, weight, bias = (golden_operators.draw(name, shape) for name, shape in (
        ("x", (6, 4, 2, 4)), ("weight", (5, 4, 3, 1, 1)), ("bias", (5,))))
    found = ms.jit(cases.time_conv_nchw)(*map(Tensor, (x, weight, bias)))
    assert relative_error(found, golden_operators.time_conv_nchw(x, weight, bias)) < 1e-6
    weight = Tensor(weight)

    def convolve(x):
        return ops.time_conv_nchw(x, weight, None)

    graph = graph_of(convolve, ("float32", 2, 4, 8, 3))
    heights = [node.tensors[0].shape[2] for node in graph.nodes if node.op == "Conv2D"]
    assert sum(heights) == 8 and max(heights) == 3 and len(heights) == 3


def test_attention_in_many_slices_compiles(monkeypatch, relative_error):
    """As many as SVD at full size has in float32; MindSpore refuses a loop of so many turns."""
    monkeypatch.setattr(attend, "SCORE_BYTES", 3 * 3 * 4)
    arrays = [golden_operators.draw(name, (8, 50, 3, 2)) for name in "qkv"]
    exact = golden_operators.attention(*(array.astype(np.float64) for array in arrays))
    assert relative_error(ms.jit(ops.attention)(*map(Tensor, arrays)), exact) < 1e-6
