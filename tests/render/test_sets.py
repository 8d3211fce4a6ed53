"""tools/render_orbits.py: sets of clips, as folders and packed; any 21 of 84 views; lights of each object's own."""
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from support.commands import ending, load_tool, tree
from support.making_data import small_spec

from sgm.geometry.mesh_reader import load_mesh
from sgm.render.procedural import make_object, on_white, render_clip
from sgm.render.sets import packing
from sgm.render.sets.objects import lighting_of
from sgm.render.sets.settings import OrbitSettings
from sgm.render.zbuffer import SOFT, STUDIO
from sgm.train.data import DataSettings, Memo, read_clips
from sgm.train.data.examples import choose_views
from sgm.views.cameras import Orbit
from sgm.views.transforms import read_orbit

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
        assert (packed == varied).all()
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


PROCEDURAL = ["procedural", "--count", "3", "--size", "16", "--frames", "4", "--workers", "1", "--out"]


def test_folders_and_pack_agree_and_resume(tmp_path, capsys):
    folders, pack = tmp_path / "folders", tmp_path / "pack"
    assert render_orbits.run([*PROCEDURAL, str(folders)]) == 0
    assert render_orbits.run([*PROCEDURAL, str(pack), "--pack"]) == 0
    clips = np.load(pack / "clips.npy", mmap_mode="r")
    assert clips.shape == (3, 4, 16, 16, 4) and np.load(pack / "names.npy").tolist() == ["0000000", "0000001", "0000002"]
    for k in range(3):
        folder = folders / f"{k:07d}"
        views = np.stack([np.asarray(Image.open(folder / f"{v:03d}.png")) for v in range(4)])
        assert (views == clips[k]).all()
        frames = json.loads((folder / "transforms.json").read_text())["frames"]
        np.testing.assert_allclose([f["elevation_deg"] for f in frames], np.load(pack / "elevations.npy")[k], atol=1e-5)
        np.testing.assert_allclose(np.load(pack / "azimuths.npy")[k], [90, 180, 270, 0])
    orbit = Orbit.static(float(np.load(pack / "elevations.npy")[1, 0]), 4)
    assert np.abs(render_clip(1, orbit, 16).astype(int) - on_white(clips[1])).max() <= 1
    elevations = np.load(pack / "elevations.npy")[:, 0]
    assert len(set(elevations)) == 3 and elevations.min() >= -5 and elevations.max() <= 30

    kept = (folders / "0000000" / "000.png").stat().st_mtime_ns
    (folders / "0000001" / "transforms.json").unlink()                # as if interrupted
    assert render_orbits.run([*PROCEDURAL, str(folders)]) == 0
    assert (folders / "0000001" / "transforms.json").exists()
    assert (folders / "0000000" / "000.png").stat().st_mtime_ns == kept
    capsys.readouterr()
    assert render_orbits.run([*PROCEDURAL, str(folders), "--supersample", "1"]) == 2
    message = capsys.readouterr().err
    assert "supersample 2" in message and "--overwrite" in message and message.count("\n") == 1
    assert render_orbits.run([*PROCEDURAL, str(folders), "--supersample", "1", "--overwrite"]) == 0


def test_packing_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert render_orbits.run([*PROCEDURAL, str(whole), "--pack"]) == 0
    monkeypatch.setattr(packing, "PACK_BLOCK", 1)
    render, calls = packing.rendered, []

    def interrupted(*args, **more):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return render(*args, **more)
    monkeypatch.setattr(packing, "rendered", interrupted)
    assert render_orbits.run([*PROCEDURAL, str(broken), "--pack"]) == 130
    assert not broken.exists()
    assert render_orbits.run([*PROCEDURAL, str(broken), "--pack"]) == 0
    assert len(calls) == 4                                             # the first was kept
    assert (np.load(broken / "clips.npy") == np.load(whole / "clips.npy")).all()
    assert not (tmp_path / "broken.partial").exists()


TRIANGLES = "v 0 0 0\nv 0 {0} 0\nv 0 0 1\nv 1 0 0\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"


def test_meshes_are_packed_in_varied_forms(tmp_path, capsys):
    """Of a folder and of a zip archive the same; the forms differ, and are those that views folders have."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("__MACOSX/in/._a.obj", "not a mesh")
        for name, side in (("a", 1), ("b", 2)):
            (tmp_path / "in" / f"{name}.obj").write_text(TRIANGLES.format(side))
            archive.write(tmp_path / "in" / f"{name}.obj", f"in/{name}.obj")
    common = ["--size", "16", "--workers", "1", "--orbit", "rings", "--fit", "sphere", "--variations", "2", "--supersample", "1"]
    for source, out, more in (("in", "folders", []), ("in", "packed", ["--pack"]), ("in.zip", "zipped", ["--pack"])):
        assert render_orbits.run(["meshes", str(tmp_path / source), *common, *more, "--out", str(tmp_path / out)]) == 0
    clips = np.load(tmp_path / "packed" / "clips.npy")
    assert clips.shape == (4, 36, 16, 16, 4) and (clips == np.load(tmp_path / "zipped" / "clips.npy")).all()
    assert np.load(tmp_path / "packed" / "names.npy").tolist() == ["a-00", "a-01", "b-00", "b-01"]
    first = Image.open(tmp_path / "folders" / "b-01" / "000.png")
    assert (np.asarray(first) == clips[3, 0]).all() and len({clip.tobytes() for clip in clips}) == 4
    assert (np.load(tmp_path / "packed" / "azimuths.npy") == Orbit.rings().azimuths_deg.astype(np.float32)).all()
    capsys.readouterr()
    for more, said in ((["--fit", "box"], "--pack: found --fit box"), (["--frames", "21"], "--frames is 21"), (["--degrade"], "--degrade"),
                       (["--variations", "3"], "variations 2")):
        assert render_orbits.run(["meshes", str(tmp_path / "in"), *common, "--pack", *more, "--out", str(tmp_path / "packed")]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "in" / "b.obj").rename(tmp_path / "in" / "c.obj")
    assert render_orbits.run(["meshes", str(tmp_path / "in"), *common, "--pack", "--out", str(tmp_path / "packed")]) == 2
    assert "holds other objects than c-00" in capsys.readouterr().err
    (tmp_path / "in" / "c.obj").write_text("v 0 0 0\n")
    assert render_orbits.run(["meshes", str(tmp_path / "in"), *common, "--pack", "--out", str(tmp_path / "bad")]) == 2
    assert "c.obj: has no triangles" in capsys.readouterr().err


def test_failed_meshes_are_listed(tmp_path, capsys):
    pytest.importorskip("trimesh")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tri.obj").write_text("v 0 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\n")
    (tmp_path / "in" / "bad.glb").write_bytes(b"junk")
    common = ["--out", str(tmp_path / "out"), "--size", "16", "--workers", "1", "--orbit", "dynamic"]
    assert render_orbits.run(["meshes", str(tmp_path / "in"), *common]) == 1
    assert (tmp_path / "out" / "tri" / "020.png").exists() and not (tmp_path / "out" / "bad").exists()
    assert (tmp_path / "out" / "failed.txt").read_text().startswith("bad\t")
    (tmp_path / "in" / "bad.glb").unlink()
    assert render_orbits.run(["meshes", str(tmp_path / "in"), *common]) == 0
    assert not (tmp_path / "out" / "failed.txt").exists()
    capsys.readouterr()


@pytest.mark.parametrize("options, said", [
    (["procedural", "--count", "0", "--out", "x"], "--count: found '0', expected a whole number from 1"),
    (["procedural", "--count", "1", "--elevation", "30", "-5", "--out", "x"], "--elevation is 30 -5"),
    (["meshes", "/nowhere", "--out", "x"], "/nowhere: no such file")])
def test_wrong_options(options, said, capsys):
    code, message = ending(render_orbits.run, options, capsys)
    assert code == 2 and said in message and message.count("\n") <= 1


def test_foreign_folder_is_not_deleted(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert render_orbits.run([*PROCEDURAL, str(tmp_path), "--overwrite"]) == 2
    assert render_orbits.run([*PROCEDURAL, str(tmp_path), "--overwrite", "--pack"]) == 2
    assert (tmp_path / "mine.txt").exists()
    assert "not made by this tool" in capsys.readouterr().err


def test_overwriting_stops_at_what_was_not_rendered(tmp_path, capsys):
    """views_to_mesh.py puts its mesh into the views folder."""
    out = tmp_path / "set"
    assert render_orbits.run([*PROCEDURAL, str(out)]) == 0
    before = tree(out)
    for name in ("0000001/mesh/mesh.glb", "0000001/note.txt", "mine/000.png.bak", "readme.md"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
        capsys.readouterr()
        for more in ([], ["--pack"]):
            assert render_orbits.run([*PROCEDURAL, str(out), "--overwrite", *more]) == 2
        said = capsys.readouterr().err
        assert "is not of the orbits, and would be deleted with them; move it" in said and name.split("/")[0] in said
        (out / name).unlink()
        if (out / name).parent.name in ("mesh", "mine"):
            (out / name).parent.rmdir()
    assert tree(out) == before
    assert render_orbits.run([*PROCEDURAL, str(out), "--overwrite"]) == 0
    assert tree(out) == before


def test_degraded_orbits_have_their_truth_beside_them(tmp_path, capsys):
    flags, out = [*FLAGS, "5", "--elevation", "10", "10"], tmp_path / "set"
    assert render_orbits.run([*flags, "--out", str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    assert render_orbits.run([*flags, "--degrade", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "gloss" in said and "elevation 5" in said
    assert json.loads((out / "render.json").read_text())["degrade"]["elevation"] == 5
    for folder in (tmp_path / "plain").glob("0*"):
        truth = out / folder.name / "truth"
        for file in folder.iterdir():
            assert (truth / file.name).read_bytes() == file.read_bytes()
        assert sorted(file.name for file in truth.iterdir()) == [*sorted(f.name for f in folder.iterdir())[:-1], "mesh.ply",
                                                                 "transforms.json"]
        assert (views_of(out / folder.name) != views_of(folder)).any()
        assert abs(read_orbit(out / folder.name).elevations_deg[0] - 10) == pytest.approx(5)
        shape, true = load_mesh(truth / "mesh.ply"), make_object(int(folder.name))
        assert np.allclose([shape.vertices.min(0), shape.vertices.max(0)], [true.vertices.min(0), true.vertices.max(0)])
    # the same again: nothing to do; another kind is refused; all of it can be replaced
    for more, code in ((["--degrade"], 0), ([], 2), (["--degrade", "--overwrite"], 0), (["--degrade", "--pack"], 2)):
        before = tree(out)
        assert render_orbits.run([*flags, *more, "--out", str(out)]) == code
        assert tree(out) == before
    said = capsys.readouterr().err
    assert "rendered with degrade {" in said and "--pack" in said


@pytest.mark.parametrize("place", ["truth/notes.txt", "truth/more/000.png", "notes.txt"])
def test_foreign_files_beside_the_truth_stay(place, tmp_path, capsys):
    flags = ["procedural", "--count", "1", *FLAGS[3:], "4", "--degrade", "--out", str(tmp_path / "set")]
    assert render_orbits.run(flags) == 0
    folder = tmp_path / "set" / "0000000"
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("mine")
    assert render_orbits.run([*flags, "--overwrite"]) == 2
    (folder / "transforms.json").unlink()               # unfinished: it would be rendered anew
    assert render_orbits.run(flags) == 2
    assert (folder / place).read_text() == "mine" and place.split("/")[-2 if "more" in place else -1] in capsys.readouterr().err
