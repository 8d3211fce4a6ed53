"""What the demonstration says at its end about the next command."""
import sys

from support.commands import load_tool

demo = load_tool("demo")


def test_the_next_commands_need_the_same_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert demo.environment() == (", once in each shell: source .venv/bin/activate (or call .venv/bin/python instead of"
                                  " python)")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)         # no environment: the Python itself
    assert demo.environment() == f": {sys.executable} simple_video_sample.py --help"
