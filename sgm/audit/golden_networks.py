"""The small networks of the goldens with their weights, which `tools/check.py` runs on a device."""
import mindspore as ms
from mindspore import Tensor
from safetensors.numpy import load_file

from sgm.audit.golden_weights import GOLDEN, init_weight
from sgm.config.model_files import load_spec
from sgm.diffusion.engine import Engine
from sgm.models.temporal_decoder import VideoDecoder

FRAMES = 5


def networks(dtype):
    """Yield (name, function, arguments, wanted array) of each network that runs in `dtype`.

    That is the UNet, and for float32 all others as well.
    """
    engine = Engine(load_spec(GOLDEN / "tiny_sv3d_p.yaml"))
    yield unet(engine, getattr(ms, dtype))
    if dtype == "float32":
        yield from encoders(engine)
        yield from decoders(engine)


def unet(engine, dtype):
    """Return (name, function, arguments, wanted array) of the UNet."""
    golden, cell = _load("unet_sv3d_p"), _fill(engine.model, "model.", dtype).diffusion_model
    x, timesteps, context, y, image_only = (Tensor(golden[f"in/{name}"]) for name in (
        "x", "timesteps", "context", "y", "image_only_indicator"))
    arguments = x, timesteps, context.astype(dtype), y, FRAMES, image_only
    return "UNet", cell.construct, arguments, golden["out/y"]


def encoders(engine):
    """Yield the same of CLIP and of the autoencoder's encoder."""
    _fill(engine.conditioner, "conditioner.")
    golden, clip = _load("clip_tiny-vit"), engine.conditioner.embedder("cond_frames_without_noise")
    tower = clip.open_clip.model.visual
    yield "CLIP", tower.construct, (Tensor(golden["out/pre"]),), golden["out/emb"]
    golden, vae = _load("vae_klmodeonly"), engine.conditioner.embedder("cond_frames")
    yield "VAE encoder", vae.encoder.construct, (Tensor(golden["in/img"]),), golden["out/moments"]


def decoders(engine):
    """Yield the same of the autoencoder's decoders, frame by frame and over time."""
    golden = _load("vae_decoder")
    decoder = _fill(engine.first_stage_model, "first_stage_model.").decoder
    yield "VAE decoder", decoder.construct, (Tensor(golden["in/z"]), 1), golden["out/img"]
    golden = _load("vae_videodecoder")
    decoder = _fill(VideoDecoder(load_spec(GOLDEN / "tiny_svd.yaml").vae), "videodecoder.")
    arguments = Tensor(golden["in/z"]), FRAMES
    yield "temporal VAE decoder", decoder.construct, arguments, golden[f"out/img_T{FRAMES}"]


def _load(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def _fill(cell, prefix, dtype=ms.float32):
    """Give every parameter of `cell` the golden weight of the key prefix + name."""
    for name, parameter in cell.parameters_and_names():
        parameter.set_dtype(dtype)
        parameter.set_data(Tensor(init_weight(prefix + name, parameter.shape)).astype(dtype))
    return cell
