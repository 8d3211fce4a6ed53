"""What the benchmarks of views compare with, and what they keep of an earlier run."""
import json
from dataclasses import asdict
from types import SimpleNamespace

import catalogue_views
import numpy as np
import pytest
import real_objects
import sharpness

from sgm.common.errors import InputError
from sgm.config.reconstruction import load_mesh_spec
from sgm.views import metrics
from sgm.views.cameras import Orbit


def picture(rng):
    """A colored box on white, (64, 64, 3) uint8."""
    image = np.full((catalogue_views.SIDE, catalogue_views.SIDE, 3), 255, np.uint8)
    (y, x), (height, width) = rng.randint(5, 30, 2), rng.randint(10, 30, 2)
    image[y:y + height, x:x + width] = rng.randint(0, 200, 3)
    return image


def test_nearest_has_the_highest_foreground_psnr():
    rng = np.random.RandomState(0)
    bank = np.stack([[picture(rng) for _ in range(6)] for _ in range(5)])
    inputs = np.stack([picture(rng) for _ in range(4)] + [bank[3, 2]])
    found = catalogue_views.nearest(bank.reshape(5, 6, -1), inputs)
    assert found[-1].tolist() == [3, 2]
    for image, place in zip(inputs, found):
        scores = [[metrics.compare(view, image)["psnr_fg"] for view in views] for views in bank]
        assert tuple(place) == np.unravel_index(np.argmax(scores), (5, 6))


def test_means_are_of_objects():
    """An object counts once, whichever the number of its inputs."""
    def views(*values):
        return [{key: value for key in metrics.METRICS} for value in values]

    results = {"A-001-front": {"prediction": views(1, 3), "mean": views(0, 0)},
               "A-001-quarter": {"prediction": views(6, 6), "mean": views(1, 1)}}
    objects = catalogue_views.per_object(results)
    assert objects["A-001"]["prediction"]["psnr_fg"] == 4 and list(objects) == ["A-001"]
    assert catalogue_views.gain(objects, "mean").tolist() == [3.5]


def test_neighbors_of_another_bank_are_refused(tmp_path):
    """Also those of which nothing is noted."""
    items = [("A-001", None), ("A-002", None)]
    catalogue_views.add_nearest(tmp_path, [], items, None)
    (tmp_path / "nearest" / "B-001-front").mkdir()
    catalogue_views.add_nearest(tmp_path, ["B-001-front"], items, None)
    with pytest.raises(InputError, match="nearest: holds neighbors from another bank, .* 1 objects .* remove that folder"):
        catalogue_views.add_nearest(tmp_path, ["B-001-front"], items[:1], None)
    (tmp_path / "nearest" / "bank.json").unlink()
    with pytest.raises(InputError, match="another bank"):
        catalogue_views.add_nearest(tmp_path, ["B-001-front"], items, None)


def test_tables_of_a_set():
    """Its means and medians, those of the half that varies most, and of each category."""
    names = [catalogue_views.object_name(row) for row in catalogue_views.read_list()[:3]]
    methods = ("prediction", catalogue_views.NEAREST, catalogue_views.MEAN, catalogue_views.REPEATED)
    objects = {name: {method: {**dict.fromkeys(metrics.METRICS, 0.5), "psnr_fg": psnr - 2 * (method != "prediction")}
                      for method in methods} for name, psnr in zip(names, (10, 11, 15))}
    lines = catalogue_views.tables("alone", objects, {names[0], "other"})
    titles = [line for line in lines if not line.startswith(" ")]
    assert titles[:2] == ["alone: 3 objects", "orbits that vary most, alone: 1 objects"]
    assert titles[2] == "categories, alone"
    first, second = (next(line for line in part if "prediction" in line).split() for part in (lines, lines[8:]))
    assert first[1:3] == ["12.00", "11.00"] and second[1:3] == ["10.00", "10.00"]
    assert sum(int(line.split()[-5]) for line in titles[4:]) == 3
    assert "orbits that vary most" not in "".join(catalogue_views.tables("alone", objects, set()))


def test_angles_from_the_input():
    orbit = Orbit.from_lists([0.0, 90.0, 180.0, 0.0], [40.0, 0.0, 10.0, 10.0])
    np.testing.assert_allclose(sharpness.from_input(orbit), [30, 90, 160, 0], atol=1e-4)


def test_only_whole_meshes_of_the_same_settings_are_kept(tmp_path):
    spec, report = load_mesh_spec("fast", []), tmp_path / "report.json"
    assert not real_objects.is_made(tmp_path, spec)
    (tmp_path / "mesh.glb").write_bytes(b"")
    assert not real_objects.is_made(tmp_path, spec)             # killed before its report
    report.write_text(json.dumps({"interrupted": False, "settings": asdict(spec)}, indent=1))
    assert real_objects.is_made(tmp_path, spec)
    assert not real_objects.is_made(tmp_path, load_mesh_spec("fast", ["nerf.steps=301"]))
    for text in (json.dumps({"interrupted": True, "settings": asdict(spec)}), json.dumps({"settings": asdict(spec)}), "[1", "3"):
        report.write_text(text)
        assert not real_objects.is_made(tmp_path, spec), text


def test_the_table_is_written_after_each_setting(tmp_path, monkeypatch):
    """An interruption at the second setting leaves the first."""
    orbit = Orbit.static(10, 3)
    np.save(tmp_path / "clips.npy", np.full((2, 3, 64, 64, 3), 200, np.uint8))
    for name in ("azimuths", "elevations"):
        np.save(tmp_path / f"{name}.npy", np.tile(np.float32(getattr(orbit, f"{name}_deg")), (2, 1)))

    def generate(engine, image, orbit, steps, **_):
        if steps == 4:
            raise KeyboardInterrupt
        return SimpleNamespace(frames=np.zeros((3, 64, 64, 3), np.uint8))
    monkeypatch.setattr("sgm.diffusion.pipeline.generate", generate)
    monkeypatch.setattr("sgm.diffusion.pipeline.load_model", lambda *_, **__: SimpleNamespace(
        spec=SimpleNamespace(name="none", height=64, sampling=SimpleNamespace(start_noise=1, max_scale=1, sampler="euler"))))
    monkeypatch.setattr(sharpness, "round_trips", lambda *_: None)
    monkeypatch.setattr(sharpness, "Measure", lambda *_: lambda made: dict.fromkeys(sharpness.COLUMNS, 0.5))
    with pytest.raises(KeyboardInterrupt):
        sharpness.main([str(tmp_path), "--steps", "3", "4", "--csv", str(tmp_path / "t.csv"), "--quiet"])
    names = [line.split(",")[0] for line in (tmp_path / "t.csv").read_text().splitlines()]
    assert names == ["views", "autoencoder", "input repeated", "mean of true orbit", "euler steps 3 noise 1 scale 1"]
