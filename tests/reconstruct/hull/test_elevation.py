"""The elevation of a static orbit by its outlines."""
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from support.shapes import chair_views, rendered

from sgm.reconstruct.hull import elevation
from sgm.reconstruct.posed_views import ShapeError
from sgm.views.cameras import Orbit

TRUE = 22.0


@pytest.fixture(autouse=True)
def few_cells(monkeypatch):
    monkeypatch.setattr(elevation, "CELLS", 32)
    monkeypatch.setattr(elevation, "SIDE", 40)
    monkeypatch.setattr(elevation, "STEP", 10)
    monkeypatch.setattr(elevation, "FINEST", 1)


@pytest.fixture(scope="module")
def views():
    return chair_views(TRUE)


def said_at(views, degrees):
    """The same pictures, by cameras of another elevation."""
    return replace(views, c2w=Orbit.static(degrees, len(views)).poses(2.0))


@pytest.mark.parametrize("cameras", [5.0, -20.0, 45.0])
def test_outlines_tell_the_elevation(views, cameras):
    found = elevation.search(said_at(views, cameras), cameras)
    assert found.certain and abs(found.told - TRUE) <= 1.5
    assert found.told_coverage > 0.95 and found.told_coverage > found.coverage + 0.05
    assert (found.cameras, found.used) == (cameras, cameras)


def test_many_views_take_no_longer(monkeypatch):
    many, seen = chair_views(TRUE, 60, 16), []
    monkeypatch.setattr(elevation, "coverage", lambda views, source: seen.append(views) or 0.5)
    elevation.search(many, TRUE)
    assert {len(views) for views in seen} == {24} and np.ptp(seen[0].c2w[:, 0, 3]) > 3


def test_a_ball_tells_none_and_stays():
    """Every elevation explains it: the cameras' own is taken."""
    found = elevation.search(rendered([trimesh.creation.icosphere(3, 0.35)], TRUE, 6), TRUE)
    assert not found.certain and found.told == TRUE


@pytest.mark.parametrize("center", [(0, 0, 0), (3.0, -1.0, 2.0)])
def test_cameras_are_raised_about_what_they_look_at(center):
    low, high = (Orbit.static(degrees, 9).poses(2.0) for degrees in (10, 35))
    for poses in (low, high):
        poses[:, :3, 3] += center
    np.testing.assert_allclose(elevation.tilted(low, 25), high, atol=1e-12)
    assert elevation.of_orbit(high) == pytest.approx(35)
    # in a world whose up is y too
    turn = np.eye(4)
    turn[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    np.testing.assert_allclose(elevation.tilted(turn @ low, 25), turn @ high, atol=1e-12)


def test_only_static_orbits_have_one_elevation():
    assert elevation.of_orbit(Orbit.sine(20, 10).poses()) is None
    turned = Orbit.static(10).poses()
    turned[:, :3, :2] = turned[:, :3, 1::-1] * [1, -1]         # cameras held upright, not level
    assert elevation.of_orbit(turned) is None


def test_cameras_at_one_place_are_a_line(views):
    with pytest.raises(ShapeError, match="there: all cameras stand at one place"):
        elevation.settled(views.subset([0, 0, 0]), "auto", source="there")


def test_true_cameras_are_left_alone_in_silence(views, caplog):
    kept, found = elevation.settled(views)
    assert kept is views and found.used == found.cameras == pytest.approx(TRUE) and not caplog.records


def test_a_wrong_elevation_is_warned_of_and_kept(views, caplog):
    wrong = said_at(views, 0)
    kept, found = elevation.settled(wrong, source="there")
    assert kept is wrong and abs(found.told - TRUE) <= 1.5 and found.used == pytest.approx(0)
    assert "there: at the elevation of 0.0 degrees" in caplog.text and "elevation auto" in caplog.text


@pytest.mark.parametrize("wanted, is_unknown", [("auto", False), (None, True)])
def test_auto_takes_what_the_outlines_tell(views, caplog, wanted, is_unknown):
    moved, found = elevation.settled(said_at(views, 0), wanted, is_unknown)
    assert found.certain and not caplog.records
    assert elevation.of_orbit(moved.c2w) == pytest.approx(found.used) and abs(found.used - TRUE) <= 1.5


def test_a_given_elevation_is_taken(views, caplog):
    moved, found = elevation.settled(said_at(views, 0), TRUE, is_unknown=True)
    np.testing.assert_allclose(moved.c2w, views.c2w, atol=1e-9)
    assert found.used == TRUE and found.cameras == pytest.approx(0) and not caplog.records
    for wrong in ("high", 90, -95):
        with pytest.raises(ShapeError, match="elevation: found .* expected auto, or degrees"):
            elevation.settled(views, wrong)
    with pytest.raises(ShapeError, match="there: elevation 20.*static orbit"):
        elevation.settled(replace(views, c2w=Orbit.sine(20, 10, 8).poses()), 20, source="there")


def test_the_other_sign_is_named(views):
    """The elevation is sought for both."""
    wrong = replace(views, c2w=Orbit.static(0, len(views)).with_sign(-1).poses(2.0))
    with pytest.raises(ShapeError, match=r"there: at no elevation .* at 2.\.. degrees: .*azimuth_sign"):
        elevation.settled(wrong, "auto", source="there")


def test_auto_warns_where_outlines_do_not_tell(caplog):
    views = rendered([trimesh.creation.icosphere(3, 0.35)], TRUE, 6)
    moved, found = elevation.settled(views, "auto", source="there")
    assert moved is views and "there: its outlines do not tell the elevation" in caplog.text


def test_views_held_back_are_not_asked(views):
    """Those in which another object stands would tell something else."""
    other = replace(views, mask=np.where(np.arange(8)[:, None, None] % 3 == 1, views.mask[:, ::-1], views.mask))
    seen = np.flatnonzero(np.arange(8) % 3 != 1)
    found = elevation.settled(said_at(other, 0), "auto", seen=seen)[1]
    assert found.told_coverage > 0.95 and abs(found.told - TRUE) <= 1.5
    assert elevation.coverage(said_at(other, found.told)) < 0.9


@pytest.mark.parametrize("cameras, wanted", [(TRUE, None), (0.0, "auto")])
@pytest.mark.parametrize("estimate, is_warned", [(TRUE + 7, False), (TRUE + 13, True), (TRUE - 13, True)])
def test_picture_and_outlines_that_disagree_are_warned_of(views, caplog, cameras, wanted, estimate, is_warned):
    """Neither wins: the views stay where they are, or go where the outlines say."""
    moved, found = elevation.settled(said_at(views, cameras), wanted, source="there", estimate=estimate)
    assert abs(found.used - TRUE) <= 1.5 and len(moved) == len(views)
    said = [message for message in caplog.messages if "before the views were made" in message]
    assert len(said) == is_warned
    if said:
        assert f"of {estimate:.0f} degrees" in said[0] and "there" in said[0]


def test_outlines_that_tell_nothing_do_not_contradict_the_picture(caplog):
    ball = rendered([trimesh.creation.icosphere(3, 0.35)], TRUE, 6)
    elevation.settled(ball, source="there", estimate=TRUE + 30)
    assert not caplog.messages
