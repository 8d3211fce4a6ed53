"""The configuration files of a diffusers folder."""
import json
from dataclasses import replace

import pytest
from support.published import MANIFESTS

from sgm.checkpoints.diffusers.config_files import config_files
from sgm.checkpoints.diffusers.names import PARTS
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec


def test_configuration_files_are_those_of_the_published_folder():
    files = config_files(load_spec("svd"))
    for part in PARTS:
        expected = json.loads((MANIFESTS / f"diffusers_svd_{part}.config.json").read_text())
        ours = {key: value for key, value in files[f"{part}/config.json"].items() if not key.startswith("_")}
        if part == "image_encoder":             # which transformers wrote from a configuration, not from a network
            assert ours.pop("architectures") == ["CLIPVisionModelWithProjection"]
            assert ours == {key: expected[key] for key in ours}
        else:
            assert ours == {key: value for key, value in expected.items() if not key.startswith("_")}
    scheduler = files["scheduler/scheduler_config.json"]
    assert (scheduler["sigma_min"], scheduler["sigma_max"], scheduler["use_karras_sigmas"]) == (0.002, 700.0, True)


def test_a_model_that_diffusers_cannot_express():
    spec = load_spec("sv3d_tiny")
    with pytest.raises(CheckpointError, match="unet.norm_groups: found 8, expected 32"):
        config_files(spec)
    spec = replace(spec, unet=replace(spec.unet, norm_groups=32))
    assert config_files(spec)["vae/config.json"]["norm_num_groups"] == 8
    with pytest.raises(CheckpointError, match="vae.norm_groups: found 8, expected 32"):
        config_files(replace(spec, vae=replace(spec.vae, decoder="temporal")))
