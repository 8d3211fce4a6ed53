"""The names of diffusers by rule, against the list of the published folder."""
import json

import numpy as np
import pytest
from support.published import MANIFESTS, RELEASED, TINY, spec_of

from sgm.checkpoints.diffusers.names import (
    MATRIX,
    PARTS,
    THIRD,
    TRANSPOSED,
    from_places,
    places,
    shape_at,
    to_place,
)
from sgm.checkpoints.original_keys import is_unused, used_shapes
from sgm.config.model_files import load_spec


def test_every_tensor_of_the_published_diffusers_folder():
    """1428 + 374 + 520 names, what each is made of, how, and its shape."""
    how = {"None": ("", 0), "squeeze": (MATRIX, 0), "T": (TRANSPOSED, 0),
           **{f"('chunk', {third})": (THIRD, third) for third in range(3)}}
    expected = {}
    for part, names in json.loads((MANIFESTS / "diffusers_svd.json").read_text()).items():
        for name, (key, op, shape) in names.items():
            expected[part, name] = ("model.diffusion_model." * (part == "unet") + key, *how[op], tuple(shape))
    spec, found = load_spec("svd"), {}
    for key, shape in used_shapes(spec).items():
        for place in places(key, spec):
            assert (place.part, place.name) not in found
            found[place.part, place.name] = (key, place.how, place.third, shape_at(place, shape))
    assert [sum(part == name for part, _ in found) for name in PARTS] == [1428, 374, 520]
    assert found == expected


@pytest.mark.parametrize("name", [*RELEASED, "sv3d_tiny", TINY / "tiny_sv3d_u.yaml"])
def test_no_two_tensors_share_a_place(name):
    spec = spec_of(name)
    found = [place[:2] for key in used_shapes(spec) if not is_unused(key) for place in places(key, spec)]
    assert len(set(found)) == len(found)
    assert ("vae", "decoder.mid_block.resnets.0.norm1.weight") in found or spec.vae.decoder == "temporal"
    for half in ("temporal_res_block", "spatial_res_block"):  # names that an AutoencoderKL does not have
        assert any(part == "vae" and half in name for part, name in found) == (spec.vae.decoder == "temporal")


def test_a_stranger_has_no_place():
    with pytest.raises(ValueError, match="found no such network"):
        places("conditioner.embedders.1.encoder.quant_conv.weight", load_spec("svd"))      # it is embedder 3 there


CLIP = "conditioner.embedders.0.open_clip.model.visual."


@pytest.mark.parametrize("key, shape, count", [
    ("first_stage_model.decoder.mid.attn_1.q.weight", (6, 5, 1, 1), 1), (CLIP + "proj", (6, 5), 1),
    (CLIP + "transformer.resblocks.3.attn.in_proj_weight", (6, 5), 3), (CLIP + "ln_pre.bias", (6,), 1)])
def test_there_and_back(key, shape, count):
    found, array = places(key, load_spec("svd")), np.arange(np.prod(shape)).reshape(shape)
    parts = [to_place(array, place) for place in found]
    assert [part.shape for part in parts] == [shape_at(place, shape) for place in found] and len(parts) == count
    assert np.array_equal(from_places(parts, found), array)
