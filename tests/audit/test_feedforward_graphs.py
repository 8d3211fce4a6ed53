"""The graphs of the feed-forward networks in their Ascend form: nothing is found, and what is traced is what a run calls."""
import numpy as np
import pytest
from support.feedforward_goldens import SPECS, network
from support.small_lrm import CHANGES

from sgm import ops
from sgm.audit import ascend_rules, diffusion_graphs, feedforward_graphs
from sgm.config.lrm import load_lrm_spec
from sgm.feedforward import reconstructor
from sgm.views.cameras import camera_to_world

# Which graphs of each: what the others do not have; the larger ones are slow.
ALL = {**SPECS, "lrm_small": load_lrm_spec("lrm_small", CHANGES)}       # which has an estimator of the elevation
CHOSEN = {"vfusion3d": (2, 4, 5, 6), "openlrm_kvsame": (1,), "triposr": (4, 5, 6), "lrm_small": (2,)}
SLOW = {"vfusion3d": (0, 1), "openlrm_kvsame": (0,), "triposr": (1,)}
CASES = {f"{name}: {case.name}": case for chosen in (CHOSEN, SLOW) for name, places in chosen.items()
         for case in map(list(feedforward_graphs.graphs(ALL[name])).__getitem__, places)}
QUICK = sum(map(len, CHOSEN.values()))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (place >= QUICK))
                                  for place, name in enumerate(CASES)])
def test_feedforward_graphs_have_no_violations(name):
    row = diffusion_graphs.audit(CASES[name])
    assert row["violations"] == {kind: [] for kind in ascend_rules.KINDS} and row["flops"] > 0 and row["bytes"] > 0
    assert not row["exceptions"] and not {"GridSampler2D", "CumProd", "Sort", "GatherD"} & set(row["primitives"])


@pytest.mark.parametrize("name", ["vfusion3d", "triposr"])
def test_the_arguments_are_those_of_a_run(name, monkeypatch):
    monkeypatch.setattr(feedforward_graphs, "POINTS", 64)
    monkeypatch.setattr(feedforward_graphs, "GRID", 4)
    monkeypatch.setattr(reconstructor, "POINTS", 64)
    seen = {}

    def compiled(construct):
        cell = construct.__self__

        def call(*given):
            seen[type(cell)] = [(str(x.dtype).lower(), tuple(x.shape)) for x in given]
            return cell(*given)
        return call

    monkeypatch.setattr(ops, "compiled", compiled)
    lrm = reconstructor.Reconstructor(SPECS[name], network(name))
    side = lrm.spec.image_size
    planes = lrm.planes(lrm.encode(np.zeros((1, 3, side, side))))
    lrm.field(planes, np.zeros((1, 64, 3)))
    lrm.grid(planes, 4)
    lrm.render(planes, camera_to_world([0], [0], 2.0), (1, 1, 0.5, 0.5), (4, 4))
    cases = {type(case.make()): case for case in feedforward_graphs.graphs(SPECS[name])}
    assert set(seen) == set(cases) and len(cases) == 7
    for kind, case in cases.items():
        assert seen[kind] == [(argument.dtype, argument.shape) for argument in case.arguments.values()], case.name
