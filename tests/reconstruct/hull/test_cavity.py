"""The prior for vessels, on grids made by hand and pictures traced from them (no MindSpore)."""
import cv2
import numpy as np
import pytest

from sgm.reconstruct.hull import cavity, sdf_grid
from sgm.reconstruct.posed_views import HALF, PosedViews
from sgm.views.cameras import Orbit

R, SIDE, FOCAL = 48, 96, 158.0
CELL = 2 * HALF / R
AXIS = sdf_grid.vertices(R, HALF)
X, Y, Z = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")
RADIUS, WALL = np.hypot(X, Y), 0.1
OUTSIDE = np.maximum(RADIUS - 0.4, np.abs(Z) - 0.4).astype(np.float32)      # an upright cylinder
CUP = np.maximum(OUTSIDE, np.minimum(0.4 - WALL - RADIUS, Z + 0.4 - WALL)).astype(np.float32)
BOWL = np.maximum(OUTSIDE, np.minimum(0.3 - RADIUS, Z - 0.3 - RADIUS / 3)).astype(np.float32)   # 0.1 deep in the middle
SOLID = OUTSIDE
OPEN_AT_A_SIDE = np.where(X > 0.1, np.maximum(CUP, Z + 0.35), CUP).astype(np.float32)


def stripes(points):
    """A color in [0, 1] of the direction from the axis and of the height."""
    angle = np.arctan2(points[:, 1], points[:, 0])
    return 0.5 + 0.25 * np.stack([np.cos(angle), np.sin(angle), np.sin(9 * points[:, 2])], axis=1)


def pictures(sdf, color=stripes, elevation=20):
    """21 views of a surface."""
    poses = Orbit.static(elevation).poses(2.0)
    blank = PosedViews(np.zeros((21, SIDE, SIDE, 3), np.float32), np.zeros((21, SIDE, SIDE), np.float32), poses, FOCAL, FOCAL,
                  SIDE / 2, SIDE / 2)
    seen, distance = sdf_grid.silhouettes(sdf, HALF, blank)
    pixels = np.nonzero(seen)
    origins, directions = blank.rays(*pixels)
    blank.rgb[pixels] = color(origins + distance[pixels][:, None] * directions)
    blank.mask[pixels] = 1
    return blank


@pytest.fixture(scope="module")
def cup():
    return pictures(CUP)


def banded(points):
    """Gray, but for the inside of a cup."""
    inside = (np.hypot(points[:, 0], points[:, 1]) < 0.32) & (points[:, 2] < 0.39)
    bands = inside * np.cos(3 * np.arctan2(points[:, 1], points[:, 0])) * np.cos(14 * points[:, 2])
    return 0.5 + 0.3 * np.repeat(bands[:, None], 3, axis=1)


def test_what_stands_above_a_hollow_stays():
    """A basket's gray handle, which the prior took away with the air above the floor for the colors' sake."""
    handle = np.maximum(np.maximum(np.abs(Y) - 0.06, np.abs(Z - 0.46) - 0.04), np.abs(X) - 0.38)
    views = pictures(np.minimum(CUP, handle).astype(np.float32), banded, elevation=30)
    found, report = cavity.continued(np.minimum(BOWL, handle).astype(np.float32), OUTSIDE, views)
    covered = sdf_grid.silhouettes(found, HALF, views)[0]
    assert report == [] and (covered & (views.mask > 0.5)).sum() > 0.999 * views.mask.sum()


def test_tops_are_exact_for_a_slope():
    slope = (Z - 0.25 * X - 0.05).astype(np.float32)
    slope[0] = 1                                            # no surface there
    heights = cavity.tops(slope)
    np.testing.assert_allclose(heights[1:], np.broadcast_to(0.25 * AXIS[1:, None] + 0.05, (R, R + 1)), atol=1e-6)
    assert (heights[0] == -HALF).all()
    assert (cavity.tops(np.full((4, 4, 4), -1, np.float32)) == np.float32(HALF)).all()      # inside up to the end


def test_water_stands_up_to_the_lowest_brim():
    land = np.zeros((7, 9))
    land[1:6, 1:5] = 5
    land[2:5, 2:4] = 1              # a basin with walls of 5 ...
    land[3, 4] = 3                  # ... and a notch of 3
    land[2:5, 7] = -2               # a ditch next to it, two deep
    expected = land.copy()
    expected[2:5, 2:4], expected[2:5, 7] = 3, 0
    np.testing.assert_array_equal(cavity.water_level(land), expected)


def test_hollows_are_those_that_hold_water():
    (region, brim), = cavity.hollows(CUP)
    assert brim == pytest.approx(0.4, abs=CELL / 10)
    inner = RADIUS[..., 0] < 0.3
    assert (region == inner).mean() > 0.97
    assert len(cavity.hollows(BOWL)) == 1
    for sdf in (SOLID, OPEN_AT_A_SIDE, CUP[..., ::-1]):
        assert cavity.hollows(np.ascontiguousarray(sdf)) == []


def test_depths_are_those_within_the_cross_section():
    found = cavity.depths(OUTSIDE)
    middle = np.abs(AXIS) < 0.38
    np.testing.assert_allclose(found[..., middle], (0.4 - RADIUS)[..., middle], atol=0.7 * CELL)
    assert (found[..., np.abs(AXIS) > 0.42] < 0).all()


def test_vessel_floor_is_as_thick_as_its_wall():
    (region, brim), = cavity.hollows(BOWL)
    found = cavity.dug(BOWL, cavity.depths(OUTSIDE), region, brim, WALL)
    heights = cavity.tops(found)
    np.testing.assert_allclose(heights[RADIUS[..., 0] < 0.3 - CELL], -0.4 + WALL, atol=0.6 * CELL)
    np.testing.assert_allclose(heights[(RADIUS[..., 0] > 0.3 + CELL) & (RADIUS[..., 0] < 0.4 - CELL)], 0.4, atol=1e-3)
    hollow = ((found >= 0) & (OUTSIDE < 0)).sum() * CELL ** 3
    assert hollow == pytest.approx(np.pi * 0.3 ** 2 * 0.7, rel=0.06)


def test_a_tapering_vessel_keeps_its_wall():
    narrow = np.maximum(RADIUS - 0.3 - 0.25 * Z, np.abs(Z) - 0.4).astype(np.float32)        # radius .2 below, .4 above
    bowl = np.maximum(narrow, np.minimum(0.3 - RADIUS, Z - 0.3)).astype(np.float32)
    (region, brim), = cavity.hollows(bowl)
    found = cavity.dug(bowl, cavity.depths(narrow), region, brim, WALL)
    removed = (found >= 0) & (bowl < 0)
    assert removed.sum() > 1000 and (0.3 + 0.25 * Z - RADIUS)[removed].min() > WALL - CELL


def test_a_dent_in_the_wall_is_no_hole(cup):
    """Half a wall is left behind a dent that is deeper than the wall."""
    dent = np.hypot(np.hypot(X - 0.4, Y), Z) - 0.15
    bowl = np.maximum(BOWL, -dent).astype(np.float32)
    found, report = cavity.continued(bowl, OUTSIDE, cup)
    assert report[0]["dug"]
    level = found[:, :, R // 2] < 0
    walls, inner = cv2.connectedComponents((~level).astype(np.uint8), connectivity=4)
    assert walls == 3 and inner[R // 2, R // 2] != inner[0, 0]      # the wall, the inside, and all around


def test_disagreement_by_hand(cup):
    """Where the surface is the true one only the pictures' grain is left; with one color for all there is none at all."""
    maps = sdf_grid.silhouettes(CUP, HALF, cup)[1]
    pixels = np.nonzero(cup.mask > 0)
    origins, directions = cup.rays(*pixels)
    points = origins + maps[pixels][:, None] * directions
    assert cavity.disagreement(points, pixels, maps, cup, CELL) < 2e-3
    assert cavity.disagreement(points - [0.1, 0, 0], pixels, maps, cup, CELL) > 1e-2
    alone = cup.subset([0])
    first = tuple(index[pixels[0] == 0] for index in pixels)
    found = cavity.disagreement(points[pixels[0] == 0], first, maps[:1], alone, CELL)
    assert found == pytest.approx(alone.rgb[first].var(0).mean(), rel=1e-4)                 # nobody else: against the mean


def test_other_views_that_are_not_known_do_not_disagree(cup):
    maps = sdf_grid.silhouettes(CUP, HALF, cup)[1]
    known = np.ones(cup.mask.shape, bool)
    known[1::2, :SIDE // 2] = False
    painted = PosedViews(np.where(known[..., None], cup.rgb, 1), cup.mask, cup.c2w, *cup.intrinsics)
    pixels = np.nonzero((cup.mask > 0) & known)
    origins, directions = cup.rays(*pixels)
    points = origins + maps[pixels][:, None] * directions
    assert cavity.disagreement(points, pixels, maps, painted.ignoring(known), CELL) < 2e-3
    assert cavity.disagreement(points, pixels, maps, painted, CELL) > 1e-2


def test_cup_reconstructed_as_a_bowl_is_dug_out(cup):
    found, (said,) = cavity.continued(BOWL, OUTSIDE, cup)
    assert said["dug"] and said["ratio"] < 0.5 and said["wall"] == pytest.approx(WALL, abs=1.1 * CELL)
    volume = ((found >= 0) & (OUTSIDE < 0)).sum() * CELL ** 3
    assert volume == pytest.approx(((CUP >= 0) & (OUTSIDE < 0)).sum() * CELL ** 3, rel=0.2)


def test_a_dent_in_a_wide_top_is_no_vessel(cup):
    """A seat's hollow, which the prior took for all that can be seen of a vessel as wide as the seat."""
    dent = np.maximum(SOLID, np.minimum(0.08 - RADIUS, Z - 0.3)).astype(np.float32)
    assert len(cavity.hollows(dent)) == 1
    found, report = cavity.continued(dent, OUTSIDE, cup)
    assert found is dent and report == []


def gray(points):
    return np.full(points.shape, 0.5)


@pytest.mark.parametrize("sdf, color", [(BOWL, stripes), (BOWL, gray), (SOLID, stripes)],
                         ids=["a bowl indeed", "one color", "solid"])
def test_nothing_is_dug_without_evidence(sdf, color):
    found, said = cavity.continued(sdf, OUTSIDE, pictures(sdf, color))
    assert found is sdf and not any(hollow["dug"] for hollow in said)


def test_blurred_pictures_are_still_evidence(cup):
    """Edges that mix two surfaces, as in photographs."""
    soft = np.stack([cv2.GaussianBlur(view, (0, 0), 0.6) for view in cup.rgb])
    _, (said,) = cavity.continued(BOWL, OUTSIDE, PosedViews(soft, cup.mask, cup.c2w, *cup.intrinsics))
    assert said["dug"]
