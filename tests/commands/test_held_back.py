"""The command that measures the small model, without its network."""
import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from support.commands import load_tool
from support.paths import ROOT

from sgm.render.sets.items import procedural_items
from sgm.views.folder import Views

held_back = load_tool("held_back")


@pytest.fixture
def generated(monkeypatch):
    """One object is held back, and its generated views are white: [(sampling settings, the orbit that is told), ...]."""
    calls = []

    def generate(engine, image, orbit, seed, steps, guidance_range):
        calls.append((asdict(engine.spec.sampling), orbit))
        return Views(np.full((len(orbit), *image.shape[:2], 3), 255, np.uint8), image, orbit, {"model": "none"})

    monkeypatch.setattr("sgm.diffusion.pipeline.generate", generate)
    monkeypatch.setattr(held_back, "HELD_BACK_SEEDS", held_back.HELD_BACK_SEEDS[:1])
    return calls


def test_settings_are_changed_noted_and_kept(generated, tmp_path, capsys):
    command = ["--output", str(tmp_path / "out"), "--orbit", "dynamic"]
    changed = [*command, "--set", "sampling.start_noise=0.75"]
    assert held_back.run(changed) == 0
    assert [sampling["start_noise"] for sampling, _ in generated] == [0.75] * 3
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["set"] == ["sampling.start_noise=0.75"]
    assert (tmp_path / "out" / "views.csv").is_file() and (tmp_path / "out" / "sheet.png").is_file()
    capsys.readouterr()
    assert held_back.run(command) == 2          # the model's own settings: another experiment
    assert "settings.json: set ['sampling.start_noise=0.75'], now [])" in capsys.readouterr().err
    assert held_back.run(changed) == 0
    assert len(generated) == 3                  # what is finished is kept


def test_wrong_poses_are_told(generated, tmp_path):
    """Of the same views: azimuths a quarter turn on, poses of the next view; the input view's is the true one."""
    assert held_back.run(["--output", str(tmp_path / "out"), "--orbit", "dynamic"]) == 0
    true, quarter, one = (orbit for _, orbit in generated)
    turned = (quarter.azimuths_rad[:-1] - true.azimuths_rad[:-1]) % (2 * np.pi)
    np.testing.assert_allclose(turned, np.pi / 2, atol=1e-6)
    np.testing.assert_allclose(quarter.polars_rad, true.polars_rad)
    for name in ("azimuths_rad", "polars_rad"):
        np.testing.assert_allclose(getattr(one, name)[:-1], getattr(true, name)[1:])
    for wrong in (quarter, one):
        assert wrong.azimuths_rad[-1] == true.azimuths_rad[-1]


def test_catalogue_objects(generated, tmp_path, monkeypatch, capsys):
    """Those of the test split, with their shapes; not in the folder of the others."""
    (_, item), = procedural_items([5])
    monkeypatch.setattr("sgm.render.catalogue.catalogue_items", lambda libraries, split: [(f"{split}-{libraries[0]}", item)])
    command = ["--catalogue", "a.sh3f", "--output", str(tmp_path / "out")]
    assert held_back.run(command) == 2 and not generated
    assert "--catalogue: objects of test are also in " in capsys.readouterr().err             # none of the five libraries is there
    monkeypatch.setattr("sgm.render.catalogue.check_whole", lambda *_: None)
    assert held_back.run(command) == 0
    assert (tmp_path / "out" / "truth" / "test-a.sh3f" / "truth" / "mesh.ply").is_file() and len(generated) == 3
    assert held_back.run(["--output", str(tmp_path / "out")]) == 2
    assert "catalogue" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["held_back", "demo", "convert"])
def test_help_needs_no_mindspore(name):
    """Its import takes seconds; --help and a wrong flag answer at once."""
    code = f"import sys; sys.path.insert(0, 'tools'); import {name}; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
