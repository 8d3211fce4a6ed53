"""The first import of every command: ends it in one line where Python or a package is missing.

Also, Ctrl-C while modules load ends it without a traceback; `sgm.common.cli.exit_code` takes over
when the command's `main` runs. Only the standard library, so that it runs in any Python 3.
"""
import importlib.util
import signal
import sys
from pathlib import Path

OLDEST, VERSION = (3, 10), ".".join(map(str, sys.version_info[:2]))
# what requirements.txt installs, under the names that are imported
PACKAGES = ("mindspore", "numpy", "scipy", "cv2", "omegaconf", "yaml", "PIL", "safetensors",
            "imageio", "imageio_ffmpeg", "tqdm", "numba", "trimesh")
_CHECKOUT = Path(__file__).resolve().parents[2]


def missing():
    """Return what this Python lacks, as a text; something empty if it has all."""
    if sys.version_info < OLDEST:
        return f"found Python {VERSION} ({sys.executable}), expected 3.10, 3.11 or 3.12"
    return _lacks([name for name in PACKAGES if not _is_installed(name)])


def _is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):           # a module that hides it
        return False


def _lacks(names):
    kind = "packages" if names[1:] else "package"
    return names and f"Python {VERSION} ({sys.executable}) lacks the {kind} {', '.join(names)}"


def remedy():
    """Return what to do about `missing`: the environment of `make`, if it is there and not this."""
    environment = _CHECKOUT / ".venv"
    if (environment / "bin" / "python").exists() and Path(sys.prefix) != environment:
        return f"source {environment}/bin/activate, or call {environment}/bin/python"
    if VERSION not in ("3.10", "3.11", "3.12"):
        return "MindSpore has packages for Python 3.10 to 3.12: make demo PYTHON=python3.11"
    return "make demo installs them into .venv, pip install -r requirements.txt into this Python"


def not_imported(error):
    """Return the line about an ImportError: a package that is there may lack a library of its own.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{_lacks([error.name])}; {remedy()}"
    return (f"{error.name or 'a package'}: cannot be imported ({error}); docs/troubleshooting.md,"
            " Installation, names the usual causes")


def _say(text):
    """End the command with a line and exit code 2."""
    print(f"{Path(_started).name}: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)


def _end(kind, error, traceback):
    """End the command with a line about a package that does not load; the hook of exceptions."""
    if not issubclass(kind, ImportError):
        return sys.__excepthook__(kind, error, traceback)
    _say(not_imported(error))


_started = getattr(sys.modules.get("__main__"), "__file__", None)
_folder = _started and Path(_started).resolve().parent
if _folder in (_CHECKOUT, _CHECKOUT / "tools", _CHECKOUT / "benchmarks"):
    _found = missing()
    if _found:
        _say(f"{_found}; {remedy()}")
    sys.excepthook = _end
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
