#!/usr/bin/env python3
"""Is this machine ready?  Versions, every operator, the networks, and a small model from an image to views.

  check.py                                            on the CPU
  check.py --device Ascend --report report.json       on an NPU; please post the report
  check.py --audit                                    without an NPU: what of our graphs would trouble one

The operators are compared with numpy's results in float64, the networks with the PyTorch original's (sgm/audit/golden), both
in their errors' relative L2 norm.  --audit traces every graph at the full size of a released model, sampling and training
in each precision, and those of the radiance field and DMTet, in the form that Ascend gets, and lists primitives without
documented support, dtypes and shapes outside documented limits, and dynamic shapes; and what a call costs: operations
(also divided by those of the original), bytes moved and bytes from and to the host.  What a device makes of a graph after
that it cannot know.  It takes half an hour on a core and 11 GB of memory.
Exit code: 0 ready, 1 something fails, 2 wrong input, 130 interrupted.
"""
import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import (
    Arguments,
    exit_code,
    loading,
)
from sgm.common.errors import InputError, one_line, os_reason

# Relative L2 error allowed of a network in each precision. The CPU's is that of the tests; the others are what rounding
# should stay below, and were never measured on a device.
NETWORK_LIMITS = {"CPU": {"float32": 2e-5}, "Ascend": {"float32": 5e-4, "float16": 2e-2, "bfloat16": 1e-1}}
VIEWS, STEPS = 3, 2
AUDITED = ("sv3d_p", "svd", "mesh/default")


class Report:
    """What was found: printed as it comes, and kept for --report."""

    def __init__(self):
        self.data = {"failed": []}
        self.began = time.perf_counter()

    def say(self, text):
        print(text, flush=True)

    def fail(self, text):
        """Something does not work."""
        self.data["failed"].append(one_line(text))
        self.say(f"  FAILED: {one_line(text)}")

    def attempt(self, what, function, *args):
        """function(*args), or None and a failure that names `what`."""
        try:
            return function(*args)
        except Exception as error:  # whatever an operator does on a device nobody has tried
            if "KeyboardInterrupt" in f"{error} {error.__cause__!r} {error.__context__!r}":
                raise KeyboardInterrupt from None   # MindSpore turns an interrupt inside it into errors of its own
            self.fail(f"{what}: {type(error).__name__}: {one_line(str(error))[:400]}")
            return None

    def judge(self, what, error, limit):
        """Whether an error is within its limit; NaN is not. A failure that names `what` otherwise."""
        if error <= limit:
            return True
        self.fail(f"{what}: relative error {error:.1e}, at most {limit:.0e} allowed")
        return False

    def write(self, path):
        """Everything as JSON."""
        path.write_text(json.dumps({**self.data, "seconds": round(time.perf_counter() - self.began, 1)}, indent=1) + "\n",
                        encoding="utf-8")


def check_machine(report, device):
    """Versions and what is known of them; -> {name: version}."""
    from sgm.audit import environment

    found = report.data["machine"] = environment.versions()
    report.data["warnings"] = list(environment.warnings(found, device))
    shown = {key: found[key] or "not found" for key in ("cann", "driver", "firmware")}
    report.say(f"machine\n  Python {found['python']}, {found['system']}, {found['cores']} cores\n"
               f"  MindSpore {found['mindspore']}, numpy {found['numpy']}\n"
               f"  CANN {shown['cann']}, driver {shown['driver']}, firmware {shown['firmware']},"
               f" chip {', '.join(found['chips']) or 'not found'}")
    for warning in report.data["warnings"]:
        report.say(f"  warning: {warning}")
    return found


def check_opencv(report, process):
    """The end of `sgm.audit.environment.start_opencv_first`."""
    _, said = process.communicate()
    if process.returncode:
        report.fail(f"OpenCV before MindSpore does not load in one process: {one_line(said)[-300:]}; if it names a static TLS"
                    " block, start with LD_PRELOAD= the library it names")


def relative_error(found, wanted):
    """|found - wanted| / |wanted| in float64; shapes must be equal."""
    import numpy as np

    if found.shape != wanted.shape:
        raise ValueError(f"shape {found.shape}, expected {wanted.shape}")
    wanted = wanted.astype(np.float64)
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / max(np.linalg.norm(wanted), 1e-30))


def check_operators(report, dtypes):
    """Every operator on small shapes, values and gradients, against numpy."""
    import numpy as np

    from sgm.audit import operator_cases
    from sgm.audit.golden_weights import GOLDEN

    with np.load(GOLDEN / "operators.npz") as file:
        golden = dict(file)
    rows = report.data["operators"] = []
    report.say(f"{len(operator_cases.OPERATORS)} operators, {', '.join(dtypes)}")
    for name, operator in operator_cases.OPERATORS.items():
        arrays = [golden[key] for key in sorted(key for key in golden if key.startswith(f"{name}/in/"))]
        for dtype in dtypes if operator.half else dtypes[:1]:
            what, row = f"{name}, {dtype}", {"operator": name, "dtype": dtype}
            rows.append(row)
            began = time.perf_counter()
            found = report.attempt(what, operator_cases.run, name, arrays, dtype, golden.get(f"{name}/cotangent"))
            row["seconds"] = round(time.perf_counter() - began, 3)
            if found is None:
                continue
            value, gradients = found
            limits = operator_cases.LIMITS[dtype]
            row["error"] = relative_error(value, golden[f"{name}/out"])
            row["gradient_errors"] = [relative_error(gradient, golden[f"{name}/gradient/{i}"])
                                      for i, gradient in enumerate(gradients)]
            report.judge(what, row["error"], limits[0])
            for i, error in enumerate(row["gradient_errors"]):
                report.judge(f"{what}, gradient of input {i}", error, limits[1])
    for dtype in dtypes:
        known = [row for row in rows if row["dtype"] == dtype and "error" in row]
        if known:
            worst = max(known, key=lambda row: row["error"])
            report.say(f"  {dtype}: largest error {worst['error']:.1e} ({worst['operator']}), "
                       f"{operator_cases.LIMITS[dtype][0]:.0e} allowed")


def run_network(graph, arguments):
    """The value of a compiled network, waited for."""
    from sgm import ops

    return ops.fetch(graph(*arguments).astype("float32"))


def check_networks(report, device, dtypes):
    """Every network, small, against the PyTorch original."""
    from sgm import ops
    from sgm.audit.golden_networks import networks

    rows = report.data["networks"] = []
    limits = NETWORK_LIMITS[device]
    report.say("networks, against the PyTorch original")
    for dtype in (dtype for dtype in dtypes if dtype in limits):
        for name, function, arguments, wanted in networks(dtype):
            what, times = f"{name}, {dtype}", []
            row = {"network": name, "dtype": dtype, "seconds": times}       # of the first run, which compiles, and a second
            rows.append(row)
            graph = ops.compiled(function)
            for _ in range(2):
                began = time.perf_counter()
                result = report.attempt(what, run_network, graph, arguments)
                times.append(round(time.perf_counter() - began, 3))
                if result is None:
                    break
            if result is not None:
                row["error"] = relative_error(result, wanted)
                if report.judge(what, row["error"], limits[dtype]):
                    report.say(f"  {what:30} error {row['error']:.1e} of {limits[dtype]:.0e},"
                               f" first run {times[0]:.1f} s, then {times[1]:.3f} s")


def sample(report):
    """The embedded small model from a drawn image to views."""
    import numpy as np

    from sgm.diffusion.pipeline import EMBEDDED, generate, load_model
    from sgm.views.cameras import Orbit

    model, weights = EMBEDDED
    engine = load_model(model, str(weights))
    rows, columns = np.mgrid[:engine.spec.height, :engine.spec.width] / engine.spec.height - 0.5
    image = np.zeros((engine.spec.height, engine.spec.width, 4), np.uint8)
    image[rows ** 2 + columns ** 2 < 0.1] = (200, 60, 40, 255)
    views = generate(engine, image, Orbit.static(10, num_frames=VIEWS), steps=STEPS)
    frames = np.asarray(views.frames)
    if len(frames) != VIEWS or frames[:-1].std() < 1:       # of 255; the last view is the input itself
        raise ValueError(f"{len(frames)} views, deviation {frames[:-1].std():.1f}; expected {VIEWS} that show something")
    report.data["end_to_end"] = views.run
    seconds = ", ".join(f"{name} {stage['seconds']:.1f} s" for name, stage in views.run["stages"].items())
    report.say(f"  {VIEWS} views in {STEPS} steps: {seconds}")


def audited(config):
    """What --audit names -> name, description, `sgm.audit.diffusion_graphs.GraphBuilder`s. mesh/NAME: the settings configs/mesh/NAME.yaml."""
    from sgm.audit import diffusion_graphs, mesh_graphs
    from sgm.config.model_files import load_spec
    from sgm.config.reconstruction import load_mesh_spec

    path = Path(config)
    if path.parent.name != "mesh":
        spec = load_spec(config)
        return spec.name, f"{spec.num_frames} frames of {spec.width} x {spec.height}", diffusion_graphs.graphs(spec)
    spec = load_mesh_spec(config if path.is_file() else path.name)
    return (f"mesh/{path.stem}", f"{spec.nerf.rays} rays of {spec.nerf.samples} samples, {spec.depth.resolution}^3 cells",
            mesh_graphs.graphs(spec))


def audit(report, configs):
    """The graphs of the models and mesh settings `configs` in their Ascend form."""
    from sgm.audit import ascend_rules, diffusion_graphs

    rows, exceptions = report.data.setdefault("audit", []), Counter()
    for name, described, builders in [audited(config) for config in configs]:
        report.say(f"audit of {name}: {described}, Ascend\n"
                   f"  {'':34}{'GFLOP':>9}{'/ original':>11}{'GB moved':>9}{'GB weights':>11}{'host bytes':>11}{'nodes':>7}"
                   f"{'violations':>11}")
        for builder in builders:
            row = report.attempt(f"{name}, {builder.name}", diffusion_graphs.audit, builder)
            if row is None:
                continue
            rows.append({"model": name, **row})
            exceptions.update(row["exceptions"])
            ratio = "" if row["reference_flops"] is None else f"{row['flops'] / row['reference_flops']:.3f}"
            report.say(f"  {builder.name:34}{row['flops'] / 1e9:9.1f}{ratio:>11}{row['bytes'] / 1e9:9.2f}"
                       f"{row['weight_bytes'] / 1e9:11.2f}{row['host_bytes']:11}{row['nodes']:7}"
                       f"{sum(map(len, row['violations'].values())):11}")
            for kind, texts in row["violations"].items():
                for text in texts:
                    report.fail(f"{builder.name}, {kind}: {text}")
    report.say(f"{len(exceptions)} exceptions made by hand, for primitives that MindSpore does not document")
    for name, times in sorted(exceptions.items()):
        known = ascend_rules.operators()[name]
        report.say(f"  {name}, {times} times: CANN's {known['kernel']}, {known['source']}")


def check(report, device, device_id):
    """All that needs the device."""
    from sgm.audit import environment

    opencv = environment.start_opencv_first()
    found = check_machine(report, device)
    from sgm import ops

    if report.attempt(f"--device {device}", lambda: ops.set_device(device, device_id) or True):
        dtypes = ["float32", "float16"]
        if device == "Ascend" and found["generation"] not in environment.LIMITS:
            dtypes.append("bfloat16")
        check_operators(report, dtypes)
        check_networks(report, device, dtypes)
        report.say("end to end, the embedded small model")
        report.attempt("end to end", sample, report)
    check_opencv(report, opencv)


def main(argv=None):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="CPU", choices=("CPU", "Ascend"), help="default CPU")
    add("--device-id", type=int, default=0, metavar="N", help="which NPU (default 0)")
    add("--report", type=Path, metavar="FILE", help="write everything that was found, as JSON")
    add("--audit", nargs="*", metavar="CONFIG", help="examine the graphs of these models, by name or YAML file, and of"
        f" these mesh settings, as mesh/fast, instead (default {' '.join(AUDITED)}; sv3d_tiny takes a minute)")
    args = parser.parse_args(argv)
    os.environ.setdefault("GLOG_v", "3")        # MindSpore's own warnings
    if args.report:
        try:
            args.report.touch()                 # before a minute's work, not after it
        except OSError as error:
            raise InputError(f"--report {args.report}: {os_reason(error)}") from None
    report = Report()
    with loading():
        import mindspore  # noqa: F401  (before OpenCV: on aarch64 the other order may fail)
    if args.audit is None:
        check(report, args.device, args.device_id)
    else:
        check_machine(report, args.device)
        audit(report, args.audit or AUDITED)
    failed = report.data["failed"]
    report.say(f"{f'{len(failed)} failed' if failed else 'ready' if args.audit is None else 'nothing found'}"
               f" ({time.perf_counter() - report.began:.0f} s)")
    if args.report:
        report.write(args.report)
    return 1 if failed else 0


def run(argv=None):
    """`main` with errors as one line and an exit code."""
    return exit_code("check.py", main, argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends it as Ctrl-C does
    sys.exit(run())
