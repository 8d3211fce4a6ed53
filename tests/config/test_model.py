"""Model specs: the released ones, and values that are refused."""
import json

import pytest
from support.configuring import RELEASED, error_of
from support.goldens import GOLDEN

from sgm.config.model_files import load_spec


@pytest.mark.parametrize("name", RELEASED)
def test_released_models(name):
    spec = load_spec(name)
    assert spec == RELEASED[name]
    keys = json.loads((GOLDEN / "manifests" / f"{name}.json").read_text())
    assert keys["model.diffusion_model.label_emb.0.0.weight"][1] == sum(spec.vector_widths.values())
    assert spec.is_orbit == name.startswith("sv3d") and spec.is_posed == (name == "sv3d_p") and spec.vae_factor == 8


@pytest.mark.parametrize("override, expected", [
    ("num_frames=0", "num_frames: found 0, expected a positive number"),
    ("height=100", "height: found 100, expected a positive multiple of 64"),
    ("unet.model_channels=330", "unet.model_channels: found 330, expected 330 channels"),
    ("unet.num_head_channels=0", "unet.num_head_channels: found 0"),
    ("unet.channel_mult=[]", "unet.channel_mult: found []"),
    ("unet.attention_resolutions=[16]", "unet.attention_resolutions: found [16], expected some of [1, 2, 4, 8]"),
    ("unet.in_channels=4", "unet.in_channels: found 4, expected 8"),
    ("unet.out_channels=8", "unet.out_channels: found 8, expected vae.z_channels 4"),
    ("vae.ch=100", "vae.ch: found 100"),
    ("vae.decoder=video", "vae.decoder: found 'video', expected one of image, temporal"),
    ("vae.scale_factor=.inf", "vae.scale_factor: found inf"),
    ("clip.patch_size=15", "clip.patch_size: found 15, expected a divisor"),
    ("clip.head_width=77", "clip.head_width: found 77, expected a divisor"),
    ("clip.embed_dim=512", "clip.embed_dim: found 512, expected unet.context_dim 1024"),
    ("condition.embedders=[cond_frames,depth]", "condition.embedders: found 'depth', expected one of"),
    ("condition.embedders=[cond_frames,cond_aug]", "cond_frames_without_noise, cond_frames and cond_aug among them"),
    ("condition.embedders=[cond_frames,cond_frames]", "expected each embedder once"),
    ("condition.embedders=[cond_frames_without_noise,cond_frames,cond_aug,polars_rad]", "both, or neither"),
    ("condition.scalar_dim=255", "condition.scalar_dim: found 255"),
    ("condition.cond_aug=-1", "condition.cond_aug: found -1.0"),
    ("sampling.sampler=ddim", "sampling.sampler: found 'ddim', expected one of euler, heun, dpmpp2m, unipc"),
    ("sampling.guidance=cfg", "sampling.guidance: found 'cfg', expected one of linear"),
    ("sampling.start_noise=1.5", "sampling.start_noise: found 1.5, expected a number from 0 to 1"),
    ("sampling.mesh_orbit=round", "sampling.mesh_orbit: found 'round', expected auto, static, or sine-A as in sine-30"),
    ("sampling.mesh_orbit=sine-30", "sampling.mesh_orbit: found 'sine-30', expected static: the network is not told"),
    ("sampling.sigma_min=701", "sampling.sigma_min: found 701.0, expected less than"),
    ("sampling.steps=-1", "sampling.steps: found -1"),
    ("sampling.max_scale=.nan", "sampling.max_scale: found nan"),
    ("sampling.stepz=3", "overrides sampling.stepz: unknown key"),
    ("unet.channel_mult[0]=3", "overrides unet.channel_mult[0]: unknown key; the nearest known key is unet.channel_mult"),
    ("num_frames", "overrides num_frames: expected key=value"),
    ("=3", "overrides =3: expected key=value"),
    ("unet.channel_mult=[1", "overrides unet.channel_mult: not valid YAML"),
])
def test_a_wrong_override_is_told_in_one_line(override, expected):
    assert expected in error_of(load_spec, "svd", [override])
