"""The configuration files of a diffusers folder."""
import json
from dataclasses import replace

from support.published import MANIFESTS

from sgm.checkpoints.diffusers.config_files import config_files
from sgm.checkpoints.diffusers.names import PARTS
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


def test_norms_of_other_groups_are_written_down():
    """diffusers has no field for those of its UNet and its temporal decoder; files of 32 groups stay as diffusers writes them."""
    spec = load_spec("sv3d_tiny")
    for decoder in ("image", "temporal"):
        files = config_files(replace(spec, vae=replace(spec.vae, decoder=decoder)))
        assert files["unet/config.json"]["norm_num_groups"] == files["vae/config.json"]["norm_num_groups"] == 8
    assert "norm_num_groups" not in config_files(load_spec("svd"))["unet/config.json"]
    assert "norm_num_groups" not in config_files(load_spec("svd"))["vae/config.json"]
