"""Specs of the released models and of the goldens, and wrong configurations: their files and their errors."""
import pytest

from sgm.config.model import ConditionSpec, ModelSpec, SamplingSpec, VaeSpec
from sgm.config.yaml_reader import ConfigError

ORBIT_EMBEDDERS = ["cond_frames_without_noise", "cond_frames", "cond_aug"]
POSED_EMBEDDERS = ORBIT_EMBEDDERS + ["polars_rad", "azimuths_rad"]


def orbit(name, embedders, **fields):
    return ModelSpec(name=name, **{**dict(
        num_frames=21, width=576, vae=VaeSpec(decoder="image"), condition=ConditionSpec(embedders, cond_aug=1e-5),
        sampling=SamplingSpec(steps=50, guidance="triangle")), **fields})


RELEASED = {
    "svd": ModelSpec(),
    "svd_xt": ModelSpec(name="svd_xt", num_frames=25, sampling=SamplingSpec(steps=30, min_scale=1.5, max_scale=3.0)),
    "sv3d_u": orbit("sv3d_u", ORBIT_EMBEDDERS),
    "sv3d_p": orbit("sv3d_p", POSED_EMBEDDERS),
}


def error_of(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def written(folder, text):
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
