"""How far long work is: a bar on a terminal, now and then a line in a log, nothing when quiet."""
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from sgm.common.errors import one_line

LINE_SECONDS = 20       # between two lines of a log
DRAW_SECONDS = 0.5      # between two states of a chain on a terminal
FRAMES = "|/-\\"        # of the spinner
_chains = []            # the `Chain` that shows all progress, if there is one


def is_terminal(stream=None):
    """Return whether what is written to a stream, by default stderr, is seen on a terminal."""
    stream = stream or sys.stderr
    return stream is not None and not stream.closed and stream.isatty()


class Bar:
    """Context manager: counts steps; stderr shows them.

    A terminal has a spinner with the text `waiting` until the first step has ended, then a bar
    with the time left. Anything else gets `waiting` as a line, and a line of the same content every
    LINE_SECONDS and at the end. Time left counts from the end of the first step, which compiles.
    total: number of steps, None where there is nothing to count. initial: steps of an earlier run.
    leave: whether the bar stays on the terminal. quiet: show nothing. Within a `Chain` it shows
    nothing itself: the chain's line tells its state.
    """

    def __init__(self, total=None, desc="", unit="step", *, initial=0, waiting="", leave=False,
                 quiet=False):
        self.total, self.desc, self.unit, self.initial = total, desc, unit, initial
        self.done, self.note, self.started = initial, "", None
        self.quiet, self.leave, self.terminal = quiet or bool(_chains), leave, is_terminal()
        if _chains:
            _chains[-1].bar = self
        self.bar, self.told = None, time.monotonic()
        self.spinner = None
        if waiting and not self.quiet:
            text = f"{desc}: {waiting}" if desc else waiting
            if self.terminal:
                self.spinner = _Spinner(text)
            else:
                print(f"{text} ...", file=sys.stderr, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def update(self, count=1):
        """Count `count` further steps."""
        self.done += count
        now = time.monotonic()
        if self.started is None:
            self._stop_spinner()
            self.started, self.initial = now, self.done
            if self.terminal and not self.quiet and self.total is not None:
                # smoothing 0: the mean over the steps that were seen, the first not among them
                self.bar = _Bar(total=self.total, desc=self.desc or None, unit=self.unit,
                                initial=self.done, smoothing=0, leave=self.leave,
                                unit_scale=self.unit == "B")
        elif self.bar is not None:
            self.bar.update(count)
        if not self.terminal and not self.quiet and (
                self.done == self.total or now - self.told >= LINE_SECONDS):
            self.told = now
            print(self.line(now), file=sys.stderr, flush=True)

    def line(self, now):
        """Return the state as text: "nerf: 20 of 400 steps, 1:10 left, psnr 20 dB"."""
        named = f"{self.desc}: " * bool(self.desc)
        scale, unit = 1, f" {self.unit}s"
        if self.unit == "B":
            scale, unit = 1e6, " MB"
        text = f"{named}{self.done / scale:.0f} of {self.total / scale:.0f}{unit}"
        left = self.left(now)
        if left and not _chains:                # a chain tells the time left of all
            text += f", {tqdm.format_interval(round(left))} left"
        return text + f", {self.note}" * bool(self.note)

    def left(self, now):
        """Return the seconds left by the steps seen so far; None before there are any to go by."""
        seen = self.done - self.initial
        if not seen or self.started is None or self.total is None:
            return None
        return (now - self.started) / seen * (self.total - self.done)

    def say(self, text):
        """Add a note to the bar, shown with its next change."""
        self.note = text
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)

    def write(self, text, file=None):
        """Print a line above the bar, by default to stdout."""
        if self.bar is None and self.spinner is None:
            say(text, file)
        else:
            tqdm.write(text, file=file or sys.stdout)

    def close(self):
        """Take spinner and bar away."""
        self._stop_spinner()
        if self.bar is not None:
            self.bar.close()

    def _stop_spinner(self):
        if self.spinner is not None:
            self.spinner.stop()
            self.spinner = None


class Chain:
    """Context manager: one line over all stages of all jobs, with the time left of them all.

    A terminal has a bar that is drawn anew every DRAW_SECONDS; anything else gets a line every
    LINE_SECONDS. `job_begins`, `stage_begins` (which `sgm.ops.profiling.StageTimer` calls) and any
    `Bar` tell it what happens.
    parts: the stages in their order, as dicts {stage: seconds}; a part is done for all jobs before
    the next one begins. The seconds are a first guess: within a part, the stages that are over tell
    by which factor it is wrong, and each job tells the seconds of those after it. quiet: show
    nothing. tell: called with `state` every DRAW_SECONDS, instead of showing anything here.
    """

    def __init__(self, parts, quiet=False, tell=None):
        self.parts, self.quiet, self.tell = [dict(part) for part in parts], quiet, tell
        self.part, self.job, self.number, self.count = 0, "", 0, 1
        self.stage, self.bar, self.spent = None, None, {}
        self.since = self.began = self.told = time.monotonic()
        self.shown, self.over = None, threading.Event()
        self.thread = threading.Thread(target=self._draw_on, daemon=True)
        self.stack = ExitStack()

    def __enter__(self):
        _chains.append(self)
        if self.tell:
            self.thread.start()
        elif not self.quiet:
            if is_terminal():
                self.shown = self.stack.enter_context(_Bar(
                    total=1, bar_format="{desc} {percentage:3.0f}%|{bar:12}|", leave=False))
            self.stack.enter_context(logging_redirect_tqdm())
            self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        if self.thread.is_alive():
            self.thread.join()
        self.stack.close()
        _chains.remove(self)

    def begin_job(self, job, number, count):
        """Note that the job of a name begins, as `number` of `count` of its part."""
        self._end_stage()
        for part in self.parts:
            part.update({name: self.spent[name] for name in part if name in self.spent})
        self.job, self.number, self.count, self.spent = job, number, count, {}

    def begin(self, stage):
        """Note that a stage begins, which ends the one before."""
        self._end_stage()
        self.stage, self.since = stage, time.monotonic()
        self.part = next((k for k, part in enumerate(self.parts) if stage in part), self.part)

    def _end_stage(self):
        if self.stage is not None:
            self.spent[self.stage] = time.monotonic() - self.since
        self.stage = self.bar = None

    def left(self, now):
        """Return the seconds left of all jobs."""
        part, bar, spent = self.parts[self.part], self.bar, dict(self.spent)
        planned = sum(part.get(name, 0) for name in spent)
        factor = sum(spent[name] for name in spent if name in part) / planned if planned else 1.0
        left = 0.0
        for name, seconds in part.items():
            if name == self.stage:
                known = None if bar is None else bar.left(now)
                guess = max(factor * seconds - (now - self.since), 0)
                left += guess if known is None else known
            elif name not in spent:
                left += factor * seconds
        left += (self.count - self.number) * factor * sum(part.values())
        return left + self.count * sum(sum(later.values()) for later in self.parts[self.part + 1:])

    def line(self, now):
        """Return the state as text: "cup.jpg, stage 5 of 9, nerf: 20 of 400 steps, 01:10 left"."""
        stages, stage, bar = [name for part in self.parts for name in part], self.stage, self.bar
        text = self.job + f" ({self.number} of {self.count})" * (self.count > 1)
        if stage is not None:
            place = f"stage {stages.index(stage) + 1} of {len(stages)}, " if stage in stages else ""
            text += f", {place}{stage}"
        if bar is not None and bar.total and bar.done:
            text += ": " + bar.line(now).removeprefix(f"{bar.desc}: ")
        return f"{text}, {tqdm.format_interval(round(self.left(now)))} left"

    def state(self, now):
        """Return what `line` says as a dict: stage, its number of `stages`, steps, seconds left.

        steps: [done, total] of the stage, or None; note: what is said of its last step.
        """
        stages, bar = [name for part in self.parts for name in part], self.bar
        is_counted = bar is not None and bar.total and bar.done
        return {"stage": self.stage, "stages": len(stages),
                "number": stages.index(self.stage) + 1 if self.stage in stages else None,
                "steps": [bar.done, bar.total] if is_counted else None,
                "note": bar.note if is_counted else "", "left": round(self.left(now), 1),
                "took": round(now - self.began, 1)}

    def _draw_on(self):
        while not self.over.wait(DRAW_SECONDS):
            now = time.monotonic()
            if self.tell:
                self.tell(self.state(now))
            elif self.shown is not None:
                took = now - self.began
                self.shown.n = took / (took + self.left(now))
                self.shown.set_description_str(self.line(now))
            elif now - self.told >= LINE_SECONDS:
                self.told = now
                print(self.line(now), file=sys.stderr, flush=True)


def job_begins(job, number, count):
    """Tell the `Chain` that shows all progress, if there is one, which of its jobs begins."""
    if _chains:
        _chains[-1].begin_job(job, number, count)


def stage_begins(stage):
    """Tell the `Chain` that shows all progress, if there is one, which stage begins."""
    if _chains:
        _chains[-1].begin(stage)


def say(text, file=None):
    """Print a line, by default to stdout, above the line of a `Chain` if there is one."""
    if _chains:
        tqdm.write(text, file=file or sys.stdout)
    else:
        print(text, file=file or sys.stdout, flush=True)


def each(items, desc, unit="step", quiet=False):
    """Yield items while a `Bar` counts them."""
    items = list(items)
    with Bar(len(items), desc, unit, quiet=quiet) as bar:
        for item in items:
            yield item
            bar.update()


class _Bar(tqdm):
    """A tqdm bar that only its `with` block closes."""

    def __del__(self):
        """Do nothing: Ctrl-C while Python deletes an object prints a traceback."""


class _Spinner:
    """A line on stderr that turns and counts seconds, until `stop`."""

    def __init__(self, text):
        self.text, self.started, self.over = text, time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self._turn, daemon=True)
        self.thread.start()

    def _turn(self):
        k = 0
        while not self.over.is_set():
            seconds = time.monotonic() - self.started
            self._draw(f"{FRAMES[k % len(FRAMES)]} {self.text}, {seconds:.0f} s")
            k += 1
            self.over.wait(0.25)

    def _draw(self, text):
        try:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        except (OSError, ValueError):           # the terminal is gone
            self.over.set()

    def stop(self):
        """End it and clear its line."""
        self.over.set()
        self.thread.join()
        self._draw("")


@contextmanager
def progress_bar(unit, quiet=False):
    """Context manager: gives progress(done, total, failure=None), which shows a `Bar` on stderr.

    It appears with the first call. failure: (name, reason) of what just failed, printed as a line
    of its own.
    """
    bars = []

    def progress(done, total, failure=None):
        if not bars:  # what was finished before says nothing about the speed of this run
            bars.append(Bar(total, unit=unit, initial=done - 1, leave=True, quiet=quiet))
        bars[0].update(done - bars[0].done)
        if failure:
            bars[0].write(one_line(f"failed: {failure[0]}: {failure[1]}"), file=sys.stderr)

    try:
        yield progress
    finally:
        for bar in bars:
            bar.close()
