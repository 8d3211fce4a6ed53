"""The decoder and the denoiser: parameters of the paper's models, independence of companions, an independent denoising block."""
import numpy as np
import pytest
from mindspore import Tensor
from scipy.ndimage import correlate
from support.small_autodecoder import CHANGES

from sgm.autodecoder.latents.latent_normalization import Normalization
from sgm.autodecoder.latents.sampling import sample
from sgm.autodecoder.latents.unet3d import DOUBLE, HALVE, KEEP, ConditionAttention, DenoisingBlock
from sgm.autodecoder.object_model import VOXELS, ObjectModel, parameter_count
from sgm.autodecoder.volumes import UpBlock
from sgm.config.autodecoding import ConditionSpec, DiffusionSpec, VolumeSpec, load_autodecoder_spec
from sgm.models.initialization import initialize
from sgm.views.cameras import Orbit


@pytest.fixture(scope="module")
def model():
    """All weights random, also those that start at zero."""
    attending = ["volume.attention=[8]", "volume.head_width=8", "diffusion.multipliers=[1,1]", "diffusion.attention=[8,4]"]
    made = ObjectModel(load_autodecoder_spec("autodecoder_small", [*CHANGES, *attending, "diffusion.churn_max=100"]), True)
    randomize(made)
    made.keep_normalization(Normalization(0.5, 2.0, 0.5, 8.0))
    return made


def randomize(cell):
    initialize(cell, 0)
    rng = np.random.default_rng(0)
    for parameter in cell.get_parameters():
        value = parameter.asnumpy()
        if not value.any() or parameter.ndim == 1:
            fan = np.prod(value.shape[1:]) or 4
            parameter.set_data(Tensor(value + rng.normal(0, 0.5 * fan ** -0.5, value.shape).astype(np.float32)))


def convolution(out, into, taps=27):
    return out * into * taps + out


def decoder_parameters(spec):
    """Counted from appendix B.1: fully connected, then four or five doublings of residual blocks."""
    total, width = 1024 * 64 * 512 + 64 * 512, 512
    for side in (8, 16, 32, 64, 128)[:4 if spec.volume.side == 64 else 5]:
        for block in range(spec.volume.depth):
            into, out = (width if block == 0 else width // 2), width // 2
            total += convolution(out, into) + convolution(out, out) + convolution(out, into, 1) + 2 * 2 * out
        width //= 2
        if side in (8, 16):
            total += 4 * convolution(width, width, 1) + 2 * width
    return total + 2 * width + convolution(4 + spec.volume.extra, width, 1)


@pytest.mark.parametrize("name, millions", [("chairs", 55.5), ("tables", 46.0), ("objaverse", 55.5), ("celebv", 45.9)])
def test_parameters_of_the_published_decoders(name, millions):
    """The paper: a sixth of 300 000 embeddings' table, 51 M; its description: 55 M."""
    spec = load_autodecoder_spec(f"autodecoder_{name}")
    count = parameter_count(spec)
    found = count["latent_decoder"] + count["radiance_decoder"]
    assert found == decoder_parameters(spec) and abs(found / 1e6 - millions) < 0.1
    embeddings = 1024 * (1 << spec.embedding.bits if spec.embedding.books else spec.objects)
    assert count["embeddings"] == embeddings


def test_objects_do_not_depend_on_companions(model, agree, pynative):
    """Latents and views are the same in whatever batch: what is diffused is what is decoded."""
    together = model.latents_of([0, 2, 1], batch=2)
    assert together.shape == (3, VOXELS, 8) and together.std() > 0.1
    for place, index in enumerate((0, 2, 1)):
        agree("latents alone", model.latents_of([index], batch=1)[0], together[place], 1e-5)
    poses = Orbit.static(10, 4).poses()[:2]
    views = model.render(together[:2], poses, 8)
    assert views.shape == (2, 2, 8, 8, 4) and views.min() >= 0 and views.max() <= 1
    agree("views alone", model.render(together[1:2], poses, 8)[0], views[1], 1e-4)


def test_samples_follow_from_their_seed(model, agree, pynative):
    """Whatever is sampled beside them, with noise that is added (at the first of the two levels); seeds differ."""
    both = sample(model, [3, 4], steps=2, churn=40.0)
    assert both.shape == (2, VOXELS, 8) and np.isfinite(both).all()
    agree("sample alone", sample(model, [4], steps=2, churn=40.0)[0], both[1], 1e-4)
    assert np.abs(both[0] - both[1]).max() > 0.1
    assert np.abs(sample(model, [4], steps=2, churn=0.0)[0] - both[1]).max() > 0.1


def group_norm(x, cell):
    grouped = x.reshape(len(x), cell.groups, -1, np.prod(x.shape[2:]))
    scaled = (grouped - grouped.mean((2, 3), keepdims=True)) / np.sqrt(grouped.var((2, 3), keepdims=True) + cell.eps)
    shape = (1, -1, 1, 1, 1)
    return scaled.reshape(x.shape) * cell.weight.asnumpy().reshape(shape) + cell.bias.asnumpy().reshape(shape)


def convolved(x, cell):
    weight = cell.weight.asnumpy().astype(float)
    return np.stack([[sum(correlate(channel, kernel, mode="constant") for channel, kernel in zip(volume, kernels))
                      for kernels in weight] for volume in x]) + cell.bias.asnumpy().reshape(1, -1, 1, 1, 1)


def silu(x):
    return x / (1 + np.exp(-x))


def named(cell):
    """A cell on its own, with random weights."""
    for name, parameter in cell.parameters_and_names():
        parameter.name = name
    randomize(cell)
    return cell


def as_rows(volumes):
    return Tensor(volumes.transpose(0, 2, 3, 4, 1).reshape(-1, volumes.shape[1]).astype(np.float32))


def as_volumes(rows, count):
    side = round((len(rows) / count) ** (1 / 3))
    return rows.asnumpy().reshape(count, side, side, side, -1).transpose(0, 4, 1, 2, 3)


def linear(x, cell):
    return np.einsum("oc,nczyx->nozyx", cell.weight.asnumpy(), x) + cell.bias.asnumpy().reshape(1, -1, 1, 1, 1)


def attended(x, cell):
    """Self-attention of all voxels, head by head."""
    h = group_norm(x, cell.norm)
    q, k, v = (linear(h, layer).reshape(len(x), cell.heads, -1, x[0, 0].size) for layer in (cell.to_q, cell.to_k, cell.to_v))
    scores = np.einsum("nhdi,nhdj->nhij", q, k) / q.shape[2] ** 0.5
    share = np.exp(scores - scores.max(-1, keepdims=True))
    out = np.einsum("nhij,nhdj->nhdi", share / share.sum(-1, keepdims=True), v)
    return x + linear(out.reshape(x.shape), cell.proj_out)


@pytest.mark.parametrize("rectified", [True, False])
def test_up_block(rectified, agree, pynative):
    """Appendix B.1 against numpy and scipy in float64: doubled, two residual blocks, attention."""
    cell = named(UpBlock(VolumeSpec(side=16, channels=64, depth=2, attention=[16], head_width=8, norm_groups=4), 16, rectified))
    volumes = np.random.default_rng(2).standard_normal((2, 32, 2, 2, 2))
    x = volumes.repeat(2, 2).repeat(2, 3).repeat(2, 4)
    for k, block in enumerate(cell.blocks):
        h = np.maximum(group_norm(convolved(x, block.conv1), block.norm1), 0)
        x = group_norm(convolved(h, block.conv2), block.norm2) + linear(x, block.skip)
        x = np.maximum(x, 0) if rectified or k == 0 else x
    agree("up-block", as_volumes(cell(as_rows(volumes), 2), 2), attended(x, cell.attention), 1e-5)


@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_to_a_condition(tokens, agree, pynative):
    """Against numpy in float64: questions of the voxels, answers of the tokens; a single one answers all alike."""
    cell = named(ConditionAttention(8, 4, 2, ConditionSpec("text", tokens=tokens, width=5)))
    rng = np.random.default_rng(3)
    volumes, told = rng.standard_normal((2, 8, 2, 2, 2)), rng.standard_normal((2, tokens, 5))

    def of_tokens(layer):
        return told @ layer.weight.asnumpy().T + layer.bias.asnumpy()
    value = of_tokens(cell.to_v).reshape(2, tokens, 2, 4)
    if tokens == 1:
        out = np.broadcast_to(value.reshape(2, 8, 1), (2, 8, 8))
    else:
        q = linear(group_norm(volumes, cell.norm), cell.to_q).reshape(2, 2, 4, 8)
        scores = np.einsum("nhdi,njhd->nhij", q, of_tokens(cell.to_k).reshape(2, tokens, 2, 4)) / 2
        share = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        out = np.einsum("nhij,njhd->nhdi", share, value)
    wanted = volumes + linear(out.reshape(volumes.shape), cell.proj_out)
    found = cell(as_rows(volumes), Tensor(told.reshape(-1, 5).astype(np.float32)), 2)
    agree(f"attention to {tokens} tokens", as_volumes(found, 2), wanted, 1e-5)


@pytest.mark.parametrize("resize", [KEEP, HALVE, DOUBLE])
def test_denoising_block(resize, agree, pynative):
    """ADM's residual block, against numpy and scipy in float64."""
    cell = named(DenoisingBlock(8, 12, 6, DiffusionSpec(norm_groups=2), resize=resize))
    rng = np.random.default_rng(1)
    volumes, emb = rng.standard_normal((2, 8, 4, 4, 4)), rng.standard_normal((2, 6))

    def resized(x):
        if resize == HALVE:
            n, c, s = x.shape[:3]
            return x.reshape(n, c, s // 2, 2, s // 2, 2, s // 2, 2).mean((3, 5, 7))
        return x.repeat(2, 2).repeat(2, 3).repeat(2, 4) if resize == DOUBLE else x

    h = convolved(resized(silu(group_norm(volumes, cell.norm1))), cell.conv1)
    change = emb @ cell.emb.weight.asnumpy().T + cell.emb.bias.asnumpy()
    scale, shift = (part.reshape(2, 12, 1, 1, 1) for part in np.split(change, 2, 1))
    h = convolved(silu(group_norm(h, cell.norm2) * (1 + scale) + shift), cell.zero_conv)
    found = cell(as_rows(volumes), Tensor(emb.astype(np.float32)), 2)
    agree(f"denoising block, {resize}", as_volumes(found, 2), h + linear(resized(volumes), cell.skip), 1e-5)
