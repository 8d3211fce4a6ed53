"""Encoder, image decoder and temporal decoder against the original."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from sgm.models.autoencoder import GroupNorm
from sgm.models.conditioner import LatentEmbedder
from sgm.models.temporal_decoder import VideoDecoder


@pytest.fixture
def encoder(tiny_engine):
    """The conditioner's autoencoder of the small sv3d_p."""
    return tiny_engine("sv3d_p").conditioner.embedder("cond_frames")


def test_encoder(golden, encoder, agree):
    g = golden("vae_encoder")
    agree("vae_encoder h", encoder.encoder.encoder(Tensor(g["in/img"])), g["out/h"])


def test_moments_and_mode(golden, encoder, agree):
    g = golden("vae_klmodeonly")
    agree("vae_klmodeonly moments", encoder.encoder(Tensor(g["in/img"])), g["out/moments"])
    mean, log_variance = encoder.moments(g["in/img"])
    agree("vae_klmodeonly moments, compiled", mean, g["out/moments"][:, :4])
    agree("vae_klmodeonly moments, compiled", log_variance, g["out/moments"][:, 4:])
    agree("vae_klmodeonly z_mode", encoder.embed(g["in/img"]), g["out/z_mode"])


def test_log_variance_is_bounded(golden, tiny_spec, filled, pynative):
    """exp(log variance) must stay finite, so the posterior clips it to [-30, 20]."""
    embedder = filled(LatentEmbedder(tiny_spec("sv3d_p").vae), "conditioner.embedders.1.")
    embedder.encoder.quant_conv.bias.set_data(Tensor(np.array([0] * 4 + [100, -100, 0, 0], np.float32)))
    _, log_variance = embedder.moments(golden("vae_klmodeonly")["in/img"])
    log_variance = log_variance.asnumpy()
    assert (log_variance[:, 0] == 20).all() and (log_variance[:, 1] == -30).all()
    assert (np.abs(log_variance[:, 2:]) < 20).all()


@pytest.mark.parametrize("mode", ["pynative", "compiled"])
def test_decoder(mode, golden, tiny_engine, agree):
    g, decoder = golden("vae_decoder"), tiny_engine("sv3d_p").first_stage_model.decoder
    run = ms.jit(decoder.construct) if mode == "compiled" else decoder
    agree(f"vae_decoder img, {mode}", run(Tensor(g["in/z"])), g["out/img"])


@pytest.fixture(scope="module")
def temporal(tiny_spec, filled):
    return filled(VideoDecoder(tiny_spec("svd").vae), "videodecoder.")


@pytest.mark.parametrize("frames", [1, 5, 10])
def test_temporal_decoder(frames, golden, temporal, agree):
    """One frame; two videos of five; one of ten. The same latents decode differently, since they are other videos."""
    g = golden("vae_videodecoder")
    wanted = g[f"out/img_T{frames}"]
    agree(f"vae_videodecoder img_T{frames}", temporal(Tensor(g["in/z"][:len(wanted)]), frames), wanted)


def test_temporal_decoder_compiled(golden, temporal, agree, relative_error):
    g = golden("vae_videodecoder")
    result = ms.jit(temporal.construct)(Tensor(g["in/z"]), 5)
    agree("vae_videodecoder img_T5, compiled", result, g["out/img_T5"])
    assert relative_error(result, g["out/img_T10"]) > 0.01


def test_norms(temporal, encoder):
    """eps is 1e-6, but 1e-5 over time; the goldens cannot tell, as it changes them by less than 2e-5."""
    found = {}
    for name, cell in [*temporal.cells_and_names(), *encoder.cells_and_names()]:
        if isinstance(cell, GroupNorm):
            found.setdefault("time_stack" in name, set()).add((cell.norm.groups, cell.norm.eps))
    assert found == {True: {(32, 1e-5)}, False: {(32, 1e-6)}}
