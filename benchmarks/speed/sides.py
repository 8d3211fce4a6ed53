"""Runs one side of a comparison in a process of its own, which is stopped except while it works.

MindSpore's idle threads spin and slow everything else, so waiting on a pipe is not enough.
"""
import ctypes
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

SET_DEATH_SIGNAL = 1            # prctl's PR_SET_PDEATHSIG
LOOK = 0.05                     # seconds between two looks at a side's memory


class Result(NamedTuple):
    """What a side answers."""
    seconds: float
    output: np.ndarray
    flops: int          # two for each multiplication of its products, 0 if they were not counted
    peak: int           # bytes of its own memory at most so far, without mapped files


class Summed(NamedTuple):
    """What a task may return instead of an array: its seconds are not those of the call."""
    seconds: float
    output: np.ndarray


class SideError(RuntimeError):
    """A side that failed; one line."""


def _serve(pipe, build, arguments):
    """Answer requests from `pipe` with the tasks of build(*arguments)."""
    # A stopped process would outlive a killed parent; Ctrl-C is the parent's to handle; without
    # enough memory, this process is the one to be killed.
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        tasks = build(*arguments)
        pipe.send(tuple(tasks))
        while True:
            task = tasks[pipe.recv()]
            start = time.perf_counter()
            output = task()
            seconds = time.perf_counter() - start
            if isinstance(output, Summed):
                seconds, output = output
            pipe.send((seconds, output, getattr(task, "flops", 0)))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0])


class Side:
    """A process with the tasks {name: function that returns an array} of `build(*arguments)`.

    `build` is a function of an importable module. Context manager: the process ends with the block.
    """

    def __init__(self, name, build, *arguments):
        context = multiprocessing.get_context("spawn")
        self.name, self.peak = name, 0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.tasks = self._answer()

    def run(self, task):
        """Run a task and return its Result. Raises SideError."""
        os.kill(self._process.pid, signal.SIGCONT)
        return Result(*self._answer(task), self.peak)

    def _answer(self, *request):
        try:
            for task in request:
                self._pipe.send(task)
            while not self._pipe.poll(LOOK):
                self._look()
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            why = f"exit code {code}"
            if code == -signal.SIGKILL:
                why = "killed, probably because memory ran out"
            raise SideError(f"{self.name}: its process ended ({why})") from None
        if isinstance(answer, str):
            raise SideError(f"{self.name}: {answer}")
        self._look()
        os.kill(self._process.pid, signal.SIGSTOP)
        return answer

    def _look(self):
        """Note the process's own memory; the kernel keeps no peak of it."""
        with suppress(OSError, IndexError):     # it has just ended
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            self.peak = max(self.peak, 1024 * int(status.partition("RssAnon:")[2].split()[0]))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.join()
