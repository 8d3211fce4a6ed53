"""Models by name and by path, with overrides."""
from pathlib import Path

import pytest
from support.configuring import RELEASED, error_of

from sgm.config.model import ModelSpec, UNetSpec
from sgm.config.model_files import load_spec


@pytest.mark.parametrize("given", ["sv3d_u", "configs/sv3d_u.yaml", "elsewhere/sv3d_u.yml", "sv3d_u.yaml",
                                   Path("configs/sv3d_u.yaml")])
def test_found_by_name_and_by_path_that_does_not_exist(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_spec(given) == RELEASED["sv3d_u"]


def test_an_existing_file_wins_over_its_stem(tmp_path):
    (tmp_path / "sv3d_u.yaml").write_text("name: mine\nnum_frames: 3\n")
    assert load_spec(tmp_path / "sv3d_u.yaml") == ModelSpec(name="mine", num_frames=3)


def test_overrides_come_last():
    spec = load_spec("svd_xt", ["num_frames=5", "sampling.max_scale=4", "condition.cond_aug=1e-3",
                                "unet.channel_mult=[1,2]", "unet.attention_resolutions=[2,1]", "name=a=b"])
    assert (spec.num_frames, spec.sampling.max_scale, spec.condition.cond_aug) == (5, 4.0, 1e-3)
    assert spec.unet == UNetSpec(channel_mult=[1, 2], attention_resolutions=[2, 1])
    assert spec.name == "a=b" and spec.sampling.min_scale == 1.5


@pytest.mark.parametrize("model, expected", [
    ("sv3dp", "the nearest name is sv3d_p"), ("nothing.yaml", "expected a YAML file or one of sv3d_p, "),
    ("configs", "no such file or name"), ("sv3d_u.safetensors", "the nearest name is sv3d_u"),
    (".", "found a directory"), ("", "found a directory")])
def test_a_wrong_name_lists_the_names(model, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in error_of(load_spec, model)
