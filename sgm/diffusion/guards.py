"""Argument, out-of-memory and non-finite checks of the sampling pipeline (numpy only)."""
from contextlib import contextmanager

import numpy as np

from sgm.checkpoints.store import CheckpointError
from sgm.common.cli import MAX_SEED
from sgm.common.errors import InputError, argument
from sgm.config.model import MAX_FPS, MAX_FRAMES, MAX_NUMBER, MAX_STEPS, SAMPLERS

_BOUNDS = {
    "seed": (0, MAX_SEED), "steps": (1, MAX_STEPS), "decode_chunk": (1, MAX_FRAMES),
    "cond_aug": (0, MAX_NUMBER), "guidance_range": (-MAX_NUMBER, MAX_NUMBER),
    "fps": (1, MAX_FPS), "motion_bucket": (0, 255),
}


class PipelineError(InputError):
    """A run that cannot go on; one line that names the stage or flag and the remedy."""


def check_request(spec, image, sampler, **numbers):
    """Raise PipelineError unless the arguments of `sgm.generate` can be used.

    `image` must have the model's size, `sampler` must be known, and the numbers (each under the
    name of its argument, one or a tuple) must be within their bounds.
    """
    shape = (spec.height, spec.width, 4)
    if image.shape != shape or image.dtype != np.uint8:
        raise PipelineError(f"image: found {image.dtype} {image.shape}, expected uint8 {shape}; use"
                            " sgm.views.preprocessing.prepare")
    if sampler not in SAMPLERS:
        raise PipelineError(f"sampler: found {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    for name, value in numbers.items():
        low, high = _BOUNDS[name]
        if not all(low <= number <= high for number in np.atleast_1d(value)):
            raise PipelineError(f"{name}: found {value}, expected {low} to {high}")


@contextmanager
def memory_errors(stage, remedy):
    """Context manager: turn errors about memory into a PipelineError that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        reason = (str(error).splitlines() or ["none is left"])[0][:200]
        raise PipelineError(f"{stage}: not enough memory ({reason}); {remedy}") from None


def of_memory(error):
    """Return whether an error is about memory: numpy's MemoryError, MindSpore's RuntimeError."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def require_finite(array, stage, weights, keys):
    """Return the result of a stage if it is finite; else raise an error that says why not.

    weights: an open TensorStore or None; keys: those of the stage. Raises CheckpointError if one
    of these weights is not finite, else PipelineError: the precision was not sufficient. Weights
    are searched only now, after something went wrong: each time would double the reading of a
    9 GB file.
    """
    if np.isfinite(array).all():
        return array
    for key in keys if weights is not None else ():
        bad = np.count_nonzero(~np.isfinite(weights.read(key)))
        if bad:
            count = np.prod(weights.shape(key), dtype=int)
            raise CheckpointError(
                f"{weights.path}: {key}: found {bad} of {count} values NaN or infinite, expected"
                f" finite weights (noticed in stage {stage}); the file is damaged or comes from a"
                " training that failed: use another")
        weights.release(key)
    raise PipelineError(f"{stage}: the result has values that are not finite, though the weights"
                        f" are; use {argument('dtype')} fp32 (bf16 on Ascend), or less"
                        f" {argument('guidance_range', '--guidance')}")
