"""How far long work is: a bar on a terminal, now and then a line in a log, nothing when quiet."""
import sys
import threading
import time
from contextlib import contextmanager

from tqdm import tqdm

from sgm.common.errors import one_line

LINE_SECONDS = 20       # between two lines of a log
FRAMES = "|/-\\"        # of the spinner


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
    leave: whether the bar stays on the terminal. quiet: show nothing.
    """

    def __init__(self, total=None, desc="", unit="step", *, initial=0, waiting="", leave=False,
                 quiet=False):
        self.total, self.desc, self.unit, self.initial = total, desc, unit, initial
        self.done, self.note, self.started = initial, "", None
        self.quiet, self.leave, self.terminal = quiet, leave, is_terminal()
        self.bar, self.told = None, time.monotonic()
        self.spinner = None
        if waiting and not quiet:
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
        seen, scale, unit = self.done - self.initial, 1, f" {self.unit}s"
        if self.unit == "B":
            scale, unit = 1e6, " MB"
        text = f"{named}{self.done / scale:.0f} of {self.total / scale:.0f}{unit}"
        if seen and self.done < self.total:
            left = round((now - self.started) / seen * (self.total - self.done))
            text += f", {tqdm.format_interval(left)} left"
        return text + f", {self.note}" * bool(self.note)

    def say(self, text):
        """Add a note to the bar, shown with its next change."""
        self.note = text
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)

    def write(self, text, file=None):
        """Print a line above the bar, by default to stdout."""
        if self.bar is None and self.spinner is None:
            print(text, file=file or sys.stdout, flush=True)
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
