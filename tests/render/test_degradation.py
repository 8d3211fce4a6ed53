"""Faults of generated views, each against what it should be."""
from dataclasses import replace

import numpy as np
import pytest

from sgm.geometry.mesh import Mesh, merge
from sgm.render.degradation import Degradation, degraded_orbit, drift, faulty, thin_part, warps
from sgm.render.zbuffer import STUDIO, render_views
from sgm.views.cameras import FOV_DEG, Orbit

NONE = Degradation(gloss=0, brightness=0, hue=0, warp=0, missing=0, elevation=0)
ORBIT, SIZE = Orbit.static(10, 8), 48
CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
SIDES = np.array([(0, 2, 6, 4), (1, 5, 7, 3), (0, 4, 5, 1), (2, 3, 7, 6), (0, 1, 3, 2), (4, 6, 7, 5)])


def block(center, half):
    faces = np.concatenate([SIDES[:, [0, 1, 2]], SIDES[:, [0, 2, 3]]])
    return Mesh(CORNERS * half + center, faces, colors=np.full((8, 3), 0.5))


BODY, POLE = block((0, 0, -0.2), (0.25, 0.25, 0.25)), block((0, 0, 0.25), (0.02, 0.02, 0.2))
LAMP = merge([BODY, POLE])


def degraded(seed=0, **strengths):
    return degraded_orbit(LAMP, ORBIT, 2.0, SIZE, STUDIO, 1, replace(NONE, **strengths), np.random.RandomState(seed))


def clean():
    return render_views(LAMP, ORBIT.poses(), SIZE, FOV_DEG, supersample=1, lighting=STUDIO)


def test_drift_has_its_deviations_and_spares_the_input_view():
    log = np.log(drift(np.random.RandomState(1), 21, 0.3, 0.1))
    common = log.mean(1, keepdims=True)
    assert common.std() == pytest.approx(0.3) and np.sqrt((log - common).var(0).mean()) == pytest.approx(0.1)
    assert (log[-1] == 0).all() and np.abs(np.diff(log[:, 0])).max() < np.ptp(log[:, 0]) / 2     # it goes smoothly
    assert (np.ptp(drift(np.random.RandomState(1), 21, 0.3, 0), axis=1) < 1e-12).all()           # no hue


def test_warps_are_smooth_and_end_at_the_border_and_the_input():
    moves = np.stack(list(warps(np.random.RandomState(2), 21, 64, 0.64)))
    assert (moves[-1] == 0).all() and np.abs(moves[:, [0, -1]]).max() < 0.1 * np.abs(moves).max()
    middle = moves[5:15, 16:48, 16:48]
    assert 0.4 < np.sqrt(np.square(middle).mean()) < 0.8
    assert np.abs(np.diff(middle, axis=1)).max() < 0.5      # nothing is folded over
    assert np.ptp(middle[0, ..., 0]) > 0.4                  # no mere shift


def test_faulty_picture():
    view = np.full((8, 8, 4), (100, 150, 188, 255), np.uint8)
    view[:, 4:] = 255, 255, 255, 0
    view[0, 3, 3] = 100
    still, moved = np.zeros((8, 8, 2), np.float32), np.full((8, 8, 2), (1, 0), np.float32)
    assert np.abs(faulty(view, np.ones(3), still).astype(int) - view).max() <= 1
    # srgb(linear(188) = 0.503, halved) = 137; doubled it is clipped
    assert faulty(view, np.array([1, 1, 0.5]), still)[4, 0].tolist() == [100, 150, 137, 255]
    assert faulty(view, np.array([1, 1, 2]), still)[4, 0].tolist() == [100, 150, 255, 255]
    left = faulty(view, np.ones(3), moved)      # each pixel shows its right neighbor
    assert (left[1:, :3, 3] == 255).all() and (left[:, 3:] == (255, 255, 255, 0)).all()


def test_thin_part_is_the_pole():
    poses = ORBIT.poses()
    foot = {12, 18}                     # the pole's end that stands on the body
    assert set(np.flatnonzero(thin_part(LAMP, poses))) == set(range(12, 24)) - foot
    assert not thin_part(BODY, poses).any() and not thin_part(POLE, poses).any()    # all thick; all thin


def test_nothing_is_changed_without_strengths():
    views, written = degraded()
    assert np.abs(views.astype(int) - clean()).max() <= 1 and (written.elevations_deg == 10).all()


def test_part_is_missing_in_its_share_of_views():
    views, truth = degraded(missing=0.25)[0], clean()
    gone = [int((view[..., 3] != other[..., 3]).sum()) for view, other in zip(views, truth)]
    pole = render_views(POLE, ORBIT.poses(), SIZE, FOV_DEG, supersample=1)[..., 3] > 0
    assert np.count_nonzero(gone) == 2 and gone[-1] == 0
    for view, other, seen in zip(views, truth, pole):
        assert seen[view[..., 3] != other[..., 3]].all()


def test_highlights_change_colors_alone_in_every_view():
    views, truth = degraded(gloss=0.5, sharpness=2)[0].astype(int), clean().astype(int)
    assert (views[..., 3] == truth[..., 3]).all()
    assert all((view - other)[..., :3].max() > 20 and (view - other)[..., :3].min() >= -1
               for view, other in zip(views, truth))


def test_cameras_are_written_off():
    seen = set()
    for seed in range(4):
        views, written = degraded(seed, elevation=5)
        assert np.abs(views.astype(int) - clean()).max() <= 1
        seen.add(float(written.elevations_deg[0]))
        assert (written.camera_azimuths_deg == ORBIT.camera_azimuths_deg).all()
    assert seen == {5, 15}
    high = degraded_orbit(BODY, Orbit.static(88, 4), 2.0, 8, STUDIO, 1, Degradation(), np.random.RandomState(0))[1]
    assert high.elevations_deg.max() <= 89


def test_seed_decides():
    first, again, other = (degraded(seed, **vars(Degradation()) | {"missing": 0})[0] for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()
