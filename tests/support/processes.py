"""Runs a command as a process of its own, and ends it as a user or the system would."""
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

from support.paths import ROOT


@contextmanager
def running(argv, largest_file=None):
    """A command as a process; `largest_file` in bytes stands for a full disk. Nothing of it is left behind."""
    def limit():
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    process = subprocess.Popen([sys.executable, *map(str, argv)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, preexec_fn=limit, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)      # and those of its workers that outlived it: they hold the pipes
        process.communicate()


def wait_until(true, process, what):
    end = time.time() + 200
    while not true():
        assert process.poll() is None and time.time() < end, f"{what}: {process.communicate()}"
        time.sleep(0.01)


def stop(process, number):
    """(exit code, stderr) after a signal to the process alone."""
    os.kill(process.pid, number)
    if number == signal.SIGKILL:
        return process.wait(), ""
    said = process.communicate(timeout=120)[1]
    return process.returncode, said
