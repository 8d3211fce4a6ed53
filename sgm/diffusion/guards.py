"""What stops a run with one line: a request that cannot be, want of memory, values that are not finite (numpy only)."""
from contextlib import contextmanager

import numpy as np

from sgm.checkpoints.store import CheckpointError
from sgm.common.cli import MAX_SEED
from sgm.common.errors import InputError
from sgm.config.model import MAX_FRAMES, MAX_NUMBER, MAX_STEPS, SAMPLERS

_BOUNDS = {"seed": (0, MAX_SEED), "steps": (1, MAX_STEPS), "decode_chunk": (1, MAX_FRAMES), "cond_aug": (0, MAX_NUMBER),
           "guidance_range": (-MAX_NUMBER, MAX_NUMBER), "fps": (1, MAX_NUMBER), "motion_bucket": (0, 255)}


class PipelineError(InputError):
    """A run that cannot go on; one line that names the stage or flag and the remedy."""


def check_request(spec, image, sampler, **numbers):
    """Raise PipelineError unless `image` is one of the model's size, `sampler` is known and the numbers (each by the name
    of its argument of `sgm.generate`, one or a tuple) are within their bounds."""
    shape = (spec.height, spec.width, 4)
    if image.shape != shape or image.dtype != np.uint8:
        raise PipelineError(f"image: found {image.dtype} {image.shape}, expected uint8 {shape}; use sgm.views.preprocessing.prepare")
    if sampler not in SAMPLERS:
        raise PipelineError(f"sampler: found {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    for name, value in numbers.items():
        low, high = _BOUNDS[name]
        if not all(low <= number <= high for number in np.atleast_1d(value)):
            raise PipelineError(f"{name}: found {value}, expected {low} to {high}")


@contextmanager
def memory_errors(stage, remedy):
    """Within, want of memory becomes a PipelineError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        reason = (str(error).splitlines() or ["no more is to be had"])[0][:200]
        raise PipelineError(f"{stage}: not enough memory ({reason}); {remedy}") from None


def of_memory(error):
    """Whether an error is about memory: numpy raises MemoryError, MindSpore RuntimeError."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


def require_finite(array, stage, weights, keys):
    """`array`, the result of a stage, if it is finite; else an error that says why not.

    CheckpointError if one of the weights of the stage is not (weights: an open TensorStore or None, keys: of the stage's),
    else PipelineError: the precision did not suffice. The weights are looked through only now that something is wrong:
    each time would double the reading of a 9 GB file.
    """
    if np.isfinite(array).all():
        return array
    for key in keys if weights is not None else ():
        bad = np.count_nonzero(~np.isfinite(weights.read(key)))
        if bad:
            raise CheckpointError(f"{weights.path}: {key}: found {bad} of {np.prod(weights.shape(key), dtype=int)} values NaN"
                                  f" or infinite, expected finite weights (noticed in stage {stage}); the file is damaged or"
                                  " of a training that failed: get another")
        weights.release(key)
    raise PipelineError(f"{stage}: the result has values that are not finite, though the weights are; use --dtype fp32 (bf16"
                        " on Ascend), or less --guidance")
