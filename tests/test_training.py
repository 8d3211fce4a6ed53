"""Training against the reference: loss, gradients, AdamW; and the loop's own parts, to a resumed run's last bit."""
import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from safetensors import safe_open

from golden_init import GOLDEN
from sgm.cameras import Orbit
from sgm.checkpoint import CheckpointError, open_checkpoint
from sgm.engine import Engine
from sgm.render.procedural import TRAIN_SEEDS, render_clip
from sgm.specs import load_spec
from sgm.train.batches import DiffusionBatches, ViewBatches
from sgm.train.data import LatentOrbits, PackedOrbits, shuffled
from sgm.train.folder import RunFolder
from sgm.train.init import initial_weight, initialise
from sgm.train.objective import AutoencoderLoss, DiffusionLoss, lognormal_sigmas
from sgm.train.recipe import Recipe
from sgm.train.schedule import learning_rate
from sgm.train.step import TrainStep
from sgm.train.trainer import Trainer
from sgm.video.denoiser import Denoiser

NOISE = 1e-7        # a golden gradient whose RMS is below this is rounding noise: one of a layer that has no effect


# --- against the reference --------------------------------------------------------------------------------------

def batch_of(golden, mode):
    names = "in/x0", "in/noise", f"in/{mode}/sigmas", "in/crossattn", "in/concat", "in/vector"
    return [Tensor(golden[name]) for name in names]


@pytest.fixture(scope="module")
def names():
    """Of the golden's parameters, in its order."""
    with safe_open(GOLDEN / "train_sv3d_p.safetensors", "np") as file:
        return json.loads(file.metadata()["param_names"])


@pytest.fixture(scope="module")
def perframe(golden, tiny_engine, names):
    """Pynative, with the reference's one noise level per frame: loss of each frame, loss, {name: gradient}."""
    denoiser = tiny_engine("sv3d_p").model
    parameters = {name.removeprefix("model.diffusion_model."): parameter
                  for name, parameter in denoiser.parameters_dict().items()}
    assert set(parameters) == set(names)
    objective = DiffusionLoss(denoiser, 5)

    def loss(*batch):
        each = objective.per_frame(*batch)
        return each.mean(), each

    differentiate = ms.value_and_grad(loss, None, ms.ParameterTuple([parameters[name] for name in names]), has_aux=True)
    (mean, each), gradients = differentiate(*batch_of(golden("train_sv3d_p"), "perframe"))
    return {"each": each, "loss": mean, "gradients": {name: g.asnumpy() for name, g in zip(names, gradients)}}


@pytest.fixture(scope="module")
def shared(golden, tiny_spec, filled, names):
    """A compiled TrainStep, one noise level per clip: torch.optim.AdamW with its defaults and no clipping.

    Loss, {name: gradient}, {name: weight} before and after the step, and the loss after it.
    """
    denoiser = filled(Denoiser(tiny_spec("sv3d_p").unet, 1280), "model.")
    parameters = {}
    for name, parameter in denoiser.parameters_and_names():
        parameter.name = name
        parameters[name.removeprefix("diffusion_model.")] = parameter
    step = TrainStep(DiffusionLoss(denoiser, 5), [parameters[name] for name in names])
    run, batch = ms.jit(step.construct), batch_of(golden("train_sv3d_p"), "shared")

    def weights():
        return {name: parameters[name].asnumpy().copy() for name in names}

    found = {"before": weights()}
    found["loss"], _ = run(step.rates(1, 1e-3, 0.0), *batch)
    # The first moment, which was zero, has taken a tenth of the gradient.
    found["gradients"] = {name: moment.asnumpy() / 0.1 for name, moment in zip(names, step.m)}
    found["after"] = weights()
    found["loss_after"], _ = run(step.rates(2, 0.0, 0.0), *batch)
    return found


def test_loss_of_each_frame(golden, tiny_engine, perframe, agree):
    """Pynative."""
    g = golden("train_sv3d_p")
    each = DiffusionLoss(tiny_engine("sv3d_p").model, 5).per_frame(*batch_of(g, "shared"))
    for mode, result in (("shared", each), ("perframe", perframe["each"])):
        agree(f"train_sv3d_p {mode}/loss_per_sample", result, g[f"out/{mode}/loss_per_sample"])
        agree(f"train_sv3d_p {mode}/loss, pynative", result.mean(), g[f"out/{mode}/loss"])


def noisy(golden, mode, gradients):
    """Names of the parameters whose golden gradient is rounding noise."""
    sizes = np.sqrt([gradient.size for gradient in gradients.values()])
    return {name for name, rms in zip(gradients, golden[f"out/{mode}/grad_norms"] / sizes) if rms < NOISE}


@pytest.mark.parametrize("mode", ["shared", "perframe"])
def test_gradients(mode, golden, agree, request):
    """Compiled and pynative."""
    g, found = golden("train_sv3d_p"), request.getfixturevalue(mode)
    gradients, prefix = found["gradients"], f"out/{mode}/grad/"
    agree(f"train_sv3d_p {mode}/loss, with gradients", found["loss"], g[f"out/{mode}/loss"])
    noise = noisy(g, mode, gradients)
    # Queries, keys and their norm have no effect on attention to one token; nor a bias before a norm of one channel.
    assert {name for name in gradients if ".attn2.to_q" in name or ".attn2.to_k" in name or ".norm2." in name} < noise
    assert len(noise) < 0.12 * len(gradients)
    for (name, gradient), wanted in zip(gradients.items(), g[f"out/{mode}/grad_norms"]):
        if name in noise:
            assert np.sqrt((gradient ** 2).mean()) < 1e-6, name
        else:
            agree(f"train_sv3d_p {mode}/grad_norms", np.linalg.norm(gradient.astype(np.float64)), wanted, 1e-3)
            if prefix + name in g:
                agree(f"train_sv3d_p {mode}/grad/*", gradient, g[prefix + name], 1e-3)


def test_optimiser_step(golden, shared, agree):
    """The change of every weight; the first step of AdamW goes by the gradient's sign, which noise has none of."""
    g, before, after, prefix = golden("train_sv3d_p"), shared["before"], shared["after"], "out/adamw/param/"
    noise = noisy(g, "shared", shared["gradients"])
    for name, wanted in zip(before, g["out/adamw/delta_norms"]):
        if name not in noise:
            delta = after[name].astype(np.float64) - before[name]
            agree("train_sv3d_p adamw/delta_norms", np.linalg.norm(delta), wanted, 1e-3)
            if prefix + name in g:
                agree("train_sv3d_p adamw/param/*", after[name], g[prefix + name])
                agree("train_sv3d_p adamw/param/*, its change", delta, g[prefix + name] - before[name], 1e-3)
    agree("train_sv3d_p adamw/loss_after", shared["loss_after"], g["out/adamw/loss_after"])


# --- the optimiser on a problem with known gradients ------------------------------------------------------------

class Quadratic(nn.Cell):
    """|W x - y|^2 + |b|^2."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = Parameter(Tensor(weight), name="weight"), Parameter(Tensor(bias), name="bias")

    def construct(self, x, y):
        error = ms.ops.matmul(self.weight, x) - y
        return (error * error).sum() + (self.bias * self.bias).sum()


@pytest.mark.parametrize("clip_norm", [0.0, 10.0])
def test_three_steps_by_hand(clip_norm, relative_error):
    """AdamW (decoupled decay, bias correction), clipping by the global norm, moving average; against float64."""
    rng = np.random.RandomState(0)
    values = [rng.randn(3, 2).astype(np.float32), rng.randn(4).astype(np.float32)]
    x, y = rng.randn(2).astype(np.float32), rng.randn(3).astype(np.float32)
    objective = Quadratic(*values)
    betas, decay, eps = (0.8, 0.95), 0.1, 0.05     # an eps that matters
    step = TrainStep(objective, [objective.weight, objective.bias], betas, eps, decay, clip_norm)
    run = ms.jit(step.construct)

    exact = [value.astype(np.float64) for value in values]
    m, v, average = ([np.zeros(value.shape) for value in exact], [np.zeros(value.shape) for value in exact],
                     [value.copy() for value in exact])
    norms = []
    for number, (lr, average_decay) in enumerate([(0.1, 0.1), (0.3, 0.5), (0.05, 0.9)], 1):
        loss, norm = run(step.rates(number, lr, average_decay), Tensor(x), Tensor(y))
        error = exact[0] @ x - y
        assert float(loss.asnumpy()) == pytest.approx((error ** 2).sum() + (exact[1] ** 2).sum(), rel=1e-5)
        gradients = [2 * np.outer(error, x), 2 * exact[1]]
        norms.append(np.sqrt(sum((g ** 2).sum() for g in gradients)))
        assert float(norm.asnumpy()) == pytest.approx(norms[-1], rel=1e-5)
        clip = min(1, clip_norm / (norms[-1] + 1e-6)) if clip_norm else 1
        for i, gradient in enumerate(gradients):
            m[i] += (1 - betas[0]) * (clip * gradient - m[i])
            v[i] += (1 - betas[1]) * ((clip * gradient) ** 2 - v[i])
            corrected = m[i] / (1 - betas[0] ** number), v[i] / (1 - betas[1] ** number)
            exact[i] = exact[i] * (1 - lr * decay) - lr * corrected[0] / (np.sqrt(corrected[1]) + eps)
            average[i] = average_decay * average[i] + (1 - average_decay) * exact[i]
        for ours, theirs in zip((*step.weights, *step.m, *step.v, *step.average), (*exact, *m, *v, *average)):
            assert relative_error(ours, theirs) < 1e-5
    assert norms[0] > 10 > norms[-1]    # a bound of 10 acts on some steps and not on others


# --- the loop's parts -------------------------------------------------------------------------------------------

def test_learning_rate():
    recipe = Recipe(steps=110, warmup=10, lr=0.4, lr_final=0.1)
    assert [learning_rate(recipe, step) for step in (0, 4, 9, 10)] == pytest.approx([0.04, 0.2, 0.4, 0.4])
    assert [learning_rate(recipe, step) for step in (60, 110)] == pytest.approx([0.4 * (0.1 + 0.9 / 2), 0.04])
    assert learning_rate(Recipe(steps=10, warmup=0, lr=0.4), 0) == pytest.approx(0.4)


def test_shuffled_sees_every_clip_once_an_epoch():
    """Also where a batch spans two epochs; the order depends on seed and epoch, and on nothing else."""
    epochs = np.concatenate([shuffled(7, 10, step, 4) for step in range(10)]).reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert shuffled(7, 10, 3, 4) == list(epochs.reshape(-1)[12:16]) != shuffled(8, 10, 3, 4)
    assert sorted(shuffled(0, 3, 0, 6)) == [0, 0, 1, 1, 2, 2]       # a batch of two epochs


def test_noise_levels_are_drawn_per_clip():
    levels = lognormal_sigmas(np.random.default_rng(0), 20000, 2, 0.7, 1.6)
    assert levels.shape == (40000,) and (levels[::2] == levels[1::2]).all()
    assert np.log(levels).mean() == pytest.approx(0.7, abs=0.05)
    assert np.log(levels).std() == pytest.approx(1.6, abs=0.05)


def test_initial_weights():
    """Every parameter has a random stream of its own: its name and the seed decide, not the order."""
    name = "model.diffusion_model.time_embed.0.weight"
    weight = initial_weight(name, (64, 100), 0)
    np.testing.assert_array_equal(weight, initial_weight(name, (64, 100), 0))
    for other in (initial_weight(name, (64, 100), 1), initial_weight(name.replace("0.w", "2.w"), (64, 100), 0)):
        assert abs(np.corrcoef(weight.ravel(), other.ravel())[0, 1]) < 0.05
    assert weight.dtype == np.float32 and np.abs(weight).max() <= 0.1
    assert weight.std() == pytest.approx(0.1 / 3 ** 0.5, rel=0.05)
    convolution = initial_weight("model.diffusion_model.input_blocks.0.0.weight", (8, 4, 3, 3), 0)
    assert 0.9 / 6 < np.abs(convolution).max() <= 1 / 6
    assert (initial_weight("a.norm.weight", (5,), 0) == 1).all() and (initial_weight("a.norm.bias", (5,), 0) == 0).all()
    assert (initial_weight("a.mix_factor", (1,), 0) == 0.5).all()
    assert initial_weight("a.visual.proj", (400, 100), 0).std() == pytest.approx(0.1, rel=0.05)


# A posed network of three views that compiles in seconds.
SMALL = ["num_frames=3", "height=32", "width=32", "unet.channel_mult=[1]", "unet.attention_resolutions=[]",
         "unet.num_head_channels=32", "unet.context_dim=32", "vae.ch_mult=[1,1,1]", "clip.image_size=16",
         "clip.patch_size=8", "clip.width=64", "clip.layers=1", "clip.head_width=32", "clip.embed_dim=32",
         "condition.scalar_dim=8", "condition.angle_dim=8"]


def small_engine(seed):
    engine = Engine(load_spec(GOLDEN / "tiny_sv3d_p.yaml", SMALL))
    initialise(engine, seed)
    return engine


def test_a_network_starts_as_the_identity(relative_error):
    """Residual branches end in zeros, and so does the UNet: its first estimate is what the noise level alone says."""
    engine = small_engine(0)
    parameters = engine.model.parameters_dict()
    zero = {name for name, parameter in parameters.items()
            if name.endswith(".weight") and not parameter.asnumpy().any()}
    assert {name for name in parameters if name.endswith(("out_layers.3.weight", "proj_out.weight"))} < zero
    assert "model.diffusion_model.out.2.weight" in zero and len(zero) < 0.2 * len(parameters)
    rng = np.random.RandomState(0)
    x, concat = (Tensor(rng.randn(3, 4, 8, 8).astype(np.float32)) for _ in range(2))
    prepared = engine.model.prepare(Tensor(rng.randn(3, 1, 32).astype(np.float32)), 3)
    vector, still = Tensor(rng.randn(3, 24).astype(np.float32)), Tensor(np.zeros(3, np.float32))
    estimate = engine.model(x, Tensor(np.full(3, 2, np.float32)), prepared, concat, vector, still, 3)
    assert relative_error(estimate, x.asnumpy() / 5) < 1e-6


class Fixed(nn.Cell):
    """Yields one value, or what it is given."""

    def __init__(self, value=None):
        super().__init__()
        self.value = value

    def construct(self, x, frames=None):
        return x if self.value is None else self.value


def test_autoencoder_loss():
    """|error| + error^2 + weight * KL of the posterior, by hand; here the decoder yields the drawn latent itself."""
    rng = np.random.RandomState(0)
    mean, log_variance, noise, image = (rng.randn(2, 3, 4, 4).astype(np.float32) for _ in range(4))
    moments = Tensor(np.concatenate([mean, log_variance], 1))
    loss = AutoencoderLoss(Fixed(moments), Fixed(), 0.1)(Tensor(image), Tensor(noise))
    error = mean + np.exp(log_variance / 2) * noise - image
    kl = (mean ** 2 + np.exp(log_variance) - 1 - log_variance).mean() / 2
    assert float(loss.asnumpy()) == pytest.approx(np.abs(error).mean() + (error ** 2).mean() + 0.1 * kl, rel=1e-5)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Four procedural clips of three views of 32 x 32 pixels, as tools/render_orbits.py --pack writes them."""
    folder, orbit = tmp_path_factory.mktemp("packed"), Orbit.static(elevation=20, num_frames=3)
    np.save(folder / "clips.npy", np.stack([render_clip(seed, orbit, 32) for seed in TRAIN_SEEDS[:4]]))
    np.save(folder / "azimuths.npy", np.tile(orbit.azimuths_deg.astype(np.float32), (4, 1)))
    np.save(folder / "elevations.npy", np.tile(orbit.elevations_deg.astype(np.float32), (4, 1)))
    return folder


def test_packed_orbits(packed, tmp_path):
    orbits = PackedOrbits([str(packed), str(packed)])
    assert (len(orbits), orbits.num_frames, orbits.size) == (8, 3, 32)
    clips = np.load(packed / "clips.npy")
    frames = orbits.frames(6)           # clip 2 of the second folder
    assert frames.shape == (3, 3, 32, 32) and frames.dtype == np.float32 and -1 <= frames.min() < frames.max() == 1
    np.testing.assert_array_equal(np.round((frames.transpose(0, 2, 3, 1) + 1) * 127.5), clips[2])
    np.testing.assert_array_equal(orbits.frames(6, [1]), frames[1:2])
    np.testing.assert_allclose(orbits.orbit(6).azimuths_deg, [120, 240, 0])
    np.testing.assert_allclose(orbits.orbit(6).elevations_deg, 20)
    with pytest.raises(ValueError, match="data: found no folder"):
        PackedOrbits([])
    with pytest.raises(ValueError, match="not a finished packed set"):
        PackedOrbits([str(tmp_path)])
    for name in ("azimuths", "elevations"):
        np.save(tmp_path / f"{name}.npy", np.zeros((1, 3), np.float32))
    np.save(tmp_path / "clips.npy", np.zeros((1, 3, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="differ in frames or size"):
        PackedOrbits([str(packed), str(tmp_path)])


class Counter:
    """A `progress` that counts what passes through it."""

    def __init__(self):
        self.count = 0

    def __call__(self, items, text):
        for item in items:
            self.count += 1
            yield item


@pytest.fixture(scope="module")
def latents(packed, tmp_path_factory):
    """The packed clips encoded by the engine of seed 0, with the folder they are cached in."""
    cache, counter = tmp_path_factory.mktemp("cache"), Counter()
    orbits = LatentOrbits(PackedOrbits([str(packed)]), small_engine(0), cache, counter)
    assert counter.count == 4
    return orbits, cache


def test_clips_are_encoded_once(packed, latents):
    counter = Counter()
    again = LatentOrbits(PackedOrbits([str(packed)]), small_engine(0), latents[1], counter)
    assert counter.count == 0 and len(again) == 4
    LatentOrbits(PackedOrbits([str(packed)]), small_engine(1), latents[1], counter)
    assert counter.count == 4           # other encoders


def test_encoded_clips(packed, latents, relative_error):
    """Latents of all views; the last view is what the network is shown, and the angles what it is told."""
    orbits, engine = PackedOrbits([str(packed)]), small_engine(0)
    frames, orbit = orbits.frames(2), orbits.orbit(2)
    x0, token, latent, vector = latents[0].batch(np.random.default_rng(0), [2], drop=0.0)
    mean, log_variance = engine.encode_moments(frames)
    drawn = np.random.default_rng(0).standard_normal(mean[None].shape, dtype=np.float32)[0]
    assert relative_error(x0, (mean + np.exp(log_variance / 2) * drawn) * 0.18215) < 1e-5
    c, _ = engine.condition(frames[-1:], np.zeros_like(frames[-1:]), cond_aug=engine.spec.condition.cond_aug,
                            polars_rad=orbit.polars_rad, azimuths_rad=orbit.azimuths_rad)
    for ours, wanted in ((token, c["crossattn"]), (latent, c["concat"]), (vector, c["vector"])):
        assert relative_error(ours, wanted) < 1e-5


def test_condition_is_dropped_whole(latents):
    """Token and latent of a clip together, as the unconditional side of guidance has it; the vector stays."""
    dropped = []
    for seed in range(20):
        _, token, latent, vector = latents[0].batch(np.random.default_rng(seed), [0, 1], drop=0.5)
        token, latent = token.reshape(2, 3, -1).any((1, 2)), latent.reshape(2, 3, -1).any((1, 2))
        assert (token == latent).all() and vector.any(1).all()
        dropped += list(~token)
    assert 8 < sum(dropped) < 32 and dropped[::2] != dropped[1::2]


def test_roaming_clips(latents, relative_error):
    """The same views with their own angles, from any start and either way; the condition stays the last view."""
    plain = latents[0].batch(np.random.default_rng(0), [2], drop=0.0)
    mean, log_variance = latents[0].load(np.random.default_rng(0), 2, 0.0)[1][:2]
    angles = plain[3][:, -128:]         # the azimuth's columns
    starts, steps = set(), set()
    for seed in range(40):
        x0, token, latent, vector = latents[0].batch(np.random.default_rng(seed), [2], drop=0.0, roam=1.0)
        order = [int(np.abs(angles - row).sum(1).argmin()) for row in vector[:, -128:]]
        np.testing.assert_array_equal(vector, plain[3][order])
        np.testing.assert_array_equal(token, plain[1])
        np.testing.assert_array_equal(latent, plain[2])
        noise = np.random.default_rng(seed).standard_normal(mean.shape, dtype=np.float32)
        assert relative_error(x0, (mean[order] + np.exp(log_variance[order] / 2) * noise) * 0.18215) < 1e-6
        starts.add(order[0])
        steps.add((order[1] - order[0]) % 3)
    assert starts == {0, 1, 2} and steps == {1, 2}


def trainer(seed, latents):
    recipe = Recipe(seed=5, steps=8, batch=2, lr=1e-2, warmup=2, average_decay=0.5)
    return Trainer(small_engine(seed), recipe, DiffusionBatches(recipe, latents[0]))


def test_a_resumed_run_continues_bit_for_bit(latents, tmp_path):
    first = trainer(0, latents)
    losses = [first.advance()[0] for _ in range(2)]
    folder = RunFolder(tmp_path, first.recipe, first.engine.spec)
    folder.save(first)
    rows = [first.advance() for _ in range(2)]
    assert np.isfinite(losses).all() and first.done == 4

    second = trainer(1, latents)        # other weights, until it resumes
    folder.resume(second)
    assert second.done == 2
    assert [second.advance() for _ in range(2)] == rows
    for averaged in (False, True):
        ours, theirs = first.weights(averaged), second.weights(averaged)
        assert set(ours) == set(theirs) == set(first.engine.parameters_dict())
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert any((first.weights(False)[name] != first.weights(True)[name]).any() for name in ours)

    folder.resume(second)             # once more, now that its step is compiled
    assert [second.advance() for _ in range(2)] == rows

    saved = open_checkpoint(tmp_path / "averaged.safetensors")
    assert saved.metadata["step"] == "2" and set(saved) == set(ours)    # a model file: it loads like a published one
    other = Trainer(Engine(load_spec(GOLDEN / "tiny_sv3d_p.yaml", [*SMALL, "unet.num_res_blocks=2"])), first.recipe,
                    first.batches)
    with pytest.raises(CheckpointError, match="is missing or of another shape"):
        folder.resume(other)


def test_views_for_the_autoencoder(packed):
    """Whole views, or square crops of them; what a step sees follows from its number."""
    orbits, spec = PackedOrbits([str(packed)]), small_engine(0).spec
    images, noise = ViewBatches(Recipe(batch=5), orbits, spec)(3)
    assert images.shape == (5, 3, 32, 32) and noise.shape == (5, 4, 8, 8)
    np.testing.assert_array_equal(images, ViewBatches(Recipe(batch=5), orbits, spec)(3)[0])
    assert (images != ViewBatches(Recipe(batch=5), orbits, spec)(4)[0]).any()
    views = np.concatenate([orbits.frames(i) for i in range(4)])
    assert all((views == image).all((1, 2, 3)).any() for image in images)
    crops, noise = ViewBatches(Recipe(batch=5, crop=16), orbits, spec)(3)
    assert crops.shape == (5, 3, 16, 16) and noise.shape == (5, 4, 4, 4)
