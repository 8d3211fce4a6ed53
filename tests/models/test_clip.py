"""CLIP's image tower and its preprocessing against the original (open_clip, kornia)."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from sgm.config.model import ClipSpec
from sgm.models import clip
from sgm.models.conditioner import ClipEmbedder


def pixels(image):
    """(H, W, 3) uint8 -> (1, 3, H, W) in [-1, 1]."""
    return (image.astype(np.float32) / 255 * 2 - 1).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("file, image, result, antialias", [
    ("clip_tiny-vit", "img_u8", "pre", True), ("clip_tiny-vit", "img_u8", "pre_no_antialias", False),
    ("clip_tiny-vit", "img_128_u8", "pre_128", True), ("clip_tiny-vit14", "img_u8", "pre", True)])
def test_preprocessing(file, image, result, antialias, golden, agree):
    """Shrunk (576 x 576, and 320 x 576 without a crop), shrunk without the blur, enlarged (128 x 128)."""
    g = golden(file)
    agree(f"{file} {result}", clip.preprocess(pixels(g[f"in/{image}"]), antialias=antialias), g[f"out/{result}"])


def test_preprocessing_by_hand():
    """A grey image stays grey; each channel is shifted and scaled by CLIP's own mean and deviation."""
    result = clip.preprocess(np.zeros((1, 3, 300, 260), np.float32), size=28)
    assert result.shape == (1, 3, 28, 28) and result.dtype == np.float32
    expected = (0.5 - clip.MEAN) / clip.STD
    np.testing.assert_allclose(result, np.broadcast_to(expected.reshape(1, 3, 1, 1), result.shape), atol=1e-5)


@pytest.fixture(scope="module")
def towers(tiny_engine, filled):
    """The towers of both goldens, in their embedders."""
    large = ClipEmbedder(ClipSpec(patch_size=14, width=160, layers=3, embed_dim=64))
    filled(large.open_clip, "clip.")
    small = tiny_engine("sv3d_p").conditioner.embedder("cond_frames_without_noise")
    return {"clip_tiny-vit": small, "clip_tiny-vit14": large}


@pytest.mark.parametrize("file", ["clip_tiny-vit", "clip_tiny-vit14"])
def test_blocks_and_embedding(file, golden, towers, agree, norm_eps):
    g, visual = golden(file), towers[file].open_clip.model.visual
    seen = {}

    def keep(i):
        def hook(cell, given, result):
            seen[i] = result.asnumpy()
        return hook

    hooks = [block.register_forward_hook(keep(i)) for i, block in enumerate(visual.transformer.resblocks)]
    try:
        embedding = visual(Tensor(g["out/pre"]))
    finally:
        for hook in hooks:
            hook.remove()
    agree(f"{file} emb, pynative", embedding, g["out/emb"])
    wanted = {int(key.rpartition(".")[2]): value for key, value in g.items() if key.startswith("act/")}
    assert wanted and set(wanted) <= set(seen)
    for i, value in wanted.items():
        agree(f"{file} act/*", seen[i].reshape(value.shape), value)
    assert set(norm_eps) == {("layer", 1e-5)}


@pytest.mark.parametrize("file", ["clip_tiny-vit", "clip_tiny-vit14"])
def test_embedder(file, golden, towers, agree):
    """From the image, compiled: what the conditioner calls."""
    g = golden(file)
    token = towers[file].embed(pixels(g["in/img_u8"]))
    agree(f"{file} emb, compiled from the image", token, g["out/emb"][:, None])


def test_two_images_at_once(golden, towers, relative_error):
    """A batch is its images one by one."""
    visual = towers["clip_tiny-vit"].open_clip.model.visual
    pair = np.concatenate([golden("clip_tiny-vit")[f"out/{name}"] for name in ("pre", "pre_128")])
    both = visual(Tensor(pair)).asnumpy()
    alone = np.concatenate([visual(Tensor(pair[i:i + 1])).asnumpy() for i in range(2)])
    assert relative_error(both, alone) < 2e-6 and relative_error(both[:1], both[1:]) > 0.01


def test_jit_of_the_tower(golden, towers, agree):
    g = golden("clip_tiny-vit")
    run = ms.jit(towers["clip_tiny-vit"].open_clip.model.visual.construct)
    agree("clip_tiny-vit emb, compiled", run(Tensor(g["out/pre"])), g["out/emb"])
