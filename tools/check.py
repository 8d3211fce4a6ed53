#!/usr/bin/env python3
"""Check whether this machine is ready: versions, operators, networks, a model from image to views.

  check.py                                            on the CPU
  check.py --device Ascend --report report.json       on an NPU; please post the report
  check.py --audit                                    without an NPU: would our graphs fit one?

Operators are compared with numpy's results in float64, networks with those of the PyTorch original
(sgm/audit/golden), both by the relative L2 norm of the error.

--audit traces every graph at the full size of a published model, sampling and training in each
precision, those of the radiance field and of DMTet, and those of feed-forward networks, in the form
that Ascend gets. It lists primitives without documented support, dtypes and shapes outside
documented limits, and dynamic shapes. It also lists the costs of a call: operations (and their
ratio to the original's), bytes moved, and bytes from and to the host. What a device makes of a
graph after that is not seen. The audit takes half an hour on one core and 11 GB of memory.

Exit code: 0 ready, 1 something fails, 2 wrong input, 130 interrupted.
"""
import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import Arguments, exit_code, loading
from sgm.common.errors import InputError, one_line, os_reason

# Relative L2 error allowed of a network in each precision. The CPU's is that of the tests; rounding
# should stay below the others, which were never measured on a device.
NETWORK_LIMITS = {"CPU": {"float32": 2e-5},
                  "Ascend": {"float32": 5e-4, "float16": 2e-2, "bfloat16": 1e-1}}
VIEWS, STEPS = 3, 2
AUDITED = ("sv3d_p", "svd", "mesh/default", "lrm/vfusion3d", "lrm/triposr")


class Report:
    """What was found: printed at once, and kept for --report."""

    def __init__(self, quiet=False):
        self.data, self.quiet = {"failed": []}, quiet
        self.start = time.perf_counter()

    def say(self, text, result=False):
        """Print a line; with --quiet a result only."""
        if result or not self.quiet:
            print(text, flush=True)

    def fail(self, text):
        """Print and keep a failure."""
        self.data["failed"].append(one_line(text))
        self.say(f"  FAILED: {one_line(text)}", result=True)

    def attempt(self, what, function, *args):
        """Return function(*args), or None after an exception, which is a failure of `what`."""
        try:
            return function(*args)
        except Exception as error:      # of any kind: nobody has tried the operators on this device
            # MindSpore turns an interrupt inside it into errors of its own.
            if "KeyboardInterrupt" in f"{error} {error.__cause__!r} {error.__context__!r}":
                raise KeyboardInterrupt from None
            self.fail(f"{what}: {type(error).__name__}: {one_line(str(error))[:400]}")
            return None

    def judge(self, what, error, limit):
        """Return whether an error is within its limit, NaN is not; if not, `what` has failed."""
        if error <= limit:
            return True
        self.fail(f"{what}: relative error {error:.1e}, at most {limit:.0e} allowed")
        return False

    def write(self, path):
        """Write everything as JSON."""
        data = {**self.data, "seconds": round(time.perf_counter() - self.start, 1)}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def check_machine(report, device):
    """Report versions and known problems with them; return {name: version}."""
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
    """Report the end of `sgm.audit.environment.start_opencv_first`."""
    _, said = process.communicate()
    if process.returncode:
        report.fail("OpenCV before MindSpore does not load in one process:"
                    f" {one_line(said)[-300:]}; if it names a static TLS block, start with"
                    " LD_PRELOAD= the library it names")


def relative_error(found, wanted):
    """Return |found - wanted| / |wanted| in float64. Raises ValueError for unequal shapes."""
    import numpy as np

    if found.shape != wanted.shape:
        raise ValueError(f"shape {found.shape}, expected {wanted.shape}")
    wanted = wanted.astype(np.float64)
    difference = np.linalg.norm(found.astype(np.float64) - wanted)
    return float(difference / max(np.linalg.norm(wanted), 1e-30))


def check_operators(report, dtypes):
    """Compare every operator on small shapes, values and gradients, with numpy."""
    import numpy as np

    from sgm.audit import operator_cases
    from sgm.audit.golden_weights import GOLDEN

    with np.load(GOLDEN / "operators.npz") as file:
        golden = dict(file)
    rows = report.data["operators"] = []
    report.say(f"{len(operator_cases.OPERATORS)} operators, {', '.join(dtypes)}")
    for name, operator in operator_cases.OPERATORS.items():
        inputs = sorted(key for key in golden if key.startswith(f"{name}/in/"))
        arrays, cotangent = [golden[key] for key in inputs], golden.get(f"{name}/cotangent")
        for dtype in dtypes if operator.half else dtypes[:1]:
            what, row = f"{name}, {dtype}", {"operator": name, "dtype": dtype}
            rows.append(row)
            start = time.perf_counter()
            found = report.attempt(what, operator_cases.run, name, arrays, dtype, cotangent)
            row["seconds"] = round(time.perf_counter() - start, 3)
            if found is None:
                continue
            value, gradients = found
            limits = operator_cases.LIMITS[dtype]
            row["error"] = relative_error(value, golden[f"{name}/out"])
            row["gradient_errors"] = [relative_error(gradient, golden[f"{name}/gradient/{i}"])
                                      for i, gradient in enumerate(gradients)]
            # A failure for each value or gradient that is wrong.
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
    """Return the value of a compiled network, after waiting for it."""
    from sgm import ops

    return ops.fetch(graph(*arguments).astype("float32"))


def check_networks(report, device, dtypes):
    """Compare every network, in small, with the PyTorch original."""
    from sgm import ops
    from sgm.audit.golden_networks import networks

    rows = report.data["networks"] = []
    limits = NETWORK_LIMITS[device]
    report.say("networks, against the PyTorch original")
    for dtype in (dtype for dtype in dtypes if dtype in limits):
        for name, function, arguments, wanted in networks(dtype):
            what, times = f"{name}, {dtype}", []
            # Seconds of the first run, which compiles, and of a second one.
            row = {"network": name, "dtype": dtype, "seconds": times}
            rows.append(row)
            graph = ops.compiled(function)
            for _ in range(2):
                start = time.perf_counter()
                result = report.attempt(what, run_network, graph, arguments)
                times.append(round(time.perf_counter() - start, 3))
                if result is None:
                    break
            if result is not None:
                row["error"] = relative_error(result, wanted)
                if report.judge(what, row["error"], limits[dtype]):
                    report.say(f"  {what:30} error {row['error']:.1e} of {limits[dtype]:.0e},"
                               f" first run {times[0]:.1f} s, then {times[1]:.3f} s")


def sample(report):
    """Run the embedded small model from a drawn image to views. Raises ValueError."""
    import numpy as np

    from sgm.diffusion.pipeline import generate, load_model
    from sgm.views.cameras import Orbit

    engine = load_model()
    rows, columns = np.mgrid[:engine.spec.height, :engine.spec.width] / engine.spec.height - 0.5
    image = np.zeros((engine.spec.height, engine.spec.width, 4), np.uint8)
    image[rows ** 2 + columns ** 2 < 0.1] = (200, 60, 40, 255)
    views = generate(engine, image, Orbit.static(10, num_frames=VIEWS), steps=STEPS)
    frames = np.asarray(views.frames)
    # The deviation is of 255 levels; the last view is the input itself.
    if len(frames) != VIEWS or frames[:-1].std() < 1:
        raise ValueError(f"found {len(frames)} views with a deviation of {frames[:-1].std():.1f},"
                         f" expected {VIEWS} that show something")
    report.data["end_to_end"] = views.run
    seconds = ", ".join(f"{name} {stage['seconds']:.1f} s"
                        for name, stage in views.run["stages"].items())
    report.say(f"  {VIEWS} views in {STEPS} steps: {seconds}")


def audited(config):
    """Return name, description and `GraphBuilder`s of what --audit names.

    That is a model, mesh/NAME: the settings configs/mesh/NAME.yaml, or lrm/NAME: those of
    configs/lrm/NAME.yaml.
    """
    from sgm.audit import diffusion_graphs, feedforward_graphs, mesh_graphs, object_graphs
    from sgm.config.autodecoding import AutodecoderSpec
    from sgm.config.lrm import load_lrm_spec
    from sgm.config.model_files import load_trained_spec
    from sgm.config.reconstruction import load_mesh_spec

    path = Path(config)
    if path.parent.name == "lrm":
        spec = load_lrm_spec(config if path.is_file() else path.name)
        described = f"one image of {spec.image_size}^2 pixels"
        return f"lrm/{path.stem}", described, feedforward_graphs.graphs(spec)
    if path.parent.name != "mesh":
        spec = load_trained_spec(config)
        if isinstance(spec, AutodecoderSpec):
            described = f"volumes of {spec.volume.side}^3, {spec.size}^2 views"
            return spec.name, described, object_graphs.graphs(spec)
        described = f"{spec.num_frames} frames of {spec.width} x {spec.height}"
        return spec.name, described, diffusion_graphs.graphs(spec)
    spec = load_mesh_spec(config if path.is_file() else path.name)
    described = (f"{spec.nerf.rays} rays of {spec.nerf.samples} samples,"
                 f" {spec.depth.resolution}^3 cells")
    return f"mesh/{path.stem}", described, mesh_graphs.graphs(spec)


def audit(report, configs):
    """Examine the graphs of the models and mesh settings `configs` in their Ascend form."""
    from sgm.audit import ascend_rules, diffusion_graphs

    rows, exceptions = report.data.setdefault("audit", []), Counter()
    for name, described, builders in [audited(config) for config in configs]:
        report.say(f"audit of {name}: {described}, Ascend\n"
                   f"  {'':34}{'GFLOP':>9}{'/ original':>11}{'GB moved':>9}{'GB weights':>11}"
                   f"{'host bytes':>11}{'nodes':>7}{'violations':>11}")
        for builder in builders:
            row = report.attempt(f"{name}, {builder.name}", diffusion_graphs.audit, builder)
            if row is None:
                continue
            rows.append({"model": name, **row})
            exceptions.update(row["exceptions"])
            reference, ratio = row["reference_flops"], ""
            if reference is not None:
                ratio = f"{row['flops'] / reference:.3f}"
            report.say(f"  {builder.name:34}{row['flops'] / 1e9:9.1f}{ratio:>11}"
                       f"{row['bytes'] / 1e9:9.2f}"
                       f"{row['weight_bytes'] / 1e9:11.2f}{row['host_bytes']:11}{row['nodes']:7}"
                       f"{sum(map(len, row['violations'].values())):11}")
            for kind, texts in row["violations"].items():
                for text in texts:
                    report.fail(f"{builder.name}, {kind}: {text}")
    report.say(f"{len(exceptions)} exceptions made by hand, for primitives that MindSpore does not"
               " document")
    for name, times in sorted(exceptions.items()):
        known = ascend_rules.operators()[name]
        report.say(f"  {name}, {times} times: CANN's {known['kernel']}, {known['source']}")


def check(report, device, device_id):
    """Check everything that needs the device."""
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
    """Run the command line; return the exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="CPU", choices=("CPU", "Ascend"), help="default CPU")
    add("--device-id", type=int, default=0, metavar="N", help="which NPU (default 0)")
    add("--report", type=Path, metavar="FILE", help="write everything that was found, as JSON")
    add("--audit", nargs="*", metavar="CONFIG", help="instead, examine the graphs of these models"
        " (names or YAML files), mesh settings (mesh/fast) and feed-forward networks"
        " (lrm/triposr); default"
        f" {' '.join(AUDITED)}; sv3d_tiny takes a minute")
    args = parser.parse_args(argv)
    os.environ.setdefault("GLOG_v", "3")        # MindSpore's own warnings
    if args.report:
        try:
            args.report.touch()                 # fail before a minute's work, not after it
        except OSError as error:
            raise InputError(f"--report {args.report}: {os_reason(error)}") from None
    report = Report(args.quiet)
    with loading():
        import mindspore  # noqa: F401 - before OpenCV: on aarch64 the other order may fail
    if args.audit is None:
        check(report, args.device, args.device_id)
    else:
        check_machine(report, args.device)
        audit(report, args.audit or AUDITED)
    failed = report.data["failed"]
    result = "ready" if args.audit is None else "nothing found"
    if failed:
        result = f"{len(failed)} failed"
    report.say(f"{result} ({time.perf_counter() - report.start:.0f} s)", result=True)
    if args.report:
        report.write(args.report)
    return 1 if failed else 0


def run(argv=None):
    """Run `main` with errors as one line and an exit code."""
    return exit_code("check.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
