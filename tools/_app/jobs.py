"""The queue of jobs, and the process that does them: one at a time, as there is one device.

The process, `_app.worker`, gets a job as a line of JSON on its stdin and tells what happens as such
lines on a pipe. It is kept for the next job, with its model; one that a job was cancelled in, or
that died, is replaced.
"""
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from sgm.common.errors import InputError

MOST_WAITING = 20       # jobs; more are refused
MOST_KEPT = 200         # jobs that are over and still known
LINES = 40              # of what a job says; earlier ones are forgotten
END = "\0"              # a line that the process prints after the last one of a job
SAID_SECONDS = 5        # in which that line comes
END_SECONDS = 20        # in which the process ends when its last job has
STATES = {0: "done", 1: "failed", 2: "failed", 3: "doubtful", 130: "cancelled"}   # by exit code


@dataclass(eq=False)
class Job:
    """One thing to compute.

    kind: "views", "mesh", "fast" or "elevation"; folder: name of its results, of an elevation that
    of its picture; given: what the process is told.
    scratch: a folder of its own, which is removed when it is over. state: waiting, running, done,
    doubtful (done, and the mesh does not explain its views), failed or cancelled. progress: the
    `state` of a `sgm.common.progress.Chain`. steps_drawn: how many previews there were. elevation:
    what was estimated, degrees. code: the exit code that the process told, None before.
    """
    kind: str
    folder: str
    given: dict
    scratch: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(8))
    state: str = "waiting"
    progress: dict = field(default_factory=dict)
    steps_drawn: int = 0
    elevation: Optional[float] = None
    lines: deque = field(default_factory=lambda: deque(maxlen=LINES))
    cancelled: int = 0
    code: Optional[int] = None

    @property
    def is_over(self):
        """Return whether nothing more will happen."""
        return self.state not in ("waiting", "running")

    @property
    def preview(self):
        """Return the path of the picture of the last step of sampling."""
        return self.scratch / "preview.png"


class Queue:
    """Jobs in the order they came; a thread does them. All methods may be called from any thread.

    command: starts the process; the number of the pipe's end is appended to it. directory: where it
    runs. environment: its variables, None: those of this process. log: called with each line that
    it prints. output: the folder of results, which what a job says is relative to.
    """

    def __init__(self, command, directory, environment=None, log=None, output="outputs"):
        self.command, self.directory, self.environment = command, Path(directory), environment
        self.log, self.output = log or (lambda line: None), output
        self.waiting, self.running = deque(), None
        self.known = OrderedDict()              # {id: Job}
        self.changed = threading.Condition()
        self.is_closed, self.process = False, None
        self.speaker, self.all_said = None, threading.Event()   # whose lines come, and whether all
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def add(self, kind, folder, given, scratch=None):
        """Return a new Job, the last in the queue. Raises InputError if the queue is full."""
        with self.changed:
            if len(self.waiting) >= MOST_WAITING:
                raise InputError(f"the queue is full ({MOST_WAITING} jobs wait); try again later")
            scratch = Path(scratch or self.directory / secrets.token_hex(8))
            scratch.mkdir(parents=True, exist_ok=True)
            job = Job(kind, folder, {**given, "kind": kind}, scratch)
            self.waiting.append(job)
            self.known[job.id] = job
            over = [one for one in self.known.values() if one.is_over]
            for old in over[:max(0, len(self.known) - MOST_KEPT)]:
                del self.known[old.id]
            self.changed.notify_all()
        return job

    def place(self, job):
        """Return how many jobs come before one that waits, the running one included."""
        with self.changed:
            if job not in self.waiting:
                return 0
            return self.waiting.index(job) + (self.running is not None)

    def of(self, folder):
        """Return the last job of a folder of results; None without one."""
        with self.changed:
            return next((job for job in reversed(self.known.values())
                         if job.folder == folder and job.kind != "elevation"), None)

    def unfinished(self):
        """Return the jobs that run or wait, in their order."""
        with self.changed:
            return [job for job in (self.running, *self.waiting) if job is not None]

    def cancel(self, job):
        """End a job: one that waits at once; one that runs keeps what it can.

        A second time the process is ended, whatever it does.
        """
        with self.changed:
            if job in self.waiting:
                self.waiting.remove(job)
                self._end(job, "cancelled")
            elif job is self.running and job.code is None:      # else the process has done with it
                job.cancelled += 1
                self._signal(signal.SIGINT if job.cancelled == 1 else signal.SIGKILL)

    def close(self):
        """End all jobs; wait for the one that runs, which ends as `cancel` ends it.

        A KeyboardInterrupt while it waits, a second Ctrl-C, ends the process at once.
        """
        with self.changed:
            self.is_closed = True
            for job in list(self.waiting):
                self.waiting.remove(job)
                self._end(job, "cancelled")
            if self.running is not None:
                self.log(f"{self.running.folder}: is being cancelled; what is finished stays."
                         " Ctrl-C again ends it at once")
                if not self.running.cancelled:
                    self.cancel(self.running)
            elif self.process is not None:
                self.process.stdin.close()
            self.changed.notify_all()
            try:                # not by thread.join, which takes it for ended if it is interrupted
                self.changed.wait_for(lambda: self.running is None)
            except KeyboardInterrupt:
                self._signal(signal.SIGKILL)
        self.thread.join(END_SECONDS)
        if self.process is not None and self.process.poll() is None:
            self._signal(signal.SIGKILL)

    def _signal(self, number):
        with suppress(OSError, AttributeError):
            self.process.send_signal(number)

    def _end(self, job, state):
        job.state = state
        shutil.rmtree(job.scratch, ignore_errors=True)
        self.changed.notify_all()

    def _work(self):
        while True:
            with self.changed:
                while not self.waiting and not self.is_closed:
                    self.changed.wait()
                if self.is_closed:
                    return
                job = self.running = self.waiting.popleft()
                job.state = "running"
            try:
                code = self._do(job)
            except (OSError, ValueError) as error:      # it cannot be started
                code = None
                job.lines.append(f"the computing process failed: {error}")
            with self.changed:
                self.running = None
                self._end(job, STATES.get(code, "failed"))

    def _do(self, job):
        """Let the process do a job; return its exit code."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        with self.changed:
            if job.cancelled:           # before there was a process
                return 130
        self.speaker = job
        self.all_said.clear()
        with suppress(BrokenPipeError):         # it has died: `events` ends at once
            self.process.stdin.write(json.dumps({**job.given, "scratch": str(job.scratch)}) + "\n")
            self.process.stdin.flush()
        for line in self.events:        # until the job, or the process, ends
            event = json.loads(line)
            if "code" in event:
                with self.changed:      # from now on nobody signals it
                    job.code = event["code"]
                break
            job.progress = event.get("progress", job.progress)
            job.steps_drawn += "preview" in event
            job.elevation = event.get("elevation", job.elevation)
        code = job.code
        if code is not None:
            self.all_said.wait(SAID_SECONDS)
        if code in (None, 130) or job.cancelled:    # a signal that came too late ends it, too
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
            self.printed.join(1)
            died = self.process.wait()
            if code is None and not job.cancelled:
                job.lines.append(f"the computing process ended unexpectedly ({_cause(died)})")
            code = 130 if code is None and job.cancelled else code
        return code

    def _start(self):
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [*self.command, str(write)], cwd=self.directory, env=self.environment,
            pass_fds=(write,), text=True, encoding="utf-8", errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True)         # Ctrl-C in the terminal is the page's alone
        os.close(write)
        self.events = os.fdopen(read, encoding="utf-8")
        self.printed = threading.Thread(target=self._listen, args=(self.process,), daemon=True)
        self.printed.start()

    def _listen(self, process):
        for line in process.stdout:
            line = line.rstrip()
            if line == END:
                self.all_said.set()
            elif line:
                self.log(line)
                for folder in (self.output, self.speaker.scratch):      # users need not know them
                    line = line.replace(f"{folder}/", "")
                self.speaker.lines.append(line)


def _cause(code):
    if code == -signal.SIGKILL:
        return "killed, as the kernel does when memory is short"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
