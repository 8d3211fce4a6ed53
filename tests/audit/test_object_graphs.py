"""The graphs of an autodecoder in their Ascend form: nothing is found, and what is traced is what a run calls."""
import pytest
from support.small_autodecoder import CHANGES

from sgm.audit import ascend_rules, object_graphs
from sgm.audit.diffusion_graphs import audit
from sgm.config.autodecoding import load_autodecoder_spec

SPEC = load_autodecoder_spec("autodecoder_small", [*CHANGES, "embedding.books=2", "embedding.bits=3", "volume.attention=[8]",
                                                   "volume.head_width=8", "diffusion.multipliers=[1,1]"])
CASES = {case.name: case for case in object_graphs.graphs(SPEC)}


QUICK = ("latent of an object", "volume of a latent", "4096 rays")      # the others are traced in 2 to 10 seconds each


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_graphs_of_objects_have_no_violations(name):
    row = audit(CASES[name])
    assert row["violations"] == {kind: [] for kind in ascend_rules.KINDS} and row["flops"] > 0
    assert ("Conv2D" in row["primitives"]) != name.endswith("rays") and "Conv3D" not in row["primitives"]
    assert not {"UnsortedSegmentSum", "GreaterEqualScalar"} & set(row["primitives"])     # an A2 has none
    assert set(row["exceptions"]) <= {"BiasAddGrad", "Conv2DBackpropFilter", "Conv2DBackpropInput", "GroupNormGrad",
                                      "ReluGrad", "SigmoidGrad", "SiLUGrad", "SqrtGrad", "StridedSliceGrad", "TensorMove"}
