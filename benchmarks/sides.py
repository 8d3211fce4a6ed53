"""One side of a comparison in a process of its own, stopped except while it works.

MindSpore's idle threads spin and slow whatever else runs, so a waiting side is not merely blocked on its pipe.
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
    peak: int           # bytes, of resident memory since the process began


class SideError(RuntimeError):
    """A side that failed; one line."""


def _serve(pipe, build, arguments):
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)  # a stopped process would outlive a killed parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)               # Ctrl-C is the parent's to handle
    Path("/proc/self/oom_score_adj").write_text("1000")        # short of memory, this process is the one to go
    try:
        tasks = build(*arguments)
        pipe.send(tuple(tasks))
        while True:
            task = tasks[pipe.recv()]
            begin = time.perf_counter()
            output = task()
            seconds = time.perf_counter() - begin
            pipe.send(Result(seconds, output, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0])


class Side:
    """`build(*arguments)`, a function of an importable module, -> {task: function -> array}. A context manager."""

    def __init__(self, name, build, *arguments):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.tasks = self._answer()

    def run(self, task):
        """-> Result. Raises SideError."""
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
            why = "killed, probably for want of memory" if code == -signal.SIGKILL else f"exit code {code}"
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
