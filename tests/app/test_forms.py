"""What a browser sends becomes flags, or an error that names the field."""
import math

import pytest
from _app import forms

import simple_video_sample
from sgm.common.errors import InputError
from sgm.config.model_files import load_spec

VIEWS = {"elevation": 12.5, "orbit": "default", "amplitude": 20, "steps": 3, "seed": 7, "guidance": 2.0}
MESH = {"config": "fast", "light": "separate", "elevation_from": "cameras", "elevation": 5, "distill": False, "resume": False}


def views(**changes):
    argv = forms.views_argv({**VIEWS, **changes}, load_spec("sv3d_p").sampling)
    return simple_video_sample.parse(["--image=cup.png", *argv])


def test_views_get_the_flags_of_the_command():
    args = views()
    assert (args.elevation, args.orbit, args.steps, args.seeds, args.guidance) == (12.5, None, 3, [7], [1.0, 2.0])
    assert views(orbit="sine").orbit == "sine-20" and views(orbit="dynamic").orbit == "dynamic"
    assert views(elevation=-5).elevation == -5


@pytest.mark.parametrize("field, value", [
    ("orbit", "/etc/passwd"), ("orbit", "orbit.json"), ("orbit", ["static"]), ("orbit", None), ("elevation", 90), ("elevation", "10"),
    ("elevation", math.nan), ("elevation", None), ("steps", 0), ("steps", 10 ** 9), ("steps", 2.5), ("steps", True),
    ("seed", -1), ("seed", 2 ** 32), ("seed", math.inf), ("guidance", "1 --ckpt=a"), ("guidance", -1)])
def test_fields_of_views_are_checked(field, value):
    with pytest.raises(InputError, match=f"^{field}: found "):
        views(**{field: value})


def test_mesh_gets_the_flags_of_the_command():
    assert forms.mesh_argv(MESH) == (["--mesh-config=fast"], None)
    argv, elevation = forms.mesh_argv({**MESH, "light": "bake", "elevation_from": "given", "distill": True, "resume": True})
    assert argv == ["--mesh-config=fast", "--bake-light", "--distill", "--resume"] and elevation == 5
    assert forms.mesh_argv({**MESH, "light": "none", "elevation_from": "auto"}) == (["--mesh-config=fast", "--no-light"], "auto")


@pytest.mark.parametrize("field, value", [("config", "../../x.yaml"), ("config", None), ("light", "x"), ("elevation_from", "x")])
def test_fields_of_a_mesh_are_checked(field, value):
    with pytest.raises(InputError, match=f"^{field}: found "):
        forms.mesh_argv({**MESH, field: value})


def test_only_the_model_of_the_views_distills():
    with pytest.raises(InputError, match="another model"):
        forms.mesh_argv({**MESH, "distill": True}, may_distill=False)
