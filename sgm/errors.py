"""What is the user's to mend, said in one line, and how a command ends with it instead of a traceback."""
import sys


class InputError(ValueError):
    """A file, key or flag that cannot be used; the message names it, what was found, what was expected, the remedy."""

    def __init__(self, message):
        super().__init__(one_line(message))     # names in it may come from a file, and hold anything


def one_line(message):
    """A message as one printable line of at most 2000 characters, whatever the names in it hold."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    return line if len(line) <= 2000 else line[:1997] + "..."


def exit_code(name, main, argv=None, interrupted="interrupted"):
    """Run the command `name`: `main(argv)`'s own code; 2 with one line for bad input or a file that cannot be written;
    130 with the line `interrupted` for Ctrl-C."""
    try:
        return main(argv)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"{name}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{name}: {interrupted}", file=sys.stderr)
        return 130
    return 2
