"""The share of one process among those of msrun, MindSpore's launcher, where they need no word.

It tells them their number by the environment, and starts one process more, the scheduler, for those
that meet.
"""
import os
from typing import NamedTuple

from sgm.common.errors import InputError


class Rank(NamedTuple):
    """One of `count` processes; count 0: the scheduler. device: which NPU is its, None: any."""
    number: int = 0
    count: int = 1
    device: int | None = None

    def share(self, jobs):
        """Return every `count`-th of a list, so that all processes have as many but for one."""
        return jobs[self.number::self.count] if self.count else []

    def exit_code(self, code):
        """Return the exit code of a command that is not to end the other processes: 0 for 1 and 3.

        1: some jobs failed, 3: doubts. msrun kills all when one of them ends with another than 0.
        """
        return 0 if self.device is not None and code in (1, 3) else code


def this_rank(environment=os.environ):
    """Return the `Rank` that msrun has given to this process; Rank() without msrun.

    Raises InputError where it leaves the numbers to processes that meet.
    """
    role = environment.get("MS_ROLE")
    if role == "MS_SCHED":
        return Rank(0, 0, 0)
    if role != "MS_WORKER":
        return Rank()
    try:
        number, count, device = (int(environment[name])
                                 for name in ("RANK_ID", "RANK_SIZE", "DEVICE_ID"))
    except (KeyError, ValueError):
        raise InputError("msrun: found no RANK_ID, RANK_SIZE and DEVICE_ID in the environment,"
                         " expected the numbers of this process; on several machines give msrun"
                         " --node_rank") from None
    return Rank(number, count, device)
