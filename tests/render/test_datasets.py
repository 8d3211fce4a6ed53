"""tools/render_orbits.py for training: orbits of 84 views of which any 21 are taken, and lights of each object's own."""
import json

import numpy as np
import pytest
from PIL import Image
from support.commands import load_tool
from support.making_data import small_spec

from sgm.render.datasets import OrbitSettings, lighting_of
from sgm.render.zbuffer import SOFT, STUDIO
from sgm.train.data import DataSettings, Memo, read_clips
from sgm.train.data.examples import choose_views

render_orbits = load_tool("render_orbits")
FLAGS = ["procedural", "--count", "3", "--size", "32", "--workers", "1", "--supersample", "1", "--frames"]


@pytest.mark.parametrize("orbit", ["static", "dynamic"])
def test_any_21_of_84(orbit, tmp_path):
    """All of the 84 can be the input view; what is chosen goes once round from it, in even steps if static."""
    assert render_orbits.run([*FLAGS, "84", "--orbit", orbit, "--out", str(tmp_path / "set")]) == 0
    spec = small_spec("sv3d_p", "num_frames=21")
    (clips, skipped), _ = read_clips(DataSettings(data=[str(tmp_path / "set")], cache=False), spec, Memo())
    assert len(clips) == 3 and clips.num_frames == 84 and not skipped.reasons
    azimuths, elevations = clips[0].angles
    for condition in range(84):
        views = choose_views(np.random.default_rng(0), azimuths, 21, condition)
        steps = np.diff((azimuths[views] - azimuths[condition]) % 360, append=360)[:-2]
        assert views[-1] == condition and len(set(views)) == 21
        assert steps == pytest.approx(360 / 21) if orbit == "static" else (0 < steps).all() and steps.max() < 2 * 360 / 21
    assert (np.ptp(elevations) > 5) == (orbit == "dynamic")


def views_of(folder):
    return np.stack([np.asarray(Image.open(folder / f"{k:03d}.png")) for k in range(4)]).astype(int)


def test_varied_lighting(tmp_path, capsys):
    """Every object has lights of its own: the silhouettes stay, colours change; the seed decides, packed or not."""
    for name, more in (("fixed", ()), ("varied", ("--lighting", "varied")), ("again", ("--lighting", "varied")),
                       ("packed", ("--lighting", "varied", "--pack")),
                       ("other", ("--lighting", "varied", "--seed", "1", "--elevation", "10", "10"))):
        assert render_orbits.run([*FLAGS, "4", "--out", str(tmp_path / name), *more]) == 0
    for k in range(3):
        fixed, varied, again = (views_of(tmp_path / name / f"{k:07d}") for name in ("fixed", "varied", "again"))
        assert (fixed[..., 3] == varied[..., 3]).all() and (varied == again).all()
        solid = fixed[..., 3] == 255
        change = np.abs(fixed - varied)[solid][:, :3]
        assert 2 < change.mean() < 60
        packed = np.load(tmp_path / "packed" / "clips.npy")[k]
        assert np.abs(packed - varied[..., :3])[solid].max() <= 1
    assert json.loads((tmp_path / "varied" / "render.json").read_text())["lighting"] == "varied"
    capsys.readouterr()
    assert render_orbits.run([*FLAGS, "4", "--out", str(tmp_path / "varied")]) == 2     # no two kinds in one set
    assert "lighting varied" in capsys.readouterr().err


def test_sets_from_before_have_fixed_lights(tmp_path, capsys):
    assert render_orbits.run([*FLAGS, "4", "--out", str(tmp_path / "old")]) == 0
    note = tmp_path / "old" / "render.json"
    recorded = json.loads(note.read_text())
    assert recorded.pop("lighting") == "fixed"
    note.write_text(json.dumps(recorded))
    assert render_orbits.run([*FLAGS, "4", "--out", str(tmp_path / "old")]) == 0
    assert render_orbits.run([*FLAGS, "4", "--out", str(tmp_path / "old"), "--lighting", "varied"]) == 2
    assert "lighting fixed" in capsys.readouterr().err


def test_lights_stay_soft_and_above():
    seen = []
    for k in range(200):
        lights = lighting_of(f"object{k}", OrbitSettings(lighting="varied"), STUDIO)
        key, fill = np.array(lights.key_direction), np.array(lights.fill_direction)
        assert np.linalg.norm(key) == pytest.approx(1) and np.sin(np.radians(20)) <= key[2] <= np.sin(np.radians(75))
        assert fill[2] >= 0 and key[:2] @ fill[:2] < 0          # from the other side
        assert 0.3 < lights.ambient < 0.5 and lights.key + lights.ambient < 1.1
        seen.append(np.arctan2(key[1], key[0]))
    assert np.histogram(seen, 8, (-np.pi, np.pi))[0].min() > 10     # from everywhere
    assert lighting_of("object", OrbitSettings(), SOFT) is SOFT
