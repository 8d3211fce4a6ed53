"""Tokens that tell images apart, of an image tower that was never trained.

A published CLIP was taught to; the tower of a small model stays as it was drawn, and such a one gives nearly the same
token for every image (their differences have 5 % of their length, measured on toys). The network then learns what an object
looks like many times slower. The tower's last layer can mend that without training.
"""
from contextlib import suppress

import numpy as np
from mindspore import Tensor

from sgm.common.errors import InputError
from sgm.train.data.examples import Encoders

IMAGES = 512            # of that many the tokens' mean and axes are taken
FLOOR = 0.002           # of the whole variance: an axis of less is not stretched to the same length as the others


def whiten(tokens, floor=FLOOR):
    """Tokens (N, D) -> mean (D,) and A (D, D), float64: (tokens - mean) A has the principal axes of the tokens as columns,
    each of variance v / (v + floor * sum of all v), largest first. A is zero if all tokens are the same."""
    tokens = np.asarray(tokens, np.float64)
    mean = tokens.mean(0)
    variance, axes = np.linalg.eigh(np.cov((tokens - mean).T, bias=True))
    variance, axes = variance[::-1].clip(0), axes[:, ::-1]
    if not variance.sum() > 0:
        return mean, np.zeros_like(axes)
    return mean, axes / np.sqrt(variance + floor * variance.sum())


def whiten_image_tokens(engine, clips):
    """Set the last layer of the engine's image tower so that its tokens of `clips` (a `Clips`; the condition views of up to
    IMAGES of them) are whitened: `ln_post.bias` takes their mean away, `proj` turns and stretches what is left."""
    views = []
    for k in np.unique(np.linspace(0, len(clips) - 1, min(IMAGES, len(clips))).astype(int)):
        with suppress(InputError):      # a clip that cannot be read is told of and counted where it is trained on
            views.append(clips[k].frames([0 if clips[k].angles is None else clips[k].num_views - 1]))
    if not views:
        return
    mean, axes = whiten(Encoders(engine, 1).tokens(np.concatenate(views))[:, 0])
    if not axes.any():
        return
    tower = engine.conditioner.embedder("cond_frames_without_noise").open_clip.model.visual
    proj, bias = (parameter.asnumpy().astype(np.float64) for parameter in (tower.proj, tower.ln_post.bias))
    bias -= np.linalg.lstsq(proj.T, mean, rcond=None)[0]        # exact: the mean is of proj's rows
    for parameter, value in ((tower.proj, proj @ axes), (tower.ln_post.bias, bias)):
        parameter.set_data(Tensor(value.astype(np.float32)))
    engine.release()
