"""How a command ends: the signals it answers, and what it prints."""
import logging
import os
import pty
import signal
import subprocess
import sys

import pytest
from support.paths import ROOT

from sgm.common.cli import (
    Arguments,
    _leave_terminal,
    exit_code,
    float_list,
    float_range,
    loading,
    loudness,
    until_stopped,
)
from sgm.common.errors import InputError

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InputError])
def test_signals_also_when_a_library_makes_other_errors_of_them(number, error, capsys):
    before = [signal.getsignal(n) for n in SIGNALS]

    def main(argv):
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 1)          # let it arrive
        except KeyboardInterrupt:
            raise error("inside") from None
    assert exit_code("x", main, interrupted="the rest stays") == 130
    assert capsys.readouterr().err == "\nx: the rest stays\n"
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_a_handler_of_the_caller_and_nohup_are_left_alone():
    def main(argv):
        with loading():
            return signal.getsignal(signal.SIGINT)

    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert exit_code("x", main) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, earlier)


def test_names_that_are_no_text_can_be_printed():
    code = "import sys; from sgm.common.cli import exit_code; sys.exit(exit_code('x', lambda _: print('cup\\udcff \\u676f')))"
    for encoding, expected in (("utf-8", "cup\\udcff 杯\n"), ("ascii", "cup\\udcff \\u676f\n")):
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                                env={**os.environ, "PYTHONIOENCODING": encoding})
        assert result.returncode == 0 and result.stdout.decode() == expected


@pytest.mark.parametrize("words, expected", [
    ("--list -5,0,10", [-5, 0, 10]), ("--list -.5,1", [-0.5, 1]), ("--list=-5,0", [-5, 0]), ("--list -1e1", [-10]),
    ("--pair -1e-3 -2", [-1e-3, -2]), ("--pair 1 -.5e1", [1, -5])])
def test_values_that_begin_with_a_minus(words, expected):
    parser = Arguments()
    below = parser.add_subparsers().add_parser("below")
    for one in (parser, below):
        one.add_argument("--list", type=float_list)
        one.add_argument("--pair", type=float_range(-10, 10), nargs=2)
    for argv in (words.split(), ["below", *words.split()]):
        found = parser.parse_args(argv)
        assert (found.list or found.pair) == expected


def test_flags_are_flags_still(capsys):
    parser = Arguments()
    parser.add_argument("--list", type=float_list)
    with pytest.raises(SystemExit):
        parser.parse_args(["--list", "--version"])
    assert "expected one argument" in capsys.readouterr().err


def test_a_closed_terminal_lets_the_step_end_and_be_saved():
    before = signal.getsignal(signal.SIGHUP)
    with until_stopped() as stopped:
        os.kill(os.getpid(), signal.SIGHUP)
        signal.sigtimedwait([], 0.01)
        assert stopped == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGHUP) == before


def test_what_is_said_to_a_closed_terminal_fails_nothing():
    ours, terminal = pty.openpty()
    kept = {output: os.dup(output) for output in (1, 2)}
    try:
        for output in kept:
            os.dup2(terminal, output)
        _leave_terminal(signal.SIGHUP)
        there = os.fstat(2).st_rdev == os.fstat(terminal).st_rdev
        os.close(ours)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(2, b"step 3")
        _leave_terminal(signal.SIGHUP)
        written = [os.write(output, b"step 3") for output in kept]
    finally:
        for output, copy in kept.items():
            os.dup2(copy, output)
            os.close(copy)
        os.close(terminal)
    assert there and written == [6, 6]


def test_an_interrupted_compiler_leaves_no_pages_and_no_files(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("rank_0/om/analyze_fail.ir", "rank_1/om/analyze_fail.ir", "rank_1/om/kept.txt", "rank_2/om/analyze_fail.ir"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.utime(_written(tmp_path / "rank_2/om/analyze_fail.ir"), (1, 1))      # of an earlier program

    def main(argv):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
        except KeyboardInterrupt:
            for name in ("rank_0/om/analyze_fail.ir", "rank_1/om/analyze_fail.ir", "rank_1/om/kept.txt"):
                _written(tmp_path / name)
            os.write(2, b"The function call stack (See file ...")
            raise RuntimeError from None
    assert exit_code("x", main) == 130
    assert capfd.readouterr().err == "\nx: interrupted\n"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "rank_1/om/kept.txt", "rank_2/om/analyze_fail.ir"] and not (tmp_path / "rank_0").exists()


def _written(path):
    path.write_text("graph")
    return path


def parser():
    made = Arguments(prog="x")
    made.add_subparsers(dest="command").add_parser("go").add_argument("--n", type=int)
    return made


@pytest.mark.parametrize("argv, quiet, verbose, wanted", [
    (["go"], False, False, logging.INFO), (["--quiet", "go", "--n", "1"], True, False, logging.WARNING),
    (["go", "--quiet"], True, False, logging.WARNING), (["go", "--verbose"], False, True, logging.DEBUG)])
def test_all_commands_are_quiet_or_verbose(argv, quiet, verbose, wanted, monkeypatch):
    monkeypatch.setenv("GLOG_v", "2")
    args = parser().parse_args(argv)
    assert (args.quiet, args.verbose, logging.getLogger("sgm").level) == (quiet, verbose, wanted)
    assert loudness(args) == ["--quiet"] * quiet + ["--verbose"] * verbose


def test_verbose_errors_have_their_traceback(caplog):
    def main(argv):
        parser().parse_args(argv)
        raise InputError("bad")
    assert exit_code("x", main, ["go"]) == 2 and not caplog.records
    assert exit_code("x", main, ["go", "--verbose"]) == 2
    assert caplog.records[-1].exc_info[0] is InputError
