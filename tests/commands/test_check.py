"""tools/check.py: operators and networks against goldens, an audit that fails, wrong usage."""
import ast
import json
from collections import Counter

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from mindspore.ops import operations as P
from support import golden_operators
from support.auditing import Of
from support.commands import load_tool
from support.paths import ROOT

from sgm import ops
from sgm.audit import diffusion_graphs, operator_cases
from sgm.audit.graph import Type
from sgm.diffusion.engine import Engine

check = load_tool("check")
pytestmark = pytest.mark.usefixtures("cpu_afterwards")


def test_the_goldens_are_what_numpy_makes():
    with np.load(golden_operators.FILE) as file:
        stored = dict(file)
    made = golden_operators.compute()
    assert set(stored) == set(made) and set(golden_operators.FORMS) == set(operator_cases.OPERATORS)
    for key, array in made.items():
        np.testing.assert_allclose(stored[key], array, rtol=1e-5, atol=1e-6, err_msg=key)
    with_gradients = {key.partition("/cotangent")[0] for key in stored if key.endswith("/cotangent")}
    assert with_gradients == {name for name, operator in operator_cases.OPERATORS.items() if operator.trained}


def test_every_operator_is_tried():
    """Whatever `sgm.ops` offers networks has a case."""
    tree = ast.parse((ROOT / "sgm" / "audit" / "operator_cases.py").read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and
            isinstance(node.value, ast.Name) and node.value.id == "ops"}
    order = {"in_slices", "depend"}     # of other operators
    around = {"TARGETS", "compiled", "fetch", "on_ascend", "release", "set_device", "set_jit", "set_target", "wait",
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
    operators = {name: operator_cases.Operator(function) for name, function in made.items()}
    monkeypatch.setattr(operator_cases, "OPERATORS", operators)
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
    from sgm.audit import golden_networks
    from sgm.config.model_files import load_spec

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


def test_a_failed_audit_is_told(monkeypatch, capsys, opencv):
    """By the command: a violation, a graph that cannot be made, and exit code 1."""
    def builders_of(spec):
        yield diffusion_graphs.GraphBuilder("bessel", lambda: Of(P.BesselJ0()), {"x": Type("float32", (4,))},
                                            host=("x",), fetched=True)
        yield diffusion_graphs.GraphBuilder("unmakeable", lambda: None, {})

    monkeypatch.setattr(diffusion_graphs, "graphs", builders_of)
    assert check.run(["--audit", "sv3d_tiny"]) == 1
    said = capsys.readouterr().out
    assert "FAILED: bessel, unsupported primitives: BesselJ0(float32[4])" in said and "FAILED: sv3d_tiny, unmakeable:" in said
    assert "2 failed" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("  bessel"))
    assert row == ["bessel", "0.0", "0.00", "0.00", "32", "1", "1"]


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
    assert Counter(row["dtype"] for row in report["operators"])["float32"] == len(operator_cases.OPERATORS)
    assert [row["network"] for row in report["networks"]] == [
        "UNet", "CLIP", "VAE encoder", "VAE decoder", "temporal VAE decoder"]
    assert "ready (" in capsys.readouterr().out
