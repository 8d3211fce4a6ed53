"""The networks against the public PyTorch code: keys, shapes, tokens and planes; without graphs and compiled."""
import json

import numpy as np
import pytest
from support.feedforward_goldens import SPECS, fill, golden_of, network, tensors
from support.paths import GOLDEN

from sgm import ops
from sgm.config.lrm import EncoderSpec, load_lrm_spec
from sgm.feedforward.layers.encoders import TransformersVit
from sgm.feedforward.networks import Encode, Planes, build_network
from sgm.feedforward.published import is_unused

UNUSED = {"vfusion3d": ["encoder.model.embeddings.mask_token"],
          "triposr": ["image_tokenizer.model.pooler.dense.bias", "image_tokenizer.model.pooler.dense.weight"]}
PARAMETERS = {"vfusion3d": 452_135_700, "openlrm_small": 111_390_948, "openlrm_base": 260_201_972,
              "openlrm_large": 452_138_004, "triposr": 419_275_628}


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_and_shapes_are_the_published_ones(name):
    published = {key: tuple(shape) for key, shape in json.loads((GOLDEN / f"manifests/{name}.json").read_text()).items()}
    ours = {key: tuple(p.shape) for key, p in build_network(load_lrm_spec(name)).parameters_dict().items()}
    assert sorted(set(published) - set(ours)) == UNUSED.get(name, []) and all(map(is_unused, UNUSED.get(name, [])))
    assert ours.items() <= published.items() and not any(map(is_unused, ours))
    assert sum(np.prod(shape) for shape in published.values()) == PARAMETERS[name]


@pytest.mark.parametrize("name, compiled", [(name, False) for name in SPECS] + [("vfusion3d", True)] + [
    pytest.param(name, True, marks=pytest.mark.slow) for name in ("openlrm_kvsame", "openlrm_kvdiff", "triposr")])
def test_tokens_and_planes(name, compiled):
    g, net = golden_of(f"{name}_model"), network(name)

    def run(cell, *arrays):
        return (ops.compiled(cell.construct) if compiled else cell)(*tensors(*arrays))

    if name == "triposr":
        tokens = run(Encode(net), g["act/rgb_cond"].transpose(0, 3, 1, 2))
        g.agrees("out/image_tokens", tokens)
        g.agrees("out/scene_codes", run(Planes(net), tokens.asnumpy()))
    else:
        tokens = run(Encode(net), g["in/image"])
        g.agrees("out/image_tokens", tokens)
        g.agrees("out/planes", run(Planes(net), tokens.asnumpy(), g["in/source_camera"]))


@pytest.mark.parametrize("size, case", [((56, 56), "native.v5"), ((84, 84), "up.v4"), ((42, 70), "rect.v4")])
def test_dinov2(size, case):
    """Larger than what its positions are of, and not square: by the rule of transformers before 5."""
    g = golden_of("dinov2")
    vit = fill(TransformersVit(EncoderSpec(width=32, layers=2, heads=2, image_size=56), "vfusion3d", size), "dev.dinov2.")
    g.agrees(f"out/{case}.last_hidden_state", vit(*tensors(g[f"in/{case.split('.')[0]}.pixel_values"] * vit.std.asnumpy()
                                                           + vit.mean.asnumpy())))
    if f"act/{case}.pos_embed" in g:
        g.agrees(f"act/{case}.pos_embed", vit.positions(vit.embeddings.position_embeddings))


def test_a_camera_changes_the_planes():
    net, g = network("openlrm_kvdiff"), golden_of("openlrm_kvdiff_model")
    planes = [Planes(net)(*tensors(g["out/image_tokens"], camera)).asnumpy()
              for camera in (g["in/source_camera"], g["in/source_camera"] + 0.1)]
    assert np.abs(planes[0] - planes[1]).max() > 0.01
