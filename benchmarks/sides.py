"""Runs one side of a comparison in a process of its own, which is stopped except while it works.

MindSpore's idle threads spin and slow everything else, so waiting on a pipe is not enough.
"""
import ctypes
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

SET_DEATH_SIGNAL = 1            # prctl's PR_SET_PDEATHSIG


class Result(NamedTuple):
    """What a side answers."""
    seconds: float
    output: np.ndarray
    peak: int           # the process's peak of resident memory so far, in bytes


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
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send(Result(seconds, output, peak))
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
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.tasks = self._answer()

    def run(self, task):
        """Run a task and return its Result. Raises SideError."""
        os.kill(self._process.pid, signal.SIGCONT)
        return self._answer(task)

    def _answer(self, *request):
        try:
            for task in request:
                self._pipe.send(task)
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
        os.kill(self._process.pid, signal.SIGSTOP)
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.kill()
        self._process.join()
