"""What a mesh that does not explain its views is said to suffer from."""
from dataclasses import replace

import numpy as np
import pytest
from support.shapes import chair_views

from sgm.reconstruct import doubts
from sgm.reconstruct.hull import elevation, scene_box
from sgm.views.cameras import Orbit


@pytest.fixture(autouse=True)
def few_cells(monkeypatch):
    monkeypatch.setattr(elevation, "CELLS", 20)
    monkeypatch.setattr(elevation, "SIDE", 32)
    monkeypatch.setattr(elevation, "STEP", 10)


@pytest.fixture(scope="module")
def views():
    return chair_views(15)


def test_views_that_are_explained_raise_none(views):
    assert doubts.of_mesh(views, 0.98, 0.95) == [] == doubts.of_mesh(views, 0.98)


def test_what_is_missed_is_said_first(views, monkeypatch):
    monkeypatch.setattr(doubts, "suspects", lambda views, told: ["the moon"])
    assert doubts.of_mesh(views, 0.6) == ["the views' common hull covers 60% of their masks, expected 75%", "the moon"]
    assert doubts.of_mesh(views, 0.98, 0.066)[0] == "the mesh's silhouettes have an IoU of 0.066 with the views' masks, expected 0.85"


def test_the_elevation_is_named(views):
    wrong = replace(views, c2w=Orbit.static(50, 8).poses(2.0))
    said = doubts.suspects(wrong, elevation.settled(wrong)[1])
    assert any(line.startswith("elevation: at 1") and "rather than 50.0" in line for line in said)


def test_the_sign_is_named(views):
    said = doubts.suspects(scene_box.mirrored(views, np.zeros(3)))
    assert any("azimuth_sign -1" in line for line in said)


def test_the_order_is_named(views):
    said = doubts.suspects(replace(views, c2w=views.c2w[np.random.RandomState(3).permutation(8)]))
    assert any(line.startswith("order: shuffled") for line in said)


def test_the_field_of_view_is_named(views):
    said = doubts.suspects(replace(views, fl_x=views.fl_x / 2, fl_y=views.fl_y / 2))
    assert any(line.startswith("field of view: with about 34 degrees") for line in said)


def test_backgrounds_are_named(views):
    wall = views.mask.copy()
    wall[2, :, :10] = 1
    said = doubts.suspects(replace(views, mask=wall))
    assert any("in 1 of 8 views" in line and "002.png" in line for line in said)


def test_an_object_that_pictures_cut_off_is_no_background():
    views = chair_views(15, nearer=[1, 0.65])
    assert views.cut_off()[1::2].any(axis=1).all()
    assert not any(line.startswith("cut-outs") for line in doubts.suspects(views))


def test_views_that_agree_least_are_the_last_resort(views):
    cut = views.mask.copy()
    cut[4] = np.roll(cut[4], 5, axis=1)
    said = doubts.suspects(replace(views, mask=cut))
    assert len(said) == 1 and "no change of all cameras" in said[0] and "004.png" in said[0]
