"""How near generated views are to true ones: PSNR, foreground PSNR, SSIM, silhouette IoU (numpy and OpenCV only).

Images are compared as stored (sRGB-coded), in [0, 1], composited on white.  A view counts as uint8 (H, W, 3) or
(H, W, 4) with straight alpha.
"""
from __future__ import annotations

import cv2
import numpy as np

from sgm.views.images import over

METRICS = ("psnr", "psnr_fg", "ssim", "iou")
WHITE_TOLERANCE = 12    # of 255: what is nearer to white in every channel is background, where there is no alpha
MAX_PSNR = 100.0        # of identical images, so that means stay finite


def on_white(view: np.ndarray) -> np.ndarray:
    """uint8 (..., 3 or 4) -> float64 (..., 3) in [0, 1], composited on white as stored."""
    return view / 255.0 if view.shape[-1] == 3 else over(view)


def silhouette(view: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3 or 4) -> bool (H, W): where the object is.

    From alpha > 0.5 if the view has an alpha that goes below 0.5 anywhere; else whatever is further than
    WHITE_TOLERANCE / 255 from white, with its holes filled (white parts of the object are not background).
    """
    if view.shape[-1] == 4 and view[..., 3].min() < 128:
        return view[..., 3] > 127
    return filled((255 - on_white(view) * 255 > WHITE_TOLERANCE + 1e-6).any(-1))


def filled(mask: np.ndarray) -> np.ndarray:
    """bool (H, W) -> the mask with its holes filled: what the border cannot reach through 4-neighbours is inside."""
    padded = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(padded, None, (0, 0), 2, flags=4)
    return padded[1:-1, 1:-1] != 2


def psnr(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images (H, W, 3) in [0, 1], over a mask (H, W) if given; at most MAX_PSNR.

    An empty mask means nothing to be wrong about: MAX_PSNR.
    """
    error = np.square(first - second).mean(-1)
    if mask is not None:
        error = error[mask]
    mse = float(error.mean()) if error.size else 0.0
    return min(MAX_PSNR, -10 * np.log10(max(mse, 1e-10)))


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of images (H, W, 3) in [0, 1]: mean over channels, 7x7 uniform window, sample covariance.

    Wang et al. 2004 with K1 = 0.01, K2 = 0.03; windows that leave the image are not counted.  Same choices as
    scikit-image's default.  Raises ValueError for images under 7 pixels.
    """
    if min(first.shape[:2]) < 7:
        raise ValueError(f"images are {first.shape[1]} x {first.shape[0]} pixels; SSIM needs at least 7 x 7")
    first, second = np.ascontiguousarray(first, np.float64), np.ascontiguousarray(second, np.float64)

    def window(image):
        return cv2.blur(image, (7, 7))[3:-3, 3:-3]

    a, b = window(first), window(second)
    sample = 49 / 48
    aa, bb = sample * (window(first * first) - a * a), sample * (window(second * second) - b * b)
    ab = sample * (window(first * second) - a * b)
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    return float((((2 * a * b + c1) * (2 * ab + c2)) / ((a * a + b * b + c1) * (aa + bb + c2))).mean())


def silhouette_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks (H, W); 0 if one is empty, 1 if both are."""
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0


def compare(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The METRICS of one view, each uint8 (H, W, 3 or 4); the foreground is the union of both silhouettes."""
    a, b, mask_a, mask_b = on_white(prediction), on_white(truth), silhouette(prediction), silhouette(truth)
    return {"psnr": psnr(a, b), "psnr_fg": psnr(a, b, mask_a | mask_b), "ssim": ssim(a, b),
            "iou": silhouette_iou(mask_a, mask_b)}


def compare_orbit(prediction: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """`compare` of views 0 .. T-2 of two orbits (T, H, W, 3 or 4) uint8; the last view is the input, and is skipped."""
    if len(prediction) != len(truth) or prediction.shape[1:3] != truth.shape[1:3]:
        raise ValueError(f"predicted views are {prediction.shape[:3]} (views, height, width), true ones "
                         f"{truth.shape[:3]}; they must agree")
    return [compare(p, t) for p, t in zip(prediction[:-1], truth[:-1])]


def input_repeated(truth: np.ndarray) -> np.ndarray:
    """The baseline that answers every pose with the input view: (T, H, W, C)."""
    return np.repeat(truth[-1:], len(truth), axis=0)


def mean_of_orbit(truth: np.ndarray) -> np.ndarray:
    """The baseline that knows the true orbit but no pose: the mean of views 0 .. T-2 on white, (T, H, W, 3) uint8."""
    mean = np.mean([on_white(view) for view in truth[:-1]], axis=0)
    return np.repeat(np.round(mean * 255).astype(np.uint8)[None], len(truth), axis=0)


def mean_metrics(views: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over views (or objects); PSNR is the mean of the views' PSNR."""
    return {key: float(np.mean([view[key] for view in views])) for key in METRICS}
