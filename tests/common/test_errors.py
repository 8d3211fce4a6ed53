"""What the user can correct is one line; what is our mistake stays a traceback."""
import errno

import pytest

from sgm.common.cli import exit_code
from sgm.common.errors import InputError, argument


def raiser(error):
    def main(argv):
        raise error
    return main


@pytest.mark.parametrize("error, said", [
    (InputError("a\nb: found\x1b c"), "x: a b: found? c"),
    (InputError("y" * 5000), "x: " + "y" * 1997 + "..."),
    (OSError(errno.ENOSPC, "No space left on device", "out/a\nb"), "x: out/a b: No space left on device; free space"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/a"), "x: f/a: Not a directory; a file stands where a folder is"),
    (OSError("odd"), "x: a file: odd; give a path that may be read and written"),
    (MemoryError("Unable to allocate 9 TiB"), "x: not enough memory (Unable to allocate 9 TiB); ask for less at once")])
def test_what_the_user_can_mend_is_one_line(error, said, capsys):
    assert exit_code("x", raiser(error)) == 2
    assert capsys.readouterr().err.startswith(said)


def test_what_is_our_mistake_stays_a_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code("x", raiser(ZeroDivisionError()))


def test_errors_speak_of_flags_in_commands_only(capsys):
    def main(argv):
        raise InputError(f"{argument('frame_ratio')} and {argument('sign', '--azimuth-sign')}")
    assert exit_code("x", main) == 2
    assert capsys.readouterr().err == "x: --frame-ratio and --azimuth-sign\n"
    with pytest.raises(InputError, match="^frame_ratio and sign$"):
        main(None)
