"""Progress: bars for a terminal, lines for a log, nothing when quiet; time left without the first step."""
import io
import re
import sys

import pytest

from sgm.common import progress
from sgm.common.progress import Bar, each, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test turns."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds
    return wait


def test_a_log_gets_lines_and_time_left_counts_from_the_second_step(clock, capsys):
    with Bar(50, "nerf", waiting="compiling the first step") as bar:
        clock(80)                                   # compiles
        bar.update()
        for _ in range(49):
            clock(1)
            bar.say("psnr 20 dB")
            bar.update()
    assert capsys.readouterr().err.splitlines() == [
        "nerf: compiling the first step ...", "nerf: 1 of 50 steps", "nerf: 21 of 50 steps, 00:29 left, psnr 20 dB",
        "nerf: 41 of 50 steps, 00:09 left, psnr 20 dB", "nerf: 50 of 50 steps, psnr 20 dB"]


def test_a_terminal_gets_a_spinner_and_then_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with Bar(4, "sample", waiting="compiling") as bar:
        while "compiling" not in screen.getvalue():
            pass
        for _ in range(4):
            bar.update()
    shown = screen.getvalue()
    assert re.search(r"\r\x1b\[K. sample: compiling, 0 s\r\x1b\[K", shown)
    assert shown.index("compiling") < shown.index("sample:  25%")
    assert re.search(r"1/4 \[00:00<\?, \?step/s", shown)   # the first step says nothing about the speed
    assert "\n" not in shown


def test_quiet_shows_nothing(capsys):
    with Bar(2, "sample", waiting="compiling", quiet=True) as bar:
        bar.update(2)
    with progress_bar("object", quiet=True) as tell:
        tell(1, 1, ("a", "broken"))
    assert list(each("ab", "views", quiet=True)) == ["a", "b"]
    assert capsys.readouterr().err == "failed: a: broken\n"      # which is no progress


def test_bytes_are_megabytes(capsys):
    with Bar(5_000_000, "write", "B") as bar:
        bar.update(5_000_000)
    assert capsys.readouterr().err == "write: 5 of 5 MB\n"


def test_counting_goes_on_where_an_earlier_run_ended(capsys, clock):
    with progress_bar("object") as tell:
        tell(8, 10)
        clock(30)
        tell(9, 10)
        tell(10, 10)
    assert capsys.readouterr().err.splitlines() == ["9 of 10 objects, 00:30 left", "10 of 10 objects"]
