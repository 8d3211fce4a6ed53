"""benchmarks/feedforward.py: what is another object, and what the table counts."""
import json

import feedforward
import numpy as np
import pytest
from support.small_lrm import CHANGES, write_balls

from sgm.common.errors import InputError
from sgm.config.lrm import load_lrm_spec
from sgm.feedforward.reconstructor import Reconstructor
from sgm.train.feedforward.feedforward_batches import input_view
from sgm.train.objects.masked_views import MaskedViews


def results(**psnr):
    """Of {row name: PSNR of the model}; another object's image gives 10 dB everywhere."""
    return {name.replace("_", "-"): {"model": {"psnr_fg": value, "iou": 0.5}, "other": {"psnr_fg": 10.0, "iou": 0.25}}
            for name, value in psnr.items()}


def test_objects_count_once(monkeypatch):
    """Two rows of one object are one difference, of 5 dB; of the other 1 dB: the bootstrap draws of those two."""
    drawn = []
    interval = feedforward.interval
    monkeypatch.setattr(feedforward, "interval", lambda differences: drawn.append(differences) or interval(differences))
    lines = feedforward.table(results(A_001_front=12.0, A_001_quarter=18.0, A_002_front=11.0))
    assert lines[0].startswith("2 objects") and lines[1].split()[:4] == ["model", "13.00", "dB", "0.500"]
    assert "+3.00 dB [+1.00, +5.00]  100%" in lines[2]
    np.testing.assert_allclose(drawn, [[5, 1]])


def test_another_object_is_another(monkeypatch):
    """Not the same one in its other form."""
    asked = []

    class Test:
        num_frames = 1

        def __len__(self):
            return 4

        def pictures(self, index, views, size):
            return np.ones((12 if isinstance(views, slice) else len(views), 4, 8, 8), np.float32)

    def planes_of(model, clips, index, placed):
        asked.append(index)
        return index, np.zeros((3, 8, 8), np.float32)

    monkeypatch.setattr(feedforward, "planes_of", planes_of)
    monkeypatch.setattr(feedforward, "rendered", lambda model, clips, index, planes, size: np.full((12, 8, 8, 4), 255, np.uint8))
    args = type("Args", (), {"quiet": True, "shapes": False, "placed": False})
    names = ["A-001-front", "A-001-quarter", "A-002-front", "A-002-quarter"]
    # CLIP's embedding: how bright a picture is, the input black and the views white
    clip = type("Clip", (), {"embed": staticmethod(lambda images: np.stack([[1 - x.mean() / 255, x.mean() / 255] for x in images]))})
    texts = np.float64([[0, 1], [0, 1], [0.6, 0.8], [0, 1]])
    found = {name: arms for name, arms, _ in feedforward.measure(args, None, Test(), None, names, 8, clip, texts)}
    assert asked == [0, 2, 1, 2, 2, 0, 3, 0]
    assert found["A-002-front"]["model"]["clip_image"] == 0 and found["A-002-front"]["other"]["clip_text"] == pytest.approx(0.8)
    lines = feedforward.table(found)
    assert lines[1].endswith("   CLIP to the input 0.000   to the text 0.950")




def test_objects_without_a_surface_are_counted():
    """Distances are compared over the objects of which both have one."""
    ours, theirs = results(A=12.0, B=12.0, C=12.0), results(A=12.0, B=12.0, C=12.0)
    for found, distances in ((ours, (0.1, None, 0.3)), (theirs, (0.2, 0.7, None))):
        for name, distance in zip("ABC", distances):
            found[name]["model"] |= {"chamfer": distance, "shape_iou": 0.0 if distance is None else 0.6}
    lines = feedforward.table(ours, theirs)
    assert lines[1].endswith("IoU of shapes 0.400 Chamfer 0.1000 of 1 objects, 1 without a surface")
    assert lines[3].startswith("against") and lines[3].endswith("Chamfer 0.2000 of 1 objects, 1 without a surface")
    assert "Chamfer" not in lines[2] and lines[2].startswith("other")
    assert feedforward.table(ours)[1].endswith("Chamfer 0.2000 of 2 objects, 1 without a surface")
    ours["A"]["model"]["chamfer"] = ours["C"]["model"]["chamfer"] = None
    assert feedforward.table(ours)[1].endswith("IoU of shapes 0.400, 3 without a surface")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"model": {"iou": 1}}}', '{"a": {"model": {"iou": 1, "psnr_fg": null}}}'])
def test_damaged_results_are_an_error_of_one_line(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match="--against: .*results.json: is missing or damaged"):
        feedforward.results_of(path)
    path.write_text(json.dumps(results(A=12.0)))
    assert feedforward.results_of(path) == results(A=12.0)


def test_inputs_as_rendered_and_as_photographs_are_placed(tmp_path):
    """A ball beside the middle stays there, or takes up the middle of the picture."""
    spec = load_lrm_spec("lrm_small", CHANGES)
    clips, model = MaskedViews([str(write_balls(tmp_path / "balls"))]), Reconstructor(spec, None)
    rendered, placed = (feedforward.image_of(model, clips, 0, 5, way)[2] < 0.7 for way in (False, True))
    assert rendered.shape == placed.shape == (16, 16) and 4 * rendered.sum() < placed.sum()
    rows, columns = np.nonzero(placed)
    assert abs(rows.mean() - 7.5) < 0.5 and abs(columns.mean() - 7.5) < 0.5 and 12 <= np.ptp(rows) + 1 <= 14
    wanted, _ = input_view(clips, spec, np.random.default_rng(0), 0, 5)
    assert (feedforward.image_of(model, clips, 0, 5, False) == wanted).all()
