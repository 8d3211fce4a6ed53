"""The graphs that make a mesh in their Ascend form: nothing is found, and what is traced is what a run calls."""
from dataclasses import replace

import numpy as np
import pytest
from support.auditing import examined

from sgm import ops
from sgm.audit import mesh_graphs
from sgm.config.reconstruction import DepthSpec, DMTetSpec, MeshSpec, NerfSpec
from sgm.reconstruct.dmtet import pixel_batches, refinement
from sgm.reconstruct.hull import sdf_grid
from sgm.reconstruct.nerf import training
from sgm.reconstruct.posed_views import HALF, PosedViews
from sgm.reconstruct.stages import field_settings
from sgm.views.cameras import Orbit

# Every loss and option is on in one of the two.
SMALL = MeshSpec(
    nerf=NerfSpec(resolutions=[4, 8], width=8, rays=16, samples=4), depth=DepthSpec(resolution=16),
    dmtet=DMTetSpec(sides=[32], views=[2], steps=[1], lr=[1e-3], pixels=256, deformation=0.1))
OTHER = replace(
    SMALL, nerf=NerfSpec(encoding="hash", hash_levels=3, hash_log2=8, hash_coarsest=4, hash_finest=24, width=8, rays=16,
                         samples=4, directional=True, depth=1.0, tv=1.0, distortion=0.0),
    dmtet=replace(SMALL.dmtet, geometry=0.0))
CASES = {f"{name}: {case.name}": case for name, spec in (("dense", SMALL), ("hash", OTHER))
         for case in mesh_graphs.graphs(spec)}


@pytest.mark.parametrize("name", CASES)
def test_graphs_of_the_mesh_have_no_violations(name):
    row = examined(CASES[name])
    assert set(row["exceptions"]) <= {"BiasAddGrad", "ReluGrad", "SigmoidGrad", "SqrtGrad", "StridedSliceGrad"}
    assert not {"UnsortedSegmentSum", "GreaterEqualScalar"} & set(row["primitives"])     # an A2 has none


def test_what_crosses_by_hand():
    """A step of the field: 64 points, 2 levels of 8 corners, index and weight of 4 bytes; per ray 4 distances, 4 lengths,
    9 colors and alphas but 7 of them; three rates; two results. 14 products of matrices."""
    row = examined(CASES["dense: NeRF training step, dense"])
    assert row["host_bytes"] == 64 * 2 * 8 * 8 + 4 * 16 * (4 + 4 + 3 + 1 + 3) + 4 * 3 + 4 * 2
    points, rays = 64, 16
    forward = 2 * points * (8 * 8 + 8 * 1 + 8 * 8 + 8 * 3) + 2 * rays * 4 * 4 * 3     # layers; sums along the rays
    assert 2.5 < row["flops"] / forward <= 3


class Called(Exception):
    """Ends a step where it calls its graph."""


def types_of(step):
    """(dtype, shape) of what a step gives its graph; step: an object with a `graph`, and the name of its method."""
    trainer, method = step

    def graph(*given):
        raise Called([(str(x.dtype).lower(), tuple(x.shape)) for x in given])

    trainer.graph = graph
    with pytest.raises(Called) as called:
        getattr(trainer, method)()
    return called.value.args[0]


@pytest.mark.parametrize("spec", [SMALL, OTHER], ids=["dense", "hash"])
def test_the_arguments_are_those_of_a_run(spec, cpu_afterwards, monkeypatch):
    """What the trainers give their graphs for three views of a ball."""
    known = {"edges": 5000, "faces": 7000, "outlines": 3000}
    monkeypatch.setattr(pixel_batches.Lengths, "of", lambda self, name, count: known[name])
    nerf_case, disagreeing_case, _, dmtet_case, guided_case = mesh_graphs.graphs(spec)
    ops.set_target("Ascend")
    axis = sdf_grid.vertices(16, HALF)
    sdf = np.sqrt(np.square(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))).sum(0)).astype(np.float32) - 0.4
    row, column = np.mgrid[:32, :32] - 15.5
    mask = np.tile(np.float32(np.hypot(row, column) < 11), (3, 1, 1))
    views = PosedViews(0.5 * mask[..., None].repeat(3, -1), mask, Orbit.dynamic(1, 10, 3).poses(2.0), 52.0, 52.0, 16.0, 16.0)
    trainer = training.NerfTrainer(views, sdf, spec.nerf)
    refiner = refinement.Refiner(views, sdf, trainer.field, spec.dmtet)
    disagreeing = training.NerfTrainer(views, sdf, field_settings(spec, True), cells=spec.disagreement.grid)
    guided = refinement.Refiner(views, sdf, trainer.field, spec.dmtet)
    guided.is_guided, guided.goals = True, lambda *_: refinement.Goal(views, np.ones((3, 32, 32), np.float32), 1.0, 2)
    for case, step in ((nerf_case, (trainer, "step")), (disagreeing_case, (disagreeing, "step")),
                       (dmtet_case, (refiner, "step")), (guided_case, (guided, "step"))):
        assert types_of(step) == [(argument.dtype, argument.shape) for argument in case.arguments.values()]
