"""What a stage saves for --resume, damaged in every way that is not a broken zip file."""
import json

import numpy as np
import pytest

from sgm.reconstruct.pipeline import _of_surface
from sgm.reconstruct.posed_views import ShapeError
from sgm.reconstruct.stage_files import Work, load_state, restore_state, save_state

GOOD = {"sdf": np.zeros((3, 3, 3), np.float32), "step": np.array(4), "history": np.array([[1, np.inf]]),
        "chosen": np.array(json.dumps({"a": 1}))}


@pytest.mark.parametrize("name, value, said", [
    ("sdf", np.full((3, 3, 3), np.nan), "sdf has values that are not finite"), ("step", np.array(-1), "step is -1"),
    ("step", np.array(2 ** 40), "step is 1099511627776"), ("sdf.steps", np.array(-5), "sdf.steps is -5"),
    ("done", np.zeros(3), "cannot be read"), ("step", np.array("x"), "cannot be read")])
def test_states(name, value, said, tmp_path):
    path = tmp_path / "nerf.npz"
    save_state(path, GOOD)
    assert load_state(path)["step"] == 4        # the history of a loss may hold an infinite figure
    save_state(path, {**GOOD, name: value})
    with pytest.raises(ShapeError, match="nerf.npz: cannot be read .*; remove it, or run without resume") as refusal:
        load_state(path)
    assert said in str(refusal.value)


@pytest.mark.parametrize("change", [
    {"chosen": np.array("{")}, {"chosen": np.array("[1]")}, {"sdf": np.zeros((3, 4, 3))}, {"sdf": np.zeros(3)}, {"sdf": None}])
def test_what_a_stage_takes_from_one(change, tmp_path):
    arrays = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    assert restore_state(tmp_path / "surface.npz", _of_surface, GOOD)[1] == {"a": 1}
    with pytest.raises(ShapeError, match="surface.npz: cannot be read"):
        restore_state(tmp_path / "surface.npz", _of_surface, arrays)


@pytest.mark.parametrize("text", ["", "[1]", "3", "{", "null", "[" * 100_000, "\xff"])
def test_notes(text, tmp_path):
    work = Work(tmp_path)
    save_state(work.file("nerf"), GOOD)
    (tmp_path / "nerf.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ShapeError, match="nerf.json: found no JSON mapping"):
        work.differing("nerf", {"a": 1})
