"""Classifier-free guidance with one scale per frame."""
import numpy as np

from sgm.config.model import GUIDANCES


def scales(kind, min_scale, max_scale, num_frames):
    """Return the guidance scale of each frame: (num_frames,) float32.

    linear: min at the first to max at the last frame (SVD). triangle: min at both ends, max in the
    middle, periodic over an orbit (SV3D, arXiv 2403.12008 sec. 3). trapezoid: max except for a
    tenth of the frames at either end (the original's plateau is 1 for any max). constant: max
    everywhere. Raises ValueError for another kind.
    """
    if kind == "linear":
        shape = np.linspace(0, 1, num_frames)
    elif kind == "triangle":
        t = np.linspace(0, 1, num_frames)
        shape = 2 * np.abs(t - np.floor(t + 0.5))
    elif kind == "trapezoid":
        edge = np.linspace(0, 1, int(num_frames * 0.1))
        shape = np.concatenate([edge, np.ones(num_frames - 2 * len(edge)), edge[::-1]])
    elif kind == "constant":
        shape = np.ones(num_frames)
    else:
        raise ValueError(f"guidance: found {kind!r}, expected one of {', '.join(GUIDANCES)}")
    return (min_scale + (max_scale - min_scale) * shape).astype(np.float32)


def guide(uncond, cond, scale):
    """Return uncond + scale * (cond - uncond): (F, C, h, w) tensors, scale (F, 1, 1, 1)."""
    return uncond + scale * (cond - uncond)
