"""metrics.csv and its picture: no row twice, nothing half-written, whatever ended the run before."""
import csv
import math

import numpy as np
import pytest

from sgm.common.errors import InputError
from sgm.train.run.log import FIELDS, Metrics, draw_curve, read_metrics
from sgm.train.trainer import Row


def steps_of(path):
    with open(path) as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_rows_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path, 0, clips=2)
    for step in range(1, 7):
        metrics.add(Row(1 / step, 2.0, 0.1, False))
        if step % 2 == 0:
            metrics.write(step)
    assert steps_of(path) == [2, 4, 6]
    with open(path, "a") as file:
        file.write("8,0.1,0.")                  # the row during which it was killed
    metrics = Metrics(path, 4, clips=2)
    metrics.add(Row(0.5, 2.0, 0.1, False))
    metrics.write(5, val_loss=0.25)
    assert steps_of(path) == [2, 4, 5]
    rows = read_metrics(path)
    assert float(rows[0]["loss"]) == pytest.approx(0.75) and rows[2]["val_loss"] == "0.250000"
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)


@pytest.mark.parametrize("text, said", [
    ("", None), ("\0\0\0", "line 1: found"), ("step,loss\n1,2\n", "line 1: found 'step,loss', expected columns among step"),
    ("step,loss,grad_norm,lr,seconds\nx,1,1,1,1\n", "line 2: found 'x,1,1,1,1', expected numbers in every column"),
    ("step,loss,grad_norm,lr,seconds\n\xff\n", "line 2"), ("step,loss,grad_norm,lr,seconds\n1,1,1,1,nan\n", "line 2"),
    ("step,loss,grad_norm,lr,seconds\n-1,1,1,1,1\n", "line 2"), ("step,loss,grad_norm,lr,seconds\n1e300,1,1,1,1\n", "line 2"),
    ("step,loss,grad_norm,lr,seconds\n1,1,1", None)])
def test_a_damaged_file_begins_anew(text, said, tmp_path, caplog):
    """With a line that names it, and a copy: but for a row that a killed process left incomplete."""
    path = tmp_path / "metrics.csv"
    path.write_bytes(text.encode("latin1"))
    Metrics(path, 5, clips=1)
    assert path.read_text().strip() == ",".join(FIELDS)
    if said is None:
        assert not caplog.records and not (tmp_path / "metrics.damaged.csv").exists()
    else:
        assert f"{path}: {said}" in caplog.text and "is kept as metrics.damaged.csv" in caplog.text
        assert (tmp_path / "metrics.damaged.csv").read_bytes() == text.encode("latin1")


def test_good_rows_before_the_damage_stay(tmp_path, caplog):
    """Also where a later row is a step that was there before."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,grad_norm,lr,seconds\n1,1,1,1,1\n92,1,1,1,2\n3,1,1,1,3\n4,1,1,1,4\n")
    assert [row["step"] for row in read_metrics(path, 9)] == ["1"]
    assert "line 4: found '3,1,1,1,3'" in caplog.text


def test_steps_that_were_skipped(tmp_path):
    """They count, and their losses do not."""
    metrics = Metrics(tmp_path / "metrics.csv", 0, clips=1)
    for loss in (1.0, math.nan, 3.0):
        metrics.add(Row(loss, loss, 0.1, math.isnan(loss)))
    assert metrics.averages()[:2] == (2.0, 2.0)
    metrics.write(3)
    metrics.add(Row(math.nan, math.inf, 0.1, True))
    metrics.write(4)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["skipped"] for row in rows] == ["1", "1"] and [row["loss"] for row in rows] == ["2.000000", "nan"]


def test_no_room_is_one_line(tmp_path):
    metrics = Metrics(tmp_path / "metrics.csv", 0, clips=1)
    metrics.path = tmp_path                     # a folder stands where the file shall be written
    metrics.add(Row(1.0, 1.0, 0.1, False))
    with pytest.raises(InputError, match="cannot be written: .*folder"):
        metrics.write(1)


def test_curve():
    """Blue falls from the upper left to the lower right; the held-back loss is orange."""
    rows = [{"step": str(k), "loss": str(10.0 ** -k), "lr": "0.1", "val_loss": "0.5" if k in (1, 3) else ""}
            for k in range(5)]
    rows.insert(2, {"step": "1", "loss": "nan", "lr": "0.1", "val_loss": ""})
    picture = draw_curve(rows)
    blue, orange = ((np.abs(picture.astype(int) - colour).sum(-1) < 60).nonzero()
                    for colour in ((31, 119, 180), (255, 127, 14)))
    assert blue[0][blue[1].argmin()] < 60 < 250 < blue[0][blue[1].argmax()] and len(orange[0]) > 50
    assert (draw_curve([]) == 255).all()
    for few in (rows[:1], rows[3:5]):           # a short run: its rows are dots
        found = (np.abs(draw_curve(few).astype(int) - (31, 119, 180)).sum(-1) < 60).sum()
        assert found >= 15 * len(few)
