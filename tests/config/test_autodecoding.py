"""Configurations of autodecoders: the paper's shapes, and what is refused."""
import pytest

from sgm.config.autodecoding import AutodecoderSpec, load_autodecoder_spec
from sgm.config.lrm import LrmSpec
from sgm.config.model import ModelSpec
from sgm.config.model_files import load_trained_spec, spec_type
from sgm.config.yaml_reader import ConfigError

# name: objects, side, depth, codebooks and bits, channels at the last side, of the diffusion (table 5, appendix B)
PUBLISHED = {"chairs": (15576, 64, 4, 0, 15, 32, 128), "tables": (1676, 128, 2, 256, 8, 16, 128),
             "objaverse": (300_000, 64, 4, 256, 15, 32, 192), "celebv": (44400, 64, 2, 256, 13, 32, 192)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name):
    spec = load_autodecoder_spec(f"autodecoder_{name}")
    volume, hashed = spec.volume, spec.embedding
    assert (spec.objects, volume.side, volume.depth, hashed.books, hashed.bits, volume.width(volume.side),
            spec.diffusion.channels) == PUBLISHED[name]
    assert hashed.length == 1024 and volume.latent_width == 256 and spec.samples == 128
    assert [volume.width(side) for side in (4, 8, 16, 32, 64)] == [512, 256, 128, 64, 32]
    assert spec.diffusion.multipliers == [3, 4] and spec.diffusion.sides == [8, 4] and volume.attention == [8, 16]
    assert volume.extra == (10 if name == "celebv" else 0)


@pytest.mark.parametrize("change, said", [
    ("volume.channels=8", "volume.channels: found 8, expected a multiple of 64"),
    ("volume.attention=[4]", "volume.attention: found [4], expected some of [8, 16, 32, 64]"),
    ("volume.head_width=48", "volume.head_width: found 48, expected a divisor of 256, the channels at side 8"),
    ("embedding.books=100", "embedding.books: found 100, expected 0, or a divisor of embedding.length 1024"),
    ("diffusion.multipliers=[1,1,1,1]", "diffusion.multipliers: found [1, 1, 1, 1], expected at most 3"),
    ("diffusion.sigma_min=90", "diffusion.sigma_min: found 90.0, expected less than"),
    ("diffusion.clip=0", "diffusion.clip: found 0"), ("samples=1", "samples: found 1"), ("volum.side=64", "volume.side")])
def test_refused(change, said):
    with pytest.raises(ConfigError) as refusal:
        load_autodecoder_spec("autodecoder_chairs", [change])
    assert said in str(refusal.value)


def test_models_are_told_apart(tmp_path):
    """By the name, and of a file elsewhere by what it holds."""
    assert isinstance(load_trained_spec("autodecoder_small"), AutodecoderSpec)
    assert isinstance(load_trained_spec("sv3d_tiny"), ModelSpec)
    (tmp_path / "mine.yaml").write_text("samples: 64\n")
    assert load_trained_spec(tmp_path / "mine.yaml", ["objects=7"]).objects == 7
    assert spec_type({"name": "a", "embedding": {}}) is AutodecoderSpec
    assert spec_type({"name": "a", "unet": {}}) is spec_type({}) is ModelSpec
    assert spec_type({"name": "a", "family": "triposr", "volume": {}}) is LrmSpec
    assert load_trained_spec("lrm_small").upright
    with pytest.raises(ConfigError, match="autodecoder_smal: no such file or name.* nearest name is autodecoder_small"):
        load_trained_spec("autodecoder_smal")
