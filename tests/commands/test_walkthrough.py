"""docs/walkthrough.ipynb: its cells run one after the other."""
import ast
import json
import os
import shlex
import subprocess
import sys

import pytest
from support.paths import ROOT

CELLS = ["".join(cell["source"]) for cell in json.loads((ROOT / "docs" / "walkthrough.ipynb").read_text(encoding="utf-8"))["cells"]
         if cell["cell_type"] == "code"]


def split(cell):
    """(Python, [command, ...]) of a cell: lines that begin with ! are commands."""
    lines = cell.replace("\\\n", " ").splitlines()
    return "\n".join(line for line in lines if line[:1] != "!"), [line[1:] for line in lines if line[:1] == "!"]


@pytest.mark.slow
@pytest.mark.timeout(3600)          # minutes on a busy core
def test_notebook_runs(tmp_path, monkeypatch):
    """In an empty folder with links to the clone, so that outputs stay out of it."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("outputs", "runs", "data"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in CELLS:
        python, commands = split(cell)
        for command in commands:
            words = shlex.split(command)
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, env={**os.environ, "GLOG_v": "3"})
            assert done.returncode in (0, 3), done.stdout[-2000:] + done.stderr[-2000:]
        if python.strip():
            exec(compile(ast.parse(python), "cell", "exec"), names)
    assert len(names["mesh"].faces) > 100
    assert (tmp_path / "outputs/walkthrough/lora/lora.safetensors").is_file()
