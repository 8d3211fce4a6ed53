"""A run of sv3d_p from picture to views; PyTorch's time is the sum of the same stages.

Ours is the run that a user has: opening the file, compiling, giving the memory of each stage back.
Of PyTorch each different call is timed once and multiplied by how often a run makes it: image
tower, encoder, an evaluation of the UNet (two in a guided step), decoding of two frames. Loading,
guidance and sampler are not in PyTorch's sum.
"""
import time
from typing import NamedTuple

import numpy as np
import twins
from sides import Summed

from sgm.config.model import ModelSpec

CHUNK = 2           # frames decoded at a time


class Case(NamedTuple):
    """What both sides compute: the views of one picture in that many guided steps."""
    spec: ModelSpec
    steps: int


def draw_weights(case, path):
    """Write all weights of the model (see `twins.write_weights`)."""
    return twins.draw_weights(twins.Case("all", case.spec, case.spec.num_frames), path)


def ours(case, weights):
    """Return {"run": function} on MindSpore; it returns the views."""
    from sgm import ops
    from sgm.checkpoints.loading import open_checkpoint
    from sgm.diffusion.engine import Engine
    from sgm.diffusion.pipeline import SampleOptions, generate_views

    ops.set_device("CPU")
    options = SampleOptions(steps=case.steps, decode_chunk=CHUNK, sequential=True,
                            keep_graphs=False)
    rows, columns = np.mgrid[:case.spec.height, :case.spec.width]
    picture = np.stack((rows % 256, columns % 256, (rows + columns) % 256,
                        np.full_like(rows, 255)), -1).astype(np.uint8)

    def run():
        seconds = time.perf_counter()
        engine = Engine(case.spec, open_checkpoint(weights))
        views = generate_views(engine, picture, options=options)
        return Summed(time.perf_counter() - seconds, np.asarray(views.frames))

    return {"run": run}


def theirs(case, weights):
    """Return the sum of the stages' seconds on PyTorch; its output is empty."""
    spec = case.spec
    frames = spec.num_frames
    latent = spec.height // spec.vae_factor, spec.width // spec.vae_factor
    calls = ((twins.Case("clip", spec, 1), "embed", 1),
             (twins.Case("vae", spec, 1, *latent), "encode", 1),
             (twins.Case("unet", spec, frames, *latent), "evaluate", 2 * case.steps),
             (twins.Case("vae", spec, CHUNK, *latent), "decode", frames / CHUNK))

    def run():
        total = 0.0
        for part, name, count in calls:
            task = twins.theirs(part, weights)[name]
            start = time.perf_counter()
            task()
            total += count * (time.perf_counter() - start)
        return Summed(total, np.empty(0))

    return {"run": run}
