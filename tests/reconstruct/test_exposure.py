"""Factors between the views' exposures, found where the truth is known, and their removal."""
from dataclasses import replace

import numpy as np
import pytest
from support.colored_ball import ball_views

from sgm.config.reconstruction import DisagreementSpec, MeshSpec
from sgm.geometry.mesh import linear_from_srgb
from sgm.reconstruct import exposure, stages
from sgm.reconstruct.hull import visual_hull
from sgm.reconstruct.posed_views import HALF

LOG = np.random.RandomState(0).normal(0, 0.15, (12, 3))
LOG -= LOG.mean(0)


@pytest.fixture(scope="module")
def views():
    return ball_views()


@pytest.fixture(scope="module")
def sdf(views):
    return visual_hull.closed(visual_hull.hull_sdf(views, 48, HALF), HALF)


@pytest.fixture(scope="module")
def hull(views):
    return stages.Hull(visual_hull.closed(visual_hull.hull_sdf(views, 48, HALF), HALF), None, 0.6, None, 0, 1.0)


def test_the_factors_of_unequal_views(views, sdf):
    """Every view times a factor of each channel: what brings them back are the inverses, up to a common factor."""
    found = np.log(exposure.factors(exposure.evened(views, np.exp(LOG)), sdf))
    np.testing.assert_allclose(found, -LOG, atol=0.02)
    assert found.mean(0) == pytest.approx(0, abs=1e-12)


def test_equal_views_have_none(views, sdf):
    assert np.abs(np.log(exposure.factors(views, sdf))).max() < exposure.AGREEING


def test_a_highlight_is_no_exposure(views, sdf):
    """White over a quarter of one view's disk; the median over its other places does not move."""
    lit = views.rgb.copy()
    lit[4, :16] = np.maximum(lit[4, :16], 0.9 * views.mask[4, :16, :, None])
    found = np.log(exposure.factors(replace(views, rgb=lit), sdf))
    assert np.abs(found).max() < 0.03


def test_a_channel_without_light_follows_the_others(views, sdf):
    """As the blue of a yellow duck: there is nothing to compare, and no reason for another factor."""
    yellow = replace(views, rgb=views.rgb * np.float32([1, 1, 0]))
    found = np.log(exposure.factors(exposure.evened(yellow, np.exp(LOG)), sdf))
    np.testing.assert_allclose(found[:, :2], -LOG[:, :2], atol=0.02)
    np.testing.assert_allclose(found[:, 2], found[:, :2].mean(1), atol=1e-9)


def test_factors_are_bounded(views, sdf):
    found = np.log(exposure.factors(exposure.evened(views, np.where(np.arange(12) == 3, 0.2, 1)[:, None] * np.ones(3)), sdf))
    assert found[3] == pytest.approx(exposure.MOST) and np.abs(found).max() <= exposure.MOST


def test_evened_by_hand(views):
    """Half of the light: level .5 is .214 of it, .107 of that is level .361; alpha and what is outside stay."""
    half = replace(views, rgb=0.5 * views.mask[..., None] * np.ones(3, np.float32), mask=0.5 * views.mask)
    half = replace(half, rgb=0.5 * half.rgb)              # level .5, premultiplied by alpha .5
    found = exposure.evened(half, np.full((12, 3), 0.5))
    inside = views.mask > 0
    assert found.rgb[inside] == pytest.approx(0.361 / 2, abs=5e-4) and (found.rgb[~inside] == 0).all()
    assert found.mask is half.mask
    white = exposure.evened(replace(views, rgb=views.mask[..., None] * np.ones(3, np.float32)), np.full((12, 3), 1.5))
    assert white.rgb.max() == pytest.approx(1)      # white cannot become brighter
    assert linear_from_srgb(np.float32(0.361)) == pytest.approx(0.107, abs=5e-4)


@pytest.mark.parametrize("cure, unequal, expected", [
    ("auto", False, False), ("auto", True, True), ("always", False, True), ("never", True, False)])
def test_when_views_are_brought_in_line(views, hull, cure, unequal, expected):
    given = exposure.evened(views, np.exp(LOG)) if unequal else views
    even, spread, disagree = stages.even(given, hull, DisagreementSpec(cure=cure))
    assert disagree is expected and (even is given) is not expected
    assert spread is None if cure == "never" else spread == pytest.approx(LOG.std() if unequal else 0, abs=0.01)
    if unequal and expected:
        inside = views.mask > 0.99
        assert np.abs(even.rgb - views.rgb)[inside].mean() < 0.25 * np.abs(given.rgb - views.rgb)[inside].mean()
    assert stages.even(given, hull, DisagreementSpec(cure=cure, exposure=False))[0] is given


def test_field_settings_of_views_that_disagree():
    """They are bounds: what is below stays."""
    spec = MeshSpec()
    assert stages.field_settings(spec, False) is spec.nerf
    found = stages.field_settings(spec, True)
    assert (found.resolutions, found.side, found.steps) == ([16, 32, 64, 96], 288, 200)
    assert found.hash_finest == 96 and stages.field_settings(replace(spec, nerf=found), True) == found
    assert replace(found, resolutions=spec.nerf.resolutions, hash_finest=spec.nerf.hash_finest, side=spec.nerf.side,
                   steps=spec.nerf.steps) == spec.nerf


def test_depth_settings_of_views_that_disagree():
    spec = MeshSpec()
    hull = stages.Hull(None, np.zeros((spec.depth.resolution + 1,) * 3), spec.depth.smooth, None, 0, 1.0, agreeing="views")
    assert stages.depth_settings(spec, False, hull) == spec.depth
    for_outlines = stages.depth_settings(spec, False, hull._replace(agreeing=None))
    assert for_outlines == replace(spec.depth, deep=spec.disagreement.deep) != spec.depth
    found = stages.depth_settings(spec, True, hull)
    assert (found.truncation, found.blur) == (spec.disagreement.truncation, spec.disagreement.blur)
    assert replace(found, truncation=spec.depth.truncation, blur=spec.depth.blur) == for_outlines


def test_drift_round_the_orbit(views, sdf):
    """Slow drift, of which neighbors tell little: it becomes less, as ROUNDS says, and is told."""
    log = 0.3 * np.cos(2 * np.pi * np.arange(12) / 12)[:, None] * np.ones(3)
    found = np.log(exposure.factors(exposure.evened(views, np.exp(log)), sdf))
    assert np.std(found + log) < 0.5 * log.std() and np.std(found) > 5 * exposure.AGREEING


def test_views_that_show_nothing_in_common(views, sdf):
    """Black and white tell nothing: there are no factors, and nothing is called equal."""
    black = replace(views, rgb=np.zeros_like(views.rgb))
    assert exposure.factors(black, sdf) is None
    even, spread, disagree = stages.even(black, stages.Hull(sdf, None, 0.6, None, 0, 1.0), DisagreementSpec())
    assert even is black and spread is None and not disagree


def test_too_few_views_are_not_called_equal(views, sdf):
    """Three others have to show a place: of four views on a ring none does."""
    assert exposure.factors(views.subset([0, 3, 6, 9]), sdf) is None
