"""What the demonstration runs, and what it says at its end about the next command."""
import sys

import image_to_mesh
import pytest
import views_to_mesh
from support.commands import load_tool

import simple_video_sample

demo = load_tool("demo")


def test_the_next_commands_need_the_same_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert demo.environment() == (", once in each shell: source .venv/bin/activate (or call .venv/bin/python instead of"
                                  " python)")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)         # no environment: the Python itself
    assert demo.environment() == f": {sys.executable} simple_video_sample.py --help"


@pytest.mark.parametrize("failing", [None, image_to_mesh])
def test_the_chain_comes_last_and_its_page_is_named(failing, tmp_path, monkeypatch, capsys):
    ran = []

    def stub(module):
        def main(argv):
            ran.append(module.parse(argv))              # the flags are the command's own
            return 3 if module is failing else 0
        monkeypatch.setattr(module, "main", main)
        monkeypatch.setitem(sys.modules, module.__name__, module)   # other tests load commands anew

    for module in (simple_video_sample, views_to_mesh, image_to_mesh):
        stub(module)
    monkeypatch.setattr("sgm.render.sets.folders.render_folders", lambda *items: None)
    assert demo.main(["--output", str(tmp_path)]) == (3 if failing else 0)
    sampled, meshed, chained = ran
    assert sampled.image.endswith("coffee.png") and meshed.output == tmp_path / "mesh"
    assert chained.image == str(tmp_path / "inputs" / "object.png") and chained.output == str(tmp_path)
    assert (tmp_path / "inputs" / "object.png").is_file()
    assert (f"{tmp_path}/object_23/report.html" in capsys.readouterr().out) == (failing is None)
