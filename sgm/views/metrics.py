"""Compares generated views with true ones: PSNR, foreground PSNR, SSIM, silhouette IoU.

PSNR is highest for the mean of what a view may show, which is blurred. `edge_ratio` and `kid` see
that: the energy of edges beside the truth's, and the distance between two sets of features.

Images are compared as stored (sRGB-coded), in [0, 1], composited on white. A view is uint8
(H, W, 3), or (H, W, 4) with straight alpha. numpy and OpenCV only.
"""
from __future__ import annotations

import cv2
import numpy as np

from sgm.views.images import over

METRICS = ("psnr", "psnr_fg", "ssim", "iou")
# levels of 255: without alpha, pixels nearer to white in every channel are background
WHITE_TOLERANCE = 12
MAX_PSNR = 100.0        # PSNR of identical images, so that means stay finite
# Each band is what is left between two Gaussian blurs, by their standard deviations in pixels.
OCTAVES = ((0.5, 1.0), (1.0, 2.0))
ERODED = 3              # pixels inside the silhouette from which its own edge is not counted
LUMA = (0.299, 0.587, 0.114)        # ITU-R BT.601
KID_DEGREE = 3


def on_white(view: np.ndarray) -> np.ndarray:
    """Return uint8 (..., 3 or 4) as float64 (..., 3) in [0, 1], composited on white as stored."""
    return view / 255.0 if view.shape[-1] == 3 else over(view)


def silhouette(view: np.ndarray) -> np.ndarray:
    """Return where the object is in uint8 (H, W, 3 or 4): bool (H, W).

    From alpha > 0.5 if the view has an alpha that goes below 0.5 anywhere; else pixels further
    than WHITE_TOLERANCE / 255 from white, with its holes filled (white parts of the object are not
    background).
    """
    if view.shape[-1] == 4 and view[..., 3].min() < 128:
        return view[..., 3] > 127
    return filled((255 - on_white(view) * 255 > WHITE_TOLERANCE + 1e-6).any(-1))


def filled(mask: np.ndarray) -> np.ndarray:
    """Return a mask (H, W) with its holes filled.

    What the border cannot reach through 4-neighbors is inside.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(padded, None, (0, 0), 2, flags=4)
    return padded[1:-1, 1:-1] != 2


def psnr(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB of images (H, W, 3) in [0, 1], at most MAX_PSNR.

    mask (H, W): where it is measured; an empty one gives MAX_PSNR.
    """
    error = np.square(first - second).mean(-1)
    if mask is not None:
        error = error[mask]
    mse = float(error.mean()) if error.size else 0.0
    return min(MAX_PSNR, -10 * np.log10(max(mse, 1e-10)))


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Return the structural similarity of images (H, W, 3) in [0, 1].

    Wang et al. 2004 with K1 = 0.01, K2 = 0.03: mean over channels, 7x7 uniform window, sample
    covariance, windows within the image only; as scikit-image's default. Raises ValueError for
    images under 7 pixels.
    """
    if min(first.shape[:2]) < 7:
        raise ValueError(f"images are {first.shape[1]} x {first.shape[0]} pixels; SSIM needs at"
                         " least 7 x 7")
    first = np.ascontiguousarray(first, np.float64)
    second = np.ascontiguousarray(second, np.float64)

    def window(image):
        return cv2.blur(image, (7, 7))[3:-3, 3:-3]

    a, b = window(first), window(second)
    sample = 49 / 48
    aa, bb = sample * (window(first * first) - a * a), sample * (window(second * second) - b * b)
    ab = sample * (window(first * second) - a * b)
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    above, below = (2 * a * b + c1) * (2 * ab + c2), (a * a + b * b + c1) * (aa + bb + c2)
    return float((above / below).mean())


def silhouette_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over union of two masks (H, W); 0 if one is empty, 1 if both are."""
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0


def compare(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the METRICS of one view, each uint8 (H, W, 3 or 4).

    The foreground is the union of both silhouettes.
    """
    a, b = on_white(prediction), on_white(truth)
    mask_a, mask_b = silhouette(prediction), silhouette(truth)
    return {"psnr": psnr(a, b), "psnr_fg": psnr(a, b, mask_a | mask_b), "ssim": ssim(a, b),
            "iou": silhouette_iou(mask_a, mask_b)}


def compare_orbit(prediction: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Return `compare` of views 0 .. T-2 of two orbits (T, H, W, 3 or 4) uint8.

    The last view is the input, and is skipped. Raises ValueError for orbits of other shapes.
    """
    if len(prediction) != len(truth) or prediction.shape[1:3] != truth.shape[1:3]:
        raise ValueError(f"predicted views are {prediction.shape[:3]} (views, height, width), true"
                         f" ones {truth.shape[:3]}; they must agree")
    return [compare(p, t) for p, t in zip(prediction[:-1], truth[:-1])]


def input_repeated(truth: np.ndarray) -> np.ndarray:
    """Return the baseline that answers every pose with the input view: (T, H, W, C)."""
    return np.repeat(truth[-1:], len(truth), axis=0)


def mean_of_orbit(truth: np.ndarray) -> np.ndarray:
    """Return the baseline that knows the true orbit but not the poses, (T, H, W, 3) uint8.

    It is the mean of views 0 .. T-2 on white.
    """
    mean = np.mean([on_white(view) for view in truth[:-1]], axis=0)
    return np.repeat(np.round(mean * 255).astype(np.uint8)[None], len(truth), axis=0)


def mean_metrics(views: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every metric over views or objects; that of PSNR is of the dB values."""
    return {key: float(np.mean([view[key] for view in views])) for key in METRICS}


def edge_energy(view: np.ndarray) -> np.ndarray:
    """Return the mean square of the luminance in each of OCTAVES, inside a view's silhouette.

    view: uint8 (H, W, 3 or 4). Luminance is that of pixels as stored, in [0, 1]. What lies outside
    the silhouette takes no part in the blurs, and ERODED pixels inside of it are not counted. NaN
    where nothing is left.
    """
    mask = silhouette(view)
    luminance = on_white(view) @ np.array(LUMA)
    inside = cv2.erode(np.pad(mask, 1).astype(np.uint8), None, iterations=ERODED)[1:-1, 1:-1] > 0
    if not inside.any():
        return np.full(len(OCTAVES), np.nan)
    return np.array([
        np.square(_blurred(luminance, mask, fine) - _blurred(luminance, mask, coarse))[
            inside].mean()
        for fine, coarse in OCTAVES
    ])


def _blurred(values, mask, sigma):
    """Return values (H, W) blurred within a mask: the mean of its pixels, weighted by distance."""
    weights = cv2.GaussianBlur(mask.astype(np.float64), (0, 0), sigma)
    blurred = cv2.GaussianBlur(values * mask, (0, 0), sigma)
    return blurred / np.maximum(weights, 1e-12)


def edge_ratio(predictions, truths) -> np.ndarray:
    """Return the edge energy of views beside that of the true ones, a number for each of OCTAVES.

    The sums over all pairs are compared, so that smooth objects do not count as much as detailed
    ones. NaN where no pair has pixels that count.
    """
    pairs = np.array([(edge_energy(a), edge_energy(b)) for a, b in zip(predictions, truths)])
    pairs = pairs[np.isfinite(pairs).all((1, 2))]
    if not len(pairs):
        return np.full(len(OCTAVES), np.nan)
    predicted, true = pairs.sum(0)
    return predicted / np.maximum(true, 1e-12)


def kid(first: np.ndarray, second: np.ndarray) -> float:
    """Return the kernel distance of two sets of features (N, D) and (M, D); 0 for one distribution.

    It is the unbiased estimate of the squared maximum mean discrepancy with the kernel
    (x.y / D + 1)^3, which can be a little below 0 (KID, Binkowski et al. 2018, arXiv 1801.01401).
    Raises ValueError for fewer than two features, or other widths.
    """
    if min(len(first), len(second)) < 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features are {first.shape} and {second.shape}, expected two or more"
                         " of one width in each set")
    first, second = (np.asarray(part, np.float64) for part in (first, second))

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** KID_DEGREE

    def within(part):
        values = kernel(part, part)
        return (values.sum() - np.trace(values)) / (len(part) * (len(part) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())
