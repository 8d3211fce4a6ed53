"""The report: the turntable of a mesh, and its figures."""
import numpy as np
import pytest
from support.coloring import textured_brick

from sgm.geometry import topology
from sgm.reconstruct.report import facts, turntable, write_turntable


@pytest.fixture(scope="module")
def mesh():
    return textured_brick()


def test_turntable(mesh, tmp_path):
    frames = turntable(mesh, frames=8, size=48)
    assert frames.shape == (8, 48, 96, 3) and frames.dtype == np.uint8
    both = [frames[..., :48, :], frames[..., 48:, :]]
    assert all((side != 255).any(-1).mean() > 0.05 for side in both)
    assert (both[0].max(-1) != both[0].min(-1)).any() and (both[1].max(-1) == both[1].min(-1)).all()   # colors, and clay
    files = write_turntable(tmp_path, frames)
    assert {f.name for f in files} == {"turntable.mp4", "turntable.gif"} == {p.name for p in tmp_path.iterdir()}
    figures = facts(mesh)
    assert figures["watertight"] and figures["boundary_edges"] == 0 and figures["texture_coverage"] == 1
    assert figures["volume"] == pytest.approx(0.24, rel=1e-4) and figures["faces"] == 192
    assert topology.describe(mesh.vertices, mesh.faces)["genus"] == 0
