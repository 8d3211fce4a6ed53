"""CLIP's image tower of a file, whatever else is in it, and cosines of what it makes."""
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file

from sgm import ops
from sgm.common.errors import InputError
from sgm.config.model import ClipSpec
from sgm.feedforward import clip_similarity
from sgm.models.clip import VisionTransformer, preprocess
from sgm.models.initialization import initialize
from sgm.ops import device

SPEC = ClipSpec(image_size=16, patch_size=8, width=128, layers=2, head_width=64, embed_dim=12)


@pytest.fixture(autouse=True)
def pynative(monkeypatch):
    monkeypatch.setattr("sgm.ops.compiled", lambda function: function)
    for module in (device, ops):
        monkeypatch.setattr(module, "wait", lambda: None)


@pytest.fixture(scope="module")
def tower():
    made = VisionTransformer(SPEC)
    initialize(made, 0)
    return made


def arrays(tower, prefix=""):
    return {prefix + key: p.asnumpy() for key, p in tower.parameters_dict().items()}


@pytest.mark.parametrize("prefix", ["", "visual.", "conditioner.embedders.0.open_clip.model.visual."])
def test_the_tower_is_found(tower, prefix, tmp_path):
    """Its shape is told by its weights; embeddings are the network's, of length 1."""
    others = {"positional_embedding": np.zeros((77, 4), np.float32)} if prefix else {}
    save_file({**others, **arrays(tower, prefix)}, tmp_path / "clip.safetensors")
    clip = clip_similarity.load_clip(tmp_path / "clip.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)
    plain = tower(Tensor(preprocess(np.float32(images).transpose(0, 3, 1, 2) / 127.5 - 1, 16))).asnumpy()
    found = clip.embed(images)
    assert found.shape == (3, 12) and clip.width == 12
    np.testing.assert_allclose(found, plain / np.sqrt((plain ** 2).sum(1, keepdims=True)), atol=1e-5)
    assert clip_similarity.similarity(found[:1], found[0]) == pytest.approx(1, abs=1e-5)
    assert clip_similarity.similarity(found, found[0]) < 0.9999


def test_similarity_is_a_mean_of_cosines():
    assert clip_similarity.similarity(np.float64([[1, 0], [0, 1], [0.6, 0.8]]), np.float64([1, 0])) == pytest.approx(1.6 / 3)


def test_files_without_a_tower_and_texts_that_do_not_fit(tower, tmp_path):
    save_file({"visual.proj": np.zeros((2, 2), np.float32)}, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="none.safetensors: found 0 image towers of CLIP, expected one"):
        clip_similarity.load_clip(tmp_path / "none.safetensors")
    save_file({**arrays(tower, "a."), **arrays(tower, "b.")}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="found 2 image towers of CLIP"):
        clip_similarity.load_clip(tmp_path / "two.safetensors")
    np.save(tmp_path / "texts.npy", np.float32([[3, 4], [0, 2]]))
    np.testing.assert_allclose(clip_similarity.read_texts(tmp_path / "texts.npy", 2, 2), [[0.6, 0.8], [0, 1]])
    for count, width in ((3, 2), (2, 3)):
        with pytest.raises(InputError, match=r"found numbers of shape \(2, 2\), expected"):
            clip_similarity.read_texts(tmp_path / "texts.npy", count, width)
    (tmp_path / "bad.npy").write_bytes(b"no numbers")
    with pytest.raises(InputError, match="bad.npy"):
        clip_similarity.read_texts(tmp_path / "bad.npy", 2, 2)
