"""The views without rembg, installed or not."""
import sys

import pytest


@pytest.fixture(autouse=True)
def no_rembg(monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)     # importing it raises ImportError, installed or not
