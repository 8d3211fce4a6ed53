"""Make `sgm` the package of this checkout, installed or not: each tool imports this first."""
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
_found = importlib.util.find_spec("sgm")
if _found is None or Path(_found.origin or "").resolve() != ROOT / "sgm" / "__init__.py":
    sys.exit(
        f"{Path(sys.argv[0]).name}: found the package sgm in {_found and _found.origin}, expected"
        f" the one of {ROOT}: another project uses the same name; uninstall it, or use another"
        " environment"
    )

import sgm.common.startup  # noqa: E402, F401
