"""The first import of every command: Ctrl-C while modules load ends it without a traceback.

`sgm.common.cli.exit_code` takes over when the command's `main` runs.
"""
import signal
import sys
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]
_started = getattr(sys.modules.get("__main__"), "__file__", None)
_folder = _started and Path(_started).resolve().parent
_is_command = _folder in (_CHECKOUT, _CHECKOUT / "tools")
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
