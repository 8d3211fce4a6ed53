"""How sharp views are, and how much a set of them is like a set of true ones.

PSNR is highest for the mean of what a view may show, which is blurred. These two see that: the
energy of edges beside the truth's, and the distance between two sets of features. numpy and OpenCV
only.
"""
import cv2
import numpy as np

from sgm.views.metrics import on_white, silhouette

# Each band is what is left between two Gaussian blurs, by their standard deviations in pixels.
OCTAVES = ((0.5, 1.0), (1.0, 2.0))
ERODED = 3              # pixels inside the silhouette from which its own edge is not counted
LUMA = (0.299, 0.587, 0.114)        # ITU-R BT.601
KID_DEGREE = 3


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
