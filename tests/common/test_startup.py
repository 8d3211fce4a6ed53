"""A Python without the packages: every command says so in one line."""
import re
import subprocess
import sys

import pytest
from support.paths import ROOT

from sgm.common import startup
from sgm.common.cli import exit_code

COMMANDS = [ROOT / "simple_video_sample.py", ROOT / "train.py", ROOT / "benchmarks" / "bench.py",
            *(path for path in sorted((ROOT / "tools").glob("*.py")) if not path.stem.startswith("_"))]
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow", "imageio_ffmpeg": "imageio"}


def test_every_command_names_what_is_missing():
    """-S is a Python without installed packages; the commands run at the same time."""
    runs = [subprocess.Popen([sys.executable, "-S", "-E", path, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for path in COMMANDS]
    for path, run in zip(COMMANDS, runs):
        out, said = run.communicate(timeout=60)
        assert run.returncode == 2 and not out and said.count("\n") == 1
        assert said.startswith(f"{path.name}: Python {startup.VERSION} ({sys.executable}) lacks the packages mindspore, numpy,")


def test_the_list_is_that_of_the_requirements():
    text = (ROOT / "requirements.txt").read_text().lower()
    required = {re.split(r"[\[<>=]", line)[0] for line in text.splitlines() if line and not line.startswith("#")}
    assert {DISTRIBUTIONS.get(name, name) for name in startup.PACKAGES} == required


def test_the_remedy_is_the_environment_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "_CHECKOUT", tmp_path)
    assert startup.remedy().startswith("make demo installs them into .venv, pip install -r requirements.txt")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert startup.remedy() == f"source {tmp_path}/.venv/bin/activate, or call {python}"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert startup.remedy().startswith("make demo")
    monkeypatch.setattr(startup, "VERSION", "3.13")
    assert startup.remedy().endswith("3.10 to 3.12: make demo PYTHON=python3.11")


def test_a_python_that_is_too_old(monkeypatch):
    assert not startup.missing()
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    assert "expected 3.10, 3.11 or 3.12" in startup.missing()


@pytest.mark.parametrize("error, said", [
    (ModuleNotFoundError("No module named 'tqdm'", name="tqdm"), f") lacks the package tqdm; {startup.remedy()}"),
    (ImportError("libGL.so.1: cannot open shared object file", name="cv2"),
     "cv2: cannot be imported (libGL.so.1: cannot open shared object file); docs/troubleshooting.md")])
def test_a_package_that_only_main_imports(error, said, capsys):
    def main(argv):
        raise error
    assert exit_code("x", main) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1


def test_one_that_does_not_load_at_the_start(tmp_path):
    (tmp_path / "yaml.py").write_text("raise ImportError('libyaml.so: cannot\\nopen', name='yaml')")
    run = subprocess.run([sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True, timeout=60,
                         env={"PYTHONPATH": str(tmp_path)})
    assert run.returncode == 2 and run.stderr == ("train.py: yaml: cannot be imported (libyaml.so: cannot open);"
                                                  " docs/troubleshooting.md, Installation, names the usual causes\n")
