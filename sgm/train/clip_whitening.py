"""Whitens the output of an untrained CLIP image tower.

A published CLIP is trained to tell images apart. The tower of a small model keeps its random
weights, and gives nearly the same token for every image (their differences have 5 % of their
length, measured on procedural objects). The network then learns many times slower what an object
looks like. The tower's last layer can correct that without training.
"""
from contextlib import suppress

import numpy as np
from mindspore import Tensor

from sgm.common.errors import InputError
from sgm.train.data.examples import Encoders

IMAGES = 512            # largest number of images whose tokens give the mean and axes
FLOOR = 0.002           # share of the whole variance below which an axis is stretched less


def whiten(tokens, floor=FLOOR):
    """Return mean (D,) and A (D, D), float64, that whiten tokens (N, D).

    (tokens - mean) A has the principal axes of the tokens as columns, each of variance v / (v +
    floor * sum of all v), largest first. A is zero if all tokens are the same.
    """
    tokens = np.asarray(tokens, np.float64)
    mean = tokens.mean(0)
    variance, axes = np.linalg.eigh(np.cov((tokens - mean).T, bias=True))
    variance, axes = variance[::-1].clip(0), axes[:, ::-1]
    if not variance.sum() > 0:
        return mean, np.zeros_like(axes)
    return mean, axes / np.sqrt(variance + floor * variance.sum())


def whiten_image_tokens(engine, clips):
    """Set the last layer of the engine's image tower so that its tokens of `clips` are whitened.

    `clips`: a `Clips`, of which the condition views of up to IMAGES are used. `ln_post.bias`
    subtracts their mean, `proj` turns and stretches the rest.
    """
    views = []
    for k in np.unique(np.linspace(0, len(clips) - 1, min(IMAGES, len(clips))).astype(int)):
        with suppress(InputError):      # training reports and counts unreadable clips
            views.append(clips[k].frames([0 if clips[k].angles is None else clips[k].num_views - 1
                                          ]))
    if not views:
        return
    mean, axes = whiten(Encoders(engine, 1).tokens(np.concatenate(views))[:, 0])
    if not axes.any():
        return
    tower = engine.conditioner.embedder("cond_frames_without_noise").open_clip.model.visual
    proj, bias = (parameter.asnumpy().astype(np.float64)
                  for parameter in (tower.proj, tower.ln_post.bias))
    bias -= np.linalg.lstsq(proj.T, mean, rcond=None)[0]        # exact: the mean is of proj's rows
    for parameter, value in ((tower.proj, proj @ axes), (tower.ln_post.bias, bias)):
        parameter.set_data(Tensor(value.astype(np.float32)))
    engine.release()
