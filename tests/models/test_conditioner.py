"""Conditioning against the original: each embedder alone, c and uc, sinusoids of the scalars."""
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor

from sgm import ops
from sgm.config.model_files import load_spec
from sgm.models.conditioner import Conditioner, ScalarEmbedder
from sgm.train.data.examples import Examples

SCALARS = {"sv3d_p": ("cond_aug", "polars_rad", "azimuths_rad"), "sv3d_u": ("cond_aug",),
           "svd": ("fps_id", "motion_bucket_id", "cond_aug")}


def scalars(golden, name):
    return {key: golden[f"in/batch/{key}"] for key in SCALARS[name]}


@pytest.mark.parametrize("name", SCALARS)
def test_each_embedder(name, golden, tiny_engine, agree):
    g, conditioner = golden(f"cond_{name}"), tiny_engine(name).conditioner
    wanted = {key.partition(".")[2]: value for key, value in g.items() if key.startswith("out/emb.")}
    for order, embedder in enumerate(conditioner.names):
        given = {"cond_frames_without_noise": g["in/image"], **g}.get(embedder)
        given = g[f"in/batch/{embedder}"] if given is None else given
        result = conditioner.embedder(embedder).embed(given)
        agree(f"cond_{name} emb.{order}.{embedder}", result, wanted.pop(f"{order}.{embedder}"))
    assert not wanted


@pytest.mark.parametrize("name", SCALARS)
def test_both_sides(name, golden, tiny_engine, agree):
    """From the image and its noise: the image token without noise, its latent with noise and unscaled."""
    g = golden(f"cond_{name}")
    values = scalars(g, name)
    cond_aug = float(values.pop("cond_aug")[0])
    values = {key: value if key.endswith("_rad") else int(value[0]) for key, value in values.items()}
    c, uc = tiny_engine(name).condition(g["in/image"], g["in/cond_noise"], cond_aug=cond_aug, **values)
    for side, result in (("c", c), ("uc", uc)):
        assert set(result) == {"crossattn", "concat", "vector"}
        for key, value in result.items():
            agree(f"cond_{name} {side}/{key}", value, g[f"out/{side}/{key}"])
            raw = g[f"out/{side}_raw/{key}"]        # before the original repeats it over the frames
            agree(f"cond_{name} {side}_raw/{key}", value[:len(raw)], raw)
    assert not uc["crossattn"].asnumpy().any() and not uc["concat"].asnumpy().any()


def test_cond_aug_is_the_models_own_unless_given(golden, tiny_engine):
    """SV3D's 1e-5 in the vector, and noise of that size on the latent's image."""
    g, engine = golden("cond_sv3d_u"), tiny_engine("sv3d_u")
    image, noise = g["in/image"], g["in/cond_noise"]
    default, _ = engine.condition(image, noise)
    given, _ = engine.condition(image, noise, cond_aug=1e-5)
    for key in default:
        np.testing.assert_array_equal(default[key].asnumpy(), given[key].asnumpy())
    strong, _ = engine.condition(image, noise, cond_aug=0.5, num_frames=3)
    assert {key: len(value) for key, value in strong.items()} == dict.fromkeys(strong, 3)
    np.testing.assert_array_equal(strong["crossattn"].asnumpy(), default["crossattn"].asnumpy()[:3])
    assert np.abs((strong["concat"] - default["concat"][:3]).asnumpy()).max() > 0.01


def test_missing_and_misshapen_scalars_are_named(golden, tiny_engine):
    g = golden("cond_sv3d_p")
    image, noise = g["in/image"], g["in/cond_noise"]
    with pytest.raises(ValueError, match="polars_rad is missing"):
        tiny_engine("sv3d_p").condition(image, noise, azimuths_rad=np.zeros(5))
    with pytest.raises(ValueError, match=r"azimuths_rad has shape \(4,\), expected one number or \(5,\)"):
        tiny_engine("sv3d_p").condition(image, noise, polars_rad=1.4, azimuths_rad=np.zeros(4))
    with pytest.raises(ValueError, match="fps_id is missing"):
        tiny_engine("svd").condition(image, noise, motion_bucket_id=127)


def test_sinusoids(golden, agree):
    """The embeddings of noise levels, of frame numbers and of scalars; two scalars are two embeddings side by side."""
    g = golden("embed")
    agree("embed temb_320", ops.timestep_embedding(Tensor(g["in/c_noise"]), 320), g["out/temb_320"])
    agree("embed frame_emb_320", ops.timestep_embedding(ops.frame_index(1, 21), 320), g["out/frame_emb_320"])
    for dim in (256, 512):
        agree(f"embed concat_nd_{dim}", ScalarEmbedder(dim).embed(g["in/values"]), g[f"out/concat_nd_{dim}"])
    pair = [ScalarEmbedder(256).embed(column).asnumpy() for column in g["in/values2d"].T]
    agree("embed concat_nd2d_256", np.concatenate(pair, 1), g["out/concat_nd2d_256"])
    for name in ("polars", "azimuths"):
        result = ScalarEmbedder(512).embed(g[f"out/{name}_rad_21"])
        agree(f"embed emb_{name}_21", result, g[f"out/emb_{name}_21"])


def test_frame_index_starts_anew_in_every_video():
    np.testing.assert_array_equal(ops.frame_index(2, 3).asnumpy(), [0, 1, 2, 0, 1, 2])


def test_angles_may_be_scaled_and_training_tells_the_same(relative_error):
    """`condition.angle_scale` turns the angles' sinusoids faster, and no other; the training data's twin agrees."""
    values = {"cond_aug": 0.02, "polars_rad": np.linspace(1.0, 1.6, 21), "azimuths_rad": np.linspace(0.3, 6.0, 21)}
    encoded = {}
    for scale in (1.0, 8.0):
        spec = load_spec("sv3d_tiny", [f"condition.angle_scale={scale}"])
        encoded[scale] = ops.fetch(Conditioner(spec).vector(values, 21))
        twin = Examples.vector(SimpleNamespace(num_frames=21, engine=SimpleNamespace(spec=spec)), values, 21)
        assert relative_error(twin, encoded[scale]) < 1e-6
    scalar, angle = spec.condition.scalar_dim, spec.condition.angle_dim
    np.testing.assert_array_equal(encoded[8.0][:, :scalar], encoded[1.0][:, :scalar])
    np.testing.assert_allclose(encoded[8.0][:, scalar], np.cos(8 * values["polars_rad"]), atol=1e-5)
    np.testing.assert_allclose(encoded[8.0][:, scalar + angle], np.cos(8 * values["azimuths_rad"]), atol=1e-5)
