"""Progress: bars for a terminal, lines for a log, nothing when quiet; time left without the first step."""
import io
import logging
import re
import sys
import time

import pytest

from sgm.common import progress
from sgm.common.progress import Bar, Chain, each, job_begins, progress_bar, say, stage_begins


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


def test_chain_tells_the_time_left_of_all_jobs(clock):
    with Chain([{"sample": 10, "decode": 10}, {"nerf": 100, "texture": 50}], quiet=True) as chain:
        job_begins("cup.png", 1, 2)
        stage_begins("sample")
        clock(5)
        assert chain.left(1005) == 5 + 10 + 20 + 2 * 150
        clock(15)
        stage_begins("decode")                      # sampling took twice the guess, so will the rest of this part
        assert chain.left(1020) == 20 + 40 + 2 * 150
        clock(60)
        assert chain.left(1080) == 0 + 40 + 2 * 150
        clock(-40)
        job_begins("mug.png", 2, 2)                 # 20 s each, as for the first image
        assert chain.left(1040) == 40 + 2 * 150
        job_begins("cup", 1, 1)                     # of the other image nothing came
        stage_begins("nerf")
        with Bar(50, "nerf") as bar:
            clock(80)
            bar.update()                            # compiles: tells nothing
            assert chain.left(1120) == 20 + 50
            clock(10)
            bar.update(10)
            bar.say("psnr 20 dB")
            assert chain.left(1130) == 39 + 50
            assert chain.line(1130) == "cup, stage 3 of 4, nerf: 11 of 50 steps, psnr 20 dB, 01:29 left"
            stage_begins("texture")
            assert chain.line(1130) == "cup, stage 4 of 4, texture, 00:45 left"     # nerf took 90 s, not 100
    assert bar.left(1130) == 39                     # as before, but no longer of a chain


def test_chain_in_a_log_and_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    monkeypatch.setattr(progress, "DRAW_SECONDS", 0.01)
    with Chain([{"nerf": 100}]):
        job_begins("cup", 1, 1)
        stage_begins("nerf")
        with Bar(2, "nerf", waiting="compiling") as bar:
            bar.update()
            bar.write("a line")
            wait_for(lambda: "left" in capsys.readouterr().err)
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with Chain([{"nerf": 100}]):
        job_begins("cup", 1, 1)
        stage_begins("nerf")
        logging.getLogger("sgm").warning("a warning")
        say("said")
        wait_for(lambda: re.search(r"\rcup, stage 1 of 1, nerf, 01:\d\d left +\d+%\|", screen.getvalue()))
    assert "\n" not in screen.getvalue().replace("a warning\n", "") and "compiling" not in screen.getvalue()
    assert capsys.readouterr().out == "said\n"


def wait_for(true):
    end = time.time() + 60
    while not true():
        assert time.time() < end
        time.sleep(0.02)


def test_a_chain_tells_its_state_instead_of_showing_it(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DRAW_SECONDS", 0.01)
    told = []
    with Chain([{"condition": 5, "sample": 15}], tell=told.append):
        job_begins("cup.jpg", 1, 1)
        stage_begins("sample")
        with Bar(3, "sample", waiting="compiling") as bar:
            bar.update()
            bar.say("psnr 20 dB")
            while not told or told[-1]["steps"] is None:
                time.sleep(0.01)
    state = told[-1]
    assert (state["stage"], state["number"], state["stages"], state["steps"]) == ("sample", 2, 2, [1, 3])
    assert state["note"] == "psnr 20 dB" and state["left"] >= 0 and state["took"] >= 0
    assert capsys.readouterr() == ("", "")
