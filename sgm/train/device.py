"""What a run asks of its device and of the system: precision, peak memory, a stop that lets a step end."""
import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mindspore import communication

from sgm.config.yaml_reader import ConfigError
from sgm.train.data.latents import PATIENCE
from sgm.train.fellows import Fellows


def settle_precision(recipe, device, limit=None):
    """The recipe with the precision that "auto" means on `device` ("CPU" or "Ascend").

    limit: why half precision is no good on this NPU, which saturates instead of overflowing, so that neither a scale of the
    loss nor a check of its value would notice. Raises ConfigError for a precision that cannot be.
    """
    found = recipe.precision
    if found == "auto":
        half = device == "Ascend" and not limit and recipe.task == "diffusion"
        return replace(recipe, precision="bf16" if half else "fp32")
    if found == "bf16" and device == "CPU":
        raise ConfigError("precision: found bf16, expected fp32: MindSpore has no bfloat16 kernels for a CPU")
    if found != "fp32" and limit:
        raise ConfigError(f"precision: found {found}, expected fp32: {limit}")
    return recipe


def join(output):
    """Join the other processes that msrun has started -> (rank, world, the `Fellows` that watch them, to be entered).

    output: the folder of the run. Raises ConfigError if msrun has not, or if one of them is missing.
    """
    role = os.environ.get("MS_ROLE")
    if role not in ("MS_WORKER", "MS_SCHED"):       # the scheduler does not come back from `init`
        raise ConfigError("--distributed: found no other processes, expected to be started by MindSpore's launcher: msrun"
                          " --worker_num=8 --local_worker_num=8 train.py ... --distributed")
    fellows = None
    if role == "MS_WORKER":
        fellows = Fellows(Path(output) / ".processes")
        # How long a CPU's collective waits for the others, who may be saving; 30 s by default. The scheduler's is another
        # process, where it is how long it goes without a heartbeat.
        os.environ["MS_NODE_TIMEOUT"] = str(PATIENCE)
    try:
        communication.init()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--distributed: a process did not come or is gone ({str(error).splitlines()[0]}); see the logs of"
                          " msrun, worker_<rank>.log") from None
    fellows.watch()
    return communication.get_rank(), communication.get_group_size(), fellows


@contextmanager
def stopping():
    """Within, Ctrl-C and SIGTERM are noted in the list that this gives, and nothing else: a step then ends, and is saved.

    A second one ends the program as before.
    """
    noted, before = [], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number, frame):
        noted.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
