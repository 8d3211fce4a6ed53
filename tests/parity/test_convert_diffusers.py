"""What tools/convert.py makes of our weights, loaded by diffusers itself and run there."""
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from twins import SMALL, Case, ours, set_published_epsilon, their_tasks

from sgm.audit.golden_weights import init_weight, rand
from sgm.checkpoints.original_keys import used_shapes
from sgm.config.model import ClipSpec

pytestmark = pytest.mark.parity
# diffusers' pipeline gives CLIP images of 224 pixels, regardless of its configuration.
SPEC = replace(SMALL, clip=ClipSpec(image_size=224, patch_size=56, width=96, layers=3, head_width=24, embed_dim=48),
               num_frames=3, height=32, width=48)
ORBIT = replace(SPEC, name="orbit", vae=replace(SPEC.vae, decoder="image"), condition=replace(
    SPEC.condition, embedders=["cond_frames_without_noise", "cond_frames", "cond_aug"]))
STEPS, COND_AUG, GUIDANCE = 3, 0.02, (1.0, 2.5)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """converted(spec) -> our file of weights and the diffusers folder made of it."""
    import convert

    from sgm.checkpoints.safetensors_format import save_safetensors
    made = {}

    def make(spec):
        if spec.name not in made:
            folder = tmp_path_factory.mktemp(spec.name)
            weights, config = folder / "ours.safetensors", folder / f"{spec.name}.yaml"
            config.write_text(yaml.safe_dump(asdict(spec)))
            save_safetensors(weights, {key: np.asarray(init_weight(key, shape), np.float32)
                                       for key, shape in used_shapes(spec).items()})
            args = [str(weights), str(folder / "theirs"), "--to", "diffusers", "--config", str(config), "--verify"]
            assert convert.run(args) == 0
            made[spec.name] = weights, folder / "theirs"
        return made[spec.name]
    return make


def loaded(kind, folder, part):
    """The part of a folder as its own class loads it; every tensor has its place."""
    network, info = kind.from_pretrained(folder / part, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return network


def compare(agree, what, found, expected, limit):
    for name in found:
        agree(f"converted {what}, {name}", found[name](), expected[name](), limit)


def test_unet(converted, agree):
    from diffusers import UNetSpatioTemporalConditionModel
    weights, folder = converted(SPEC)
    case = Case("unet", SPEC, frames=3, height=8, width=12, videos=2)
    network, expected = loaded(UNetSpatioTemporalConditionModel, folder, "unet"), ours(case, weights)
    compare(agree, "unet as diffusers has it", their_tasks(case, network), expected, 5e-5)
    set_published_epsilon(network)
    compare(agree, "unet", their_tasks(case, network), expected, 5e-6)


def test_vae(converted, agree):
    from diffusers import AutoencoderKLTemporalDecoder
    weights, folder = converted(SPEC)
    case = Case("vae", SPEC, frames=3, height=6, width=10)
    compare(agree, "vae", their_tasks(case, loaded(AutoencoderKLTemporalDecoder, folder, "vae")), ours(case, weights), 5e-6)


def test_image_encoder(converted, agree):
    from transformers import CLIPVisionModelWithProjection
    weights, folder = converted(SPEC)
    case = Case("clip", SPEC, frames=2)
    network = loaded(CLIPVisionModelWithProjection, folder, "image_encoder")
    compare(agree, "clip", their_tasks(case, network), ours(case, weights), 5e-6)


def test_image_to_video(converted, agree):
    """The whole pipeline, image to frames, with the same noise on both sides; diffusers subtracts 1 from fps."""
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    from sgm.diffusion.pipeline import load_model
    weights, folder = converted(SPEC)
    image = (rand("convert.image", (SPEC.height, SPEC.width, 3)) * 50 + 128).clip(0, 255).astype(np.uint8)
    factor = SPEC.vae_factor
    noise = rand("convert.noise", (SPEC.num_frames, SPEC.vae.z_channels, SPEC.height // factor, SPEC.width // factor))
    cond_noise = torch.randn((1, 3, SPEC.height, SPEC.width), generator=torch.manual_seed(5)).numpy()

    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    set_published_epsilon(pipeline.unet)
    theirs = pipeline(
        Image.fromarray(image), height=SPEC.height, width=SPEC.width, num_frames=SPEC.num_frames, output_type="np",
        num_inference_steps=STEPS, min_guidance_scale=GUIDANCE[0], max_guidance_scale=GUIDANCE[1], fps=7,
        motion_bucket_id=127, noise_aug_strength=COND_AUG, decode_chunk_size=SPEC.num_frames, generator=torch.manual_seed(5),
        latents=torch.from_numpy(noise)[None]).frames[0]

    engine = load_model(folder.parent / "small.yaml", folder)
    pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    with engine.weights_loaded("conditioner"):
        c, uc = engine.condition(pixels, cond_noise, COND_AUG, fps_id=6, motion_bucket_id=127)
    with engine.weights_loaded("model"):
        z = engine.sample(noise, c, uc, STEPS, guidance_scales=np.linspace(*GUIDANCE, SPEC.num_frames))
    with engine.weights_loaded("first_stage_model"):
        frames = engine.decode(z, chunk=SPEC.num_frames)
    agree("converted svd, image to frames", (frames / 2 + 0.5).clip(0, 1).transpose(0, 2, 3, 1), theirs, 2e-5)


def test_parts_of_sv3d(converted, agree):
    """No pipeline of diffusers runs it, but its parts load there, and the autoencoder computes what ours does."""
    import torch
    from diffusers import AutoencoderKL, UNetSpatioTemporalConditionModel
    weights, folder = converted(ORBIT)
    unet = loaded(UNetSpatioTemporalConditionModel, folder, "unet")
    assert unet.config.projection_class_embeddings_input_dim == sum(ORBIT.vector_widths.values())
    case, network = Case("vae", ORBIT, frames=2, height=6, width=10), loaded(AutoencoderKL, folder, "vae")
    expected = ours(case, weights)
    theirs = their_tasks(case, network)
    agree("converted sv3d, encode", theirs["encode"](), expected["encode"](), 5e-6)
    z = rand("parity.z", (2, ORBIT.vae.z_channels, 6, 10))
    with torch.inference_mode():
        agree("converted sv3d, decode", network.decode(torch.from_numpy(z)).sample.numpy(), expected["decode"](), 5e-6)
