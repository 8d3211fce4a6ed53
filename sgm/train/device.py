"""What a run asks of its device and of the system: precision, peak memory, a stop that lets a step end."""
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

from mindspore import communication

from sgm.config import ConfigError


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


def join():
    """(rank, world) after joining the other processes that msrun has started. Raises ConfigError if it has not."""
    if os.environ.get("MS_ROLE") not in ("MS_WORKER", "MS_SCHED"):     # the scheduler does not come back from `init`
        raise ConfigError("--distributed: found no other processes, expected to be started by MindSpore's launcher: msrun"
                          " --worker_num=8 --local_worker_num=8 train.py ... --distributed")
    try:
        communication.init()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"--distributed: the processes did not find each other ({str(error).splitlines()[0]}); see the"
                          " logs of msrun") from None
    return communication.get_rank(), communication.get_group_size()


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
