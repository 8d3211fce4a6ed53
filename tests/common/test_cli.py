"""How a command ends: the signals it answers, and what it prints."""
import os
import signal
import subprocess
import sys

import pytest
from support.paths import ROOT

from sgm.common.cli import Arguments, exit_code, float_list, float_range, loading
from sgm.common.errors import InputError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, InputError])
def test_signals_also_when_a_library_makes_other_errors_of_them(number, error, capsys):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def main(argv):
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 1)          # let it arrive
        except KeyboardInterrupt:
            raise error("inside") from None
    assert exit_code("x", main, interrupted="the rest stays") == 130
    assert capsys.readouterr().err == "\nx: the rest stays\n"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


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
