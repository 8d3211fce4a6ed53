"""Captures: measured poses are refined, views that contradict all others are left out."""
import numpy as np
import pytest
from support.shapes import chair_views, off, shaken

from sgm.reconstruct.hull import camera_alignment, capture
from sgm.reconstruct.hull.agreement import outline_coverage


def test_cameras_of_an_orbit_stay(monkeypatch):
    """They were computed: whatever their outlines say, nothing is looked at."""
    views = chair_views(25, 24)
    views.mask[5, 24:] = 0
    monkeypatch.setattr(capture, "outline_coverage", None)
    assert capture.settled(views) is views
    few = shaken(chair_views(25, 19), 0.5, 0.01)
    assert capture.settled(few) is few


def test_views_that_contradict_most():
    """Of 24, one lost the lower half of its mask; where half of all did, there is no minority."""
    views = chair_views(25, 24)
    views.mask[7, 24:] = 0
    np.testing.assert_array_equal(capture.agreeing(views), np.delete(np.arange(24), 7))
    views.mask[::2, 24:] = 0
    assert len(capture.agreeing(views)) == 24


@pytest.mark.slow
def test_a_capture_is_settled(caplog):
    """Poses half a degree and a hundredth off, one mask half lost."""
    views = shaken(chair_views(25, 24, 96), 0.5, 0.01)
    views.mask[7, 48:] = 0
    with caplog.at_level("INFO", "sgm"):
        found = capture.settled(views, "there")
    kept = np.delete(np.arange(24), 7)
    assert [file.name for file in found.files] == [views.files[k].name for k in kept]
    assert "there: the cameras' poses are refined" in caplog.text
    assert "there: left out, because" in caplog.text and "other views: 007.png" in caplog.text
    assert outline_coverage(found) > outline_coverage(views.subset(kept)) + 0.02


@pytest.mark.slow
def test_refined_cameras_are_less_turned():
    """Their outlines agree then; how far away each stands they hardly tell."""
    true = chair_views(25, 24, 96)
    wrong = shaken(true, 0.7, 0.015)
    found = camera_alignment.refined(wrong)
    assert off(found, true)[0].mean() < 0.65 * off(wrong, true)[0].mean()
    assert outline_coverage(wrong) < 0.87 and outline_coverage(found) > 0.97
