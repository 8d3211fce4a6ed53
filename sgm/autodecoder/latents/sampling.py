"""Sampling of latents: EDM's sampler, with guidance, each latent from a seed of its own."""
import numpy as np

from sgm.autodecoder.object_model import VOXELS
from sgm.diffusion.samplers import Churn, heun, karras_sigmas


class Noise:
    """Standard normal numbers for the latents of seeds, each from a stream of its own."""

    def __init__(self, model, seeds):
        self.shape = (VOXELS, model.spec.volume.latent_width)
        self.streams = [np.random.default_rng(seed) for seed in seeds]

    def draw(self):
        """Return the next ones, (seeds, 8^3, C) float32."""
        return np.stack([stream.standard_normal(self.shape, np.float32)
                         for stream in self.streams])


def between(first, second, count):
    """Return `count` arrays on the great circle from one array of noise to another, both included.

    What lies between is noise of the same length, as the sampler expects it.
    """
    angle = np.arccos(np.clip((first * second).sum() / np.linalg.norm(first)
                              / np.linalg.norm(second), -1, 1))
    shares = np.linspace(0, 1, count)[:, None, None]
    made = np.sin((1 - shares) * angle) * first + np.sin(shares * angle) * second
    return np.float32(made / np.sin(angle))


def sample(model, seeds, steps=None, churn=None, start=None, condition=None, guidance=None,
           progress=None):
    """Return new latents (len(seeds), 8^3, C), one for each seed, whatever the others are.

    model: an ObjectModel with its denoiser. steps, churn, guidance: of the sampler, by default the
    spec's; churn 0 is deterministic. start (len(seeds), 8^3, C): the noise to begin with, by
    default the seeds'. condition (tokens, width): what is wanted, None: nothing in particular.
    With guidance g the estimate is u + g (c - u) of those with the condition and without.
    progress(i, n) is called after each step.
    """
    settings, count = model.spec.diffusion, len(seeds)
    steps = steps or settings.steps
    churn = settings.churn if churn is None else churn
    guidance = settings.guidance if guidance is None else guidance
    noise = Noise(model, seeds)
    tokens = _tokens(settings.condition, condition, count, guidance)
    sides = 2 if len(tokens) and len(tokens[0]) > count * settings.condition.shape[0] else 1

    def denoise(x, sigma):
        rows = np.float32(x).reshape(count * VOXELS, -1)
        level = np.full(sides * count, sigma, np.float32)
        found = model.run("denoiser", np.concatenate([rows] * sides), level, *tokens)
        if sides == 2:
            wanted, any_object = np.split(found, 2)
            found = any_object + np.float32(guidance) * (wanted - any_object)
        return found.reshape(x.shape)

    sigmas = karras_sigmas(steps, settings.sigma_min, settings.sigma_max, settings.rho)
    added = Churn(lambda _: noise.draw(), churn, settings.churn_min, settings.churn_max,
                  settings.churn_noise)
    first = noise.draw()                # drawn in any case: what follows it stays the same
    latents = (first if start is None else start) * np.float32(settings.sigma_max)
    for step in heun(denoise, latents, sigmas, added if churn else None):
        i, latents, _ = step
        if progress:
            progress(i + 1, steps)
    return model.normalization.invert(np.float32(latents))


def _tokens(spec, condition, count, guidance):
    """Return what the denoiser takes besides, as a tuple: nothing, or tokens of all latents.

    Those with the condition come before those without. spec: a ConditionSpec.
    """
    if not spec.kind:
        return ()
    nothing = np.zeros((count * spec.shape[0], spec.shape[1]), np.float32)
    if condition is None:
        return (nothing,)
    wanted = np.tile(np.float32(condition), (count, 1))
    return (wanted if guidance == 1 else np.concatenate([wanted, nothing]),)
