"""Sampling: every step of the reference's ten to the final frames; noise levels; the samplers against closed-form solutions."""
from dataclasses import replace

import numpy as np
import pytest
from mindspore import Tensor
from support.goldens import TIGHT

from sgm.config.model import SAMPLERS
from sgm.diffusion.samplers import BY_NAME, karras_sigmas

STEPS = 10
SIDES = ("c", "uc")


def conditions(golden):
    return [{key: golden[f"in/{side}/{key}"] for key in ("crossattn", "concat", "vector")} for side in SIDES]


def to_uint8(frames):
    """As the reference stores frames: (T, 3, H, W) in [-1, 1] -> (T, H, W, 3), truncated."""
    return (((frames + 1) / 2).clip(0, 1) * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture
def uncompiled_engine(tiny_engine, pynative, monkeypatch):
    """`tiny_engine` without the graphs that it may have."""
    def engine(name):
        monkeypatch.setattr(tiny_engine(name), "_graphs", {})
        return tiny_engine(name)
    return engine


@pytest.fixture(params=["pynative", pytest.param("compiled", marks=pytest.mark.slow)])
def engines(request):
    return request.getfixturevalue("tiny_engine" if request.param == "compiled" else "uncompiled_engine")


@pytest.mark.parametrize("name", ["sv3d_p", "svd"])
class TestTrace:
    """Ten Euler steps of five frames."""

    def test_both_sides_of_single_steps(self, name, golden, engines, agree):
        """Estimates at the reference's own x. Guidance scales 0 and 1 leave one side: unconditional, conditional."""
        g = golden(f"sample_{name}")
        for i in (0, 9):
            sides = [engines(name).denoiser(*conditions(g), np.full(5, scale))(
                Tensor(g[f"trace/x.{i}"]), g[f"trace/sigma.{i}"][0]).asnumpy() for scale in (0, 1)]
            wanted = g[f"trace/denoised_uncond_cond.{i}"]
            agree(f"sample_{name} denoised_uncond_cond.{i}", np.concatenate(sides), wanted)

    def test_where_it_begins(self, name, golden, tiny_engine, monkeypatch):
        """The noise at the first level, the levels, and the guidance of each frame, as the samplers get them."""
        g, given = golden(f"sample_{name}"), {}

        def sampler(denoise, x, sigmas):
            given.update(x=x.asnumpy(), sigmas=sigmas)
            yield 0, x, x

        monkeypatch.setitem(BY_NAME, "spy", sampler)
        monkeypatch.setattr(tiny_engine(name), "denoiser", lambda c, uc, scale, sequential: given.update(scale=scale))
        tiny_engine(name).sample(g["in/randn"], *conditions(g), sampler="spy")
        np.testing.assert_allclose(given["x"], g["trace/x.0"], rtol=1e-6)
        np.testing.assert_allclose(given["sigmas"], g["out/sigmas"], rtol=5e-6)
        np.testing.assert_allclose(given["scale"], g["out/guider_scale"][0], rtol=1e-6)
        for i in range(STEPS):
            np.testing.assert_allclose(g[f"trace/sigma.{i}"], given["sigmas"][i], rtol=5e-6)

    def test_frames(self, name, golden, engines, agree):
        g, engine = golden(f"sample_{name}"), engines(name)
        for chunk, key in ((5, "frames_raw"), (2, "frames_raw_chunk2")):
            agree(f"sample_{name} {key}", engine.decode(g["out/z"], chunk), g[f"out/{key}"])


@pytest.mark.parametrize("name, engines", [
    ("sv3d_p", "pynative"), pytest.param("sv3d_p", "compiled", marks=pytest.mark.slow),
    pytest.param("svd", "compiled", marks=pytest.mark.slow)], indirect=["engines"])
def test_all_steps_and_frames(name, golden, engines, agree):
    g, engine, xs = golden(f"sample_{name}"), engines(name), []
    z = engine.sample(g["in/randn"], *conditions(g), callback=lambda i, x, denoised: xs.append((i, x.asnumpy())))
    assert [i for i, _ in xs] == list(range(STEPS))     # steps, sampler and guidance are those of the YAML file
    for i, x in xs:
        agree(f"sample_{name} x.1-10", x, g[f"trace/x.{i + 1}"], 2e-4)
    agree(f"sample_{name} z", z, g["out/z"], 2e-4)
    frames = engine.decode(z, 5)
    agree(f"sample_{name} frames_raw, from our z", frames, g["out/frames_raw"], 2e-4)
    agree(f"sample_{name} frames_raw_chunk2, from our z", engine.decode(z, 2), g["out/frames_raw_chunk2"], 2e-4)
    ours, theirs = to_uint8(frames), g["out/frames_uint8"]
    if name == "sv3d_p":    # the reference replaces the input view by the input
        ours[-1] = to_uint8(golden("cond_sv3d_p")["in/image"])[0]
    difference = np.abs(ours.astype(int) - theirs)      # truncation turns the last bit into a level now and then
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def guided(golden, i):
    """The reference's estimate at step i, from both of its sides."""
    uncond, cond = np.split(golden[f"trace/denoised_uncond_cond.{i}"], 2)
    return uncond + golden["out/guider_scale"].reshape(-1, 1, 1, 1) * (cond - uncond)


def test_one_side_after_the_other_is_the_same(golden, uncompiled_engine, agree):
    """`sequential` halves the batch, not the result."""
    g, engine = golden("sample_sv3d_p"), uncompiled_engine("sv3d_p")
    denoise = engine.denoiser(*conditions(g), g["out/guider_scale"][0], sequential=True)
    for i in (0, 9):
        estimate = denoise(Tensor(g[f"trace/x.{i}"]), g[f"trace/sigma.{i}"][0])
        agree("sample_sv3d_p denoised, sequential", estimate, guided(g, i))


@pytest.mark.slow
def test_all_steps_one_side_after_the_other(golden, tiny_engine, agree):
    g = golden("sample_sv3d_p")
    z = tiny_engine("sv3d_p").sample(g["in/randn"], *conditions(g), sequential=True)
    agree("sample_sv3d_p z, sequential", z, g["out/z"], 2e-4)


def test_without_guidance_there_is_one_side(golden, uncompiled_engine, agree):
    """Scales of 1 need no unconditional side: here there is none. Against the estimates of the reference's other side."""
    g, engine = golden("sample_sv3d_p"), uncompiled_engine("sv3d_p")
    c, _ = conditions(g)
    denoised = engine.denoiser(c, None, np.ones(5))(Tensor(g["trace/x.5"]), g["trace/sigma.5"][0])
    agree("sample_sv3d_p denoised, conditional side alone", denoised, g["trace/denoised_uncond_cond.5"][5:])


def test_options_of_sample(golden, tiny_engine, monkeypatch):
    """Two steps of every sampler with scales of our own, against the samplers run by hand; the denoiser is a formula."""
    g, engine, seen = golden("sample_sv3d_p"), tiny_engine("sv3d_p"), []
    scales, sigmas = np.array([1, 2, 3, 2, 1.5]), karras_sigmas(2)

    def denoiser(c, uc, scale, sequential=False):
        seen.append(sequential)
        factors = Tensor(scale.astype(np.float32).reshape(-1, 1, 1, 1))
        return lambda x, sigma: x * factors / float(3 + sigma)

    monkeypatch.setattr(engine, "denoiser", denoiser)
    for name, sampler in BY_NAME.items():
        x = g["in/randn"] * np.float32(np.sqrt(1 + sigmas[0] ** 2))
        *_, (_, by_hand, _) = sampler(denoiser(None, None, scales), Tensor(x), sigmas)
        for sequential in (False, True):
            z = engine.sample(g["in/randn"], *conditions(g), steps=2, sampler=name, guidance_scales=scales,
                              sequential=sequential)
            np.testing.assert_array_equal(z.asnumpy(), by_hand.asnumpy())
    assert seen == 4 * [False, False, True]


def test_less_noise_to_start_from(golden, uncompiled_engine, monkeypatch):
    """`start_noise` scales the first noise, its levels stay."""
    g, engine, given = golden("sample_sv3d_p"), uncompiled_engine("sv3d_p"), []

    def sampler(denoise, x, sigmas):
        given.append((x.asnumpy(), sigmas[0]))
        yield 0, x, x

    monkeypatch.setitem(BY_NAME, "spy", sampler)
    monkeypatch.setattr(engine, "denoiser", lambda *conditions: None)
    for share in (1.0, 0.25):
        monkeypatch.setattr(engine, "spec", replace(engine.spec, sampling=replace(engine.spec.sampling, start_noise=share)))
        engine.sample(g["in/randn"], *conditions(g), sampler="spy")
    (whole, first), (quarter, same) = given
    np.testing.assert_allclose(quarter, whole / 4, rtol=1e-6)
    assert first == same


# --- samplers on data whose solution is known -------------------------------------------------------------------
# Clean data normal with deviation S have the denoiser x S^2 / (S^2 + sigma^2), and the diffusion ODE
# dx / dsigma = (x - denoised) / sigma has the solution x(sigma) = x0 sqrt((S^2 + sigma^2) / (S^2 + sigma0^2)).

S = 0.5


def denoise(x, sigma):
    return x * S ** 2 / (S ** 2 + sigma ** 2)


def exact(x, before, after):
    return x * np.sqrt((S ** 2 + after ** 2) / (S ** 2 + before ** 2))


def final(name, sigmas, x=1.0):
    *_, (_, x, _) = BY_NAME[name](denoise, np.float64(x), sigmas)
    return x


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("dpmpp2m", 2), ("unipc", 3)])
def test_order_of_convergence(name, order):
    """Halving the steps divides the error by 2^order."""
    wanted = exact(1.0, 10, 0.1)
    errors = []
    for steps in (40, 80, 160, 320):
        sigmas = karras_sigmas(steps + 1, 0.1, 10)[:-1]     # without the final zero, which is a step of its own
        errors.append(abs(final(name, sigmas) - wanted) / wanted)
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.abs(orders - order).max() < 0.15, orders
    assert errors[-1] < (5e-3 if order == 1 else 1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_to_the_end(name):
    """Down to no noise at all; the last step has no second evaluation, and yields the denoised estimate."""
    sigmas = karras_sigmas(100, 0.002, 80)
    steps = list(BY_NAME[name](denoise, np.float64(80.0), sigmas))
    assert [i for i, _, _ in steps] == list(range(100))
    assert steps[-1][1] == pytest.approx(exact(80.0, 80, 0), rel=0.05 if name == "euler" else 2e-3)
    i, x, denoised = steps[-1]
    assert denoised == pytest.approx(denoise(steps[-2][1], 0.002), rel=1e-12)
    if name != "heun":
        assert x == pytest.approx(denoised, rel=1e-12)


@pytest.mark.parametrize("name, evaluations", [("euler", 10), ("heun", 19), ("dpmpp2m", 10), ("unipc", 10)])
def test_number_of_evaluations(name, evaluations):
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return denoise(x, sigma)

    for _ in BY_NAME[name](counted, np.float64(1.0), karras_sigmas(10)):
        pass
    assert len(calls) == evaluations and min(calls) > 0


# --- noise levels -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sigma_max", [80, 700])
@pytest.mark.parametrize("steps", [10, 25, 30, 50])
def test_noise_levels(steps, sigma_max, math):
    ours, theirs = karras_sigmas(steps, sigma_max=sigma_max), math[f"out/sigmas_{steps}_max{sigma_max}"]
    np.testing.assert_allclose(ours, theirs, **TIGHT)
    assert len(ours) == steps + 1 and ours[-1] == 0 and ours[0] == pytest.approx(sigma_max, rel=1e-12)


def test_noise_levels_below_a_second_one():
    """The first is alone, the others are those of the formula from the second on."""
    np.testing.assert_array_equal(karras_sigmas(6, 0.02, 700, 7, 20), [700, *karras_sigmas(5, 0.02, 20)])
    np.testing.assert_allclose(karras_sigmas(1, 0.02, 700, 7, 20), [700, 0], rtol=1e-12)


def test_noise_levels_follow_their_formula():
    """Equal steps of sigma^(1/rho)."""
    roots = karras_sigmas(7, 0.1, 9, rho=3)[:-1] ** (1 / 3)
    np.testing.assert_allclose(np.diff(roots), (0.1 ** (1 / 3) - 9 ** (1 / 3)) / 6)
