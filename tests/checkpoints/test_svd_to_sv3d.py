"""SVD weights as the start of an SV3D fine-tuning: what the network computes then; and weights from a diffusers folder."""
import os
from dataclasses import replace

os.environ.setdefault("GLOG_v", "3")

import numpy as np
import pytest
from mindspore import Tensor
from support.goldens import PACKAGED, build_checkpoint

from sgm import ops
from sgm.audit.golden_weights import init_weight, rand
from sgm.checkpoints.diffusers.writer import to_parts, write_folder
from sgm.checkpoints.identify import VECTOR_KEY
from sgm.checkpoints.loading import check_weights, file_hash, load_weights
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.original_keys import used_shapes
from sgm.checkpoints.safetensors_format import Arrays, save_safetensors
from sgm.checkpoints.svd_to_sv3d import convert_conditioning, start_spec
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError
from sgm.diffusion.engine import Engine
from sgm.diffusion.pipeline import load_model

SVD = load_spec(PACKAGED / "tiny_svd.yaml")
# One level: a third of the time.
SMALL = replace(SVD, unet=replace(SVD.unet, channel_mult=[1], attention_resolutions=[]))
FRAMES, COND_AUG = 2, 0.02


@pytest.fixture(scope="module")
def weights():
    return build_checkpoint("svd")


def evaluated(engine, store, **scalars):
    """The UNet's output (T, 4, 4, 4) for fixed inputs and these scalars of the vector condition."""
    load_weights(engine.model, store, prefix="model.")
    shapes = {"x": (FRAMES, 8, 4, 4), "timesteps": (FRAMES,), "context": (FRAMES, 1, SVD.unet.context_dim)}
    x, timesteps, context = (Tensor(rand(f"surgery.{name}", shape)) for name, shape in shapes.items())
    y = engine.conditioner.vector(scalars, FRAMES)
    return ops.fetch(engine.model.diffusion_model(x, timesteps, context, y, num_video_frames=FRAMES))


@pytest.mark.parametrize("model", ["sv3d_p", pytest.param("sv3d_u", marks=pytest.mark.slow)])
def test_the_network_starts_as_svd(model, pynative):
    """With angles its output is SVD's given the same cond_aug, without what fps and motion add to that."""
    weights = {key: np.asarray(init_weight(key, shape), np.float32) for key, shape in used_shapes(SMALL).items()}
    angles = {"polars_rad": np.array([0.3, 2.0]), "azimuths_rad": np.array([0.0, 6.0])} if model == "sv3d_p" else {}
    target = start_spec(SMALL, model)
    start = convert_conditioning(Arrays("svd", weights), SMALL, target)
    engine = Engine(target)
    check_weights(engine, start)
    assert engine.first_stage_model.temporal
    ours = evaluated(engine, start, cond_aug=COND_AUG, **angles)

    without_video = weights[VECTOR_KEY].copy()
    without_video[:, :512] = 0                       # fps_id and motion_bucket_id
    scalars = dict(cond_aug=COND_AUG, fps_id=6, motion_bucket_id=127)
    engine = Engine(SMALL)
    theirs = evaluated(engine, Arrays("svd", {**weights, VECTOR_KEY: without_video}), **scalars)
    assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()
    untouched = evaluated(engine, Arrays("svd", weights), **scalars)
    assert np.abs(untouched - theirs).max() > 1e-3 * np.abs(theirs).max()


def test_roles_not_numbers(weights):
    """Between any two orders of the embedders; and back again, but for what was dropped."""
    target = start_spec(SVD, "sv3d_p")
    there = convert_conditioning(Arrays("svd", weights), SVD, target)
    assert target.vector_widths == {"cond_aug": 256, "polars_rad": 512, "azimuths_rad": 512}
    back = convert_conditioning(there, target, SVD)
    assert set(back) == set(weights)
    kept = np.concatenate([np.zeros((128, 512), np.float32), weights[VECTOR_KEY][:, 512:]], 1)
    for key, array in weights.items():
        assert np.array_equal(back.raw(key), kept if key == VECTOR_KEY else array)
    again = convert_conditioning(there, target, start_spec(target, "sv3d_u"))
    assert np.array_equal(again.raw(VECTOR_KEY), weights[VECTOR_KEY][:, 512:])


def test_other_networks_are_refused(weights):
    target = start_spec(SVD, "sv3d_p")
    with pytest.raises(ConfigError, match="sv3d_p: unet: found other sizes than tiny_svd's"):
        convert_conditioning(Arrays("svd", weights), SVD, replace(target, unet=load_spec("svd").unet))
    with pytest.raises(ConfigError, match="sv3d_p: cond_aug: found 128 columns, expected 256"):
        narrow = replace(target, condition=replace(target.condition, scalar_dim=128))
        convert_conditioning(Arrays("svd", weights), SVD, narrow)


def test_weights_from_a_diffusers_folder(weights, tmp_path):
    """`load_model` reads it as it reads the file: the same parameters, the same model."""
    save_safetensors(tmp_path / "svd.safetensors", weights)
    store = open_checkpoint(tmp_path / "svd.safetensors")
    write_folder(tmp_path / "svd", to_parts(store, SVD), SVD)
    engine = load_model(PACKAGED / "tiny_svd.yaml", tmp_path / "svd")
    assert engine.spec == load_model(PACKAGED / "tiny_svd.yaml", tmp_path / "svd.safetensors").spec
    for part in engine.PARTS:
        with engine.weights_loaded(part):
            for key, parameter in getattr(engine, part).parameters_dict().items():
                assert np.array_equal(parameter.asnumpy(), weights[key]), key
    first = engine.weights_hash()
    assert first.startswith("sha256-files:") and first == file_hash(tmp_path / "svd")
    (tmp_path / "svd/unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"more")
    assert file_hash(tmp_path / "svd") != first
