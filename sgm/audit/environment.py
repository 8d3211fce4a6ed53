"""Versions of what is installed, and known problems with them. Nothing is required to be there."""
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore.run_check import _check_version

ASCEND = Path("/usr/local/Ascend")
# CANN writes its version into several files, which differ between releases; the first that has it
# counts.
CANN_HOMES = ("ascend-toolkit/latest", "cann", "latest", "nnae/latest", "nnrt/latest")
CANN_FILES = ("compiler/version.info", "runtime/version.info", "toolkit/version.info",
              "opp/version.info", "version.info", "version.cfg",
              "aarch64-linux/ascend_toolkit_install.info",
              "x86_64-linux/ascend_toolkit_install.info")
NPU_SMI_SECONDS = 20


def versions():
    """Return what is installed, by name; None for what is not found.

    `chips` is the list of names that npu-smi prints.
    """
    homes = [Path(os.environ[name]) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
             if os.environ.get(name)]
    homes += [ASCEND / home for home in CANN_HOMES]
    known = (_version(home / file) for home in homes for file in CANN_FILES)
    chips = read_chips(_npu_smi())
    return {"python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)), "mindspore": ms.__version__,
            "numpy": np.__version__, "cann": next(filter(None, known), None),
            "driver": _version(ASCEND / "driver" / "version.info"),
            "firmware": _version(ASCEND / "firmware" / "version.info"),
            "chips": chips, "generation": generation(chips[0]) if chips else None}


def _version(file):
    """Return the version in a file of CANN ("8.2.RC1"), or None."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for pattern in (r"(?im)^\s*version\s*=\s*\[?([\w.]+)",
                    r"(?im)_version\s*=\s*\[[^\]:]*:?([\w.]+)\]"):
        found = re.search(pattern, text)
        if found:
            return found[1]
    return None


def _npu_smi():
    try:
        return subprocess.run(["npu-smi", "info"], capture_output=True, text=True,
                              timeout=NPU_SMI_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def read_chips(text):
    """Return the names in the table of `npu-smi info`, with rows "| 0     910B3   | OK   | ..."."""
    health = "OK|Warning|Alarm|Critical|UNKNOWN|NA"
    return re.findall(rf"(?m)^\|\s*\d+\s+([0-9A-Za-z][\w-]*)\s*\|\s*(?:{health})\b", text)


def generation(chip):
    """Return a chip's generation: "A2", "310P" or "910A".

    A2 are 910B1-4 and later ones; 910A is the first 910, whose names end in A, B or ProB.
    """
    if "310" in chip:
        return "310P"
    return "A2" if re.search(r"910_?(B\d|C|9)", chip) else "910A"


LIMITS = {
    "910A": "it has no bfloat16 and no flash attention (an A2 has both), its convolutions default"
            " to float16, and float16 saturates: overflow becomes a large number and NaN 0, so that"
            " neither is noticed; do not train in it",
    "310P": "it is for inference, has no bfloat16 and no flash attention, and float16 saturates:"
            " overflow and NaN are not noticed",
}


def warnings(found, device):
    """Yield sentences on known problems with what `versions` found, for "CPU" or "Ascend"."""
    ours, numbers = numbers_of(found["mindspore"]), numbers_of(found["numpy"])
    if device == "CPU" and ours >= (2, 9):
        yield (f"MindSpore {found['mindspore']} runs convolutions about 100 times slower on a CPU"
               " than 2.8 does; pip install 'mindspore>=2.7,<2.9'")
    if ours < (2, 7):
        yield (f"MindSpore {found['mindspore']} is too old for this program, which needs 2.7 or"
               " 2.8")
    if numbers >= (2,):
        yield (f"numpy {found['numpy']}: MindSpore 2.8 is built for numpy 1; pip install"
               " 'numpy>=1.26,<2'")
    if found["generation"] in LIMITS:
        yield f"the chip is a {found['chips'][0]}: {LIMITS[found['generation']]}"
    if device == "CPU" and found["chips"]:
        yield f"this machine has NPUs ({', '.join(found['chips'])}); --device Ascend checks them"
    wanted = getattr(_check_version.AscendEnvChecker(None), "version", [])
    if found["cann"] and wanted and not found["cann"].startswith(tuple(wanted)):
        yield (f"MindSpore {found['mindspore']} is made for CANN {', '.join(wanted)}; found"
               f" {found['cann']}")
    if device == "Ascend" and not os.environ.get("ASCEND_HOME_PATH"):
        yield "ASCEND_HOME_PATH is not set: source CANN's set_env.sh first"


def numbers_of(version):
    """Return a version as numbers: (2, 8, 0) for "2.8.0rc1"."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("rc")[0])[:3])


def start_opencv_first():
    """Start a process that loads OpenCV before MindSpore; it ends with code 0 if that works.

    On aarch64 whichever of the two comes second may fail ("cannot allocate memory in static TLS
    block").
    """
    code = "import cv2, mindspore; mindspore.Tensor([1.0]) + 1"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "GLOG_v": "3"})
