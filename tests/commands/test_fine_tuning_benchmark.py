"""benchmarks/fine_tuning.py without its trainings: the colors, the sets, and which folders go on."""
from dataclasses import dataclass
from types import SimpleNamespace

import fine_tuning
import numpy as np
import pytest

from sgm.common.errors import InputError
from sgm.render.sets.items import procedural_items
from sgm.train.data.packed import PackedOrbits

SPEC = SimpleNamespace(name="small", height=16, num_frames=3)


@dataclass(frozen=True)
class Item:
    """A catalogue object that is a procedural one."""
    seed: int
    yaw: float = 50.0

    def load(self):
        assert self.yaw == 0                # the benchmark turns it
        return procedural_items([self.seed])[0][1].load()


@pytest.fixture
def args(tmp_path, monkeypatch):
    """The flags of `one`."""
    def chosen(libraries, names):
        return [(name, Item(seed)) for seed, name in enumerate(names)]
    monkeypatch.setattr(fine_tuning, "chosen", chosen)
    return fine_tuning.parse(["one", "a.sh3f", "--out", str(tmp_path / "out")])


def test_two_colors():
    """Black becomes the one color and white the other; gray lies between by its sRGB level, red by its lightness."""
    dark, bright = np.array(fine_tuning.DARK), np.array(fine_tuning.BRIGHT)
    views = np.array([[0, 0, 0, 255], [255, 255, 255, 7], [102, 102, 102, 0], [255, 0, 0, 255]], np.uint8)
    red = 1.055 * 0.2126 ** (1 / 2.4) - 0.055
    wanted = [np.round(255 * ((1 - share) * dark + share * bright)) for share in (0, 1, 0.4, red)]
    found = fine_tuning.two_colored(views)
    assert found.dtype == np.uint8 and found[:, 3].tolist() == [255, 7, 0, 255]
    np.testing.assert_allclose(found[:, :3], wanted, atol=1)


def test_measured_views_lie_between_the_trained_ones(args):
    train, test = (PackedOrbits([folder]) for folder in fine_tuning.render_sets(args, SPEC, "sha256:1"))
    assert train[0].arrays["clips"].shape == (4, 3, 16, 16, 4) and test[0].arrays["clips"].shape == (1, 3, 16, 16, 4)
    assert [train.orbit(k).elevations_deg.tolist() for k in range(4)] == [[0] * 3, [12] * 3, [24] * 3, [36] * 3]
    assert test.orbit(0).elevations_deg.tolist() == [18] * 3
    np.testing.assert_allclose(test.orbit(0).azimuths_deg, [120, 240, 0], atol=1e-4)
    shown = [clip.arrays["clips"][clip.row][..., 3] for clip in (*train.items, *test.items)]
    assert all((alpha > 0).any() for alpha in shown) and all((shown[0] != other).any() for other in shown[1:])


def test_style_is_measured_on_other_objects(args):
    args.task = "style"
    train, test = (PackedOrbits([folder]) for folder in fine_tuning.render_sets(args, SPEC, "sha256:1"))
    assert (len(train), len(test)) == (40, 3) and not set(fine_tuning.STYLED) & set(fine_tuning.MEASURED)
    colors = test[0].arrays["clips"]
    solid = colors[colors[..., 3] == 255][:, :3] / 255
    dark, bright = np.array(fine_tuning.DARK), np.array(fine_tuning.BRIGHT)
    share = (solid - dark) @ (bright - dark) / np.square(bright - dark).sum()
    np.testing.assert_allclose(dark + share[:, None] * (bright - dark), solid, atol=1 / 255)


@pytest.mark.parametrize("task, spec, weights, said", [
    ("style", SPEC, "sha256:1", "task 'one', now 'style'"), ("one", SPEC, "sha256:2", "weights 'sha256:1', now 'sha256:2'"),
    ("one", SimpleNamespace(name="small", height=32, num_frames=3), "sha256:1", "size 16, now 32")])
def test_other_settings_are_refused(task, spec, weights, said, args, monkeypatch):
    fine_tuning.render_sets(args, SPEC, "sha256:1")
    monkeypatch.setattr(fine_tuning, "chosen", None)            # what is finished is kept
    fine_tuning.render_sets(args, SPEC, "sha256:1")
    args.task = task
    with pytest.raises(InputError, match=f"--out .*: was filled with other settings .*{said}"):
        fine_tuning.render_sets(args, spec, weights)


def test_a_training_with_other_settings_is_refused(args, monkeypatch):
    made = []
    monkeypatch.setattr(fine_tuning.subprocess, "run", lambda command: made.append(command) or SimpleNamespace(returncode=0))
    (args.out / "lora").mkdir(parents=True)
    weights, seconds = fine_tuning.tune(args, "lora", args.out / "train")
    assert weights == args.out / "lora" / "lora.safetensors" and seconds is not None
    assert fine_tuning.tune(args, "lora", args.out / "train") == (weights, None) and len(made) == 1
    args.lr = "2e-3"
    with pytest.raises(InputError, match="holds a training with other settings"):
        fine_tuning.tune(args, "lora", args.out / "train")
