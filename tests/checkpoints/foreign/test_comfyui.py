"""One autoencoder in place of two, CLIP under transformers' names: as ComfyUI saves image-to-video models."""
import numpy as np
import pytest
from support.converting import SV3D_P, SVD
from support.goldens import build_checkpoint

from sgm.checkpoints.diffusers.names import places, to_place
from sgm.checkpoints.identify import check_fit
from sgm.checkpoints.opening import open_weights
from sgm.checkpoints.original_keys import FIRST_STAGE, image_embedders, used_shapes
from sgm.checkpoints.safetensors_format import Arrays
from sgm.config.model_files import load_spec

SVD_FILE, SV3D_FILE = build_checkpoint("svd"), build_checkpoint("sv3d_p")


def opened(arrays, spec):
    store, found = open_weights(Arrays("x.safetensors", arrays), spec)
    check_fit(store, used_shapes(found))
    return store, found


@pytest.mark.parametrize("quant_conv", [False, True])
def test_svd_with_the_first_stage_alone(quant_conv, caplog):
    """Case 17. An encoder without the 1x1 convolution gives the moments itself: an identity stands for it."""
    spec = load_spec(SVD)
    inner = image_embedders(spec)[1] + "encoder."
    arrays = {key: value for key, value in SVD_FILE.items() if not key.startswith(inner)}
    if quant_conv:
        arrays.update({FIRST_STAGE + "quant_conv.weight": np.full((8, 8, 1, 1), 2, np.float32),
                       FIRST_STAGE + "quant_conv.bias": np.full(8, 3, np.float32)})
    store, _ = opened(arrays, spec)
    for key in used_shapes(spec):
        if key.startswith(inner + "encoder."):
            assert np.array_equal(store.read(key), arrays[FIRST_STAGE + key.removeprefix(inner)])
    weight, bias = (store.read(f"{inner}quant_conv.{name}") for name in ("weight", "bias"))
    x = np.random.RandomState(0).randn(8)
    assert np.allclose(weight[:, :, 0, 0] @ x + bias, np.full(8, 2 * x.sum() + 3) if quant_conv else x)
    assert "holds one autoencoder, as ComfyUI saves a model: first_stage_model.encoder is used" in caplog.text


def test_sv3d_with_the_embedders_alone(caplog):
    """Of SV3D it is the one among the embedders, whose decoder has a 1x1 convolution before it."""
    spec = load_spec(SV3D_P)
    inner = image_embedders(spec)[1] + "encoder."
    whole = SV3D_FILE
    arrays = {key: value for key, value in whole.items() if not key.startswith(FIRST_STAGE)}
    arrays.update({inner + "post_quant_conv.weight": np.ones((4, 4, 1, 1), np.float32),
                   inner + "post_quant_conv.bias": np.ones(4, np.float32)})
    store, found = opened(arrays, spec)
    assert found.vae.decoder == "image" and found.vae.post_quant_conv
    for key in used_shapes(found):
        if key.startswith(FIRST_STAGE):
            assert np.array_equal(store.read(key), arrays[inner + key.removeprefix(FIRST_STAGE)])
    assert "decoder decodes the views" in caplog.text


def test_svd_has_no_second_decoder():
    """Its own is over time; the embedder's does not stand for it."""
    spec = load_spec(SVD)
    arrays = {key: value for key, value in SVD_FILE.items() if not key.startswith(FIRST_STAGE)}
    store, _ = open_weights(Arrays("x.safetensors", arrays), spec)
    assert not any(key.startswith(FIRST_STAGE) for key in store)


def test_clip_under_transformers_names():
    spec = load_spec(SVD)
    visual = image_embedders(spec)[0] + "open_clip.model.visual."
    whole, arrays = SVD_FILE, {}
    for key, value in whole.items():
        for place in places(key, spec) if key.startswith(visual) else ():
            arrays[visual + place.name] = np.ascontiguousarray(to_place(value, place))
        if not key.startswith(visual):
            arrays[key] = value
    assert visual + "vision_model.encoder.layers.0.self_attn.q_proj.weight" in arrays
    store, _ = opened(arrays, spec)
    assert set(store) == set(whole) and all(np.array_equal(store.read(key), whole[key]) for key in whole)


def test_a_base_goes_first():
    """What --base gives is not taken from elsewhere in the file: so it was before."""
    spec = load_spec(SV3D_P)
    whole = SV3D_FILE
    arrays = {key: value for key, value in whole.items() if not key.startswith(FIRST_STAGE)}
    store, found = open_weights(Arrays("x.safetensors", arrays), spec, Arrays("base", whole))
    assert not found.vae.post_quant_conv
    assert all(np.array_equal(store.read(key), whole[key]) for key in whole)
