"""Compares sets of shapes, given the distances between them (numpy and scipy)."""
import numpy as np
from scipy.spatial import cKDTree


def chamfer_matrix(first, second, progress=None):
    """Return the Chamfer distances (N, M) of two lists of points (P, 3).

    That is the mean distance to the nearest point there plus back, not squared. progress(items)
    wraps the loop over `first`.
    """
    trees = [cKDTree(points) for points in second]
    found = np.empty((len(first), len(second)))
    for i in progress(range(len(first))) if progress else range(len(first)):
        own = cKDTree(first[i])
        for j, (points, tree) in enumerate(zip(second, trees)):
            found[i, j] = tree.query(first[i])[0].mean() + own.query(points)[0].mean()
    return found


def coverage(distances):
    """Return which share of the references is the nearest of a sample; distances (samples, refs).

    Source: Achlioptas et al. 2018 (arXiv 1707.02392).
    """
    return len(set(distances.argmin(1))) / distances.shape[1]


def minimum_matching_distance(distances):
    """Return the mean over references of the distance to the nearest sample (same source)."""
    return float(distances.min(0).mean())


def nearest_neighbor_accuracy(samples, across, references):
    """Return how often the nearest other shape is of the same set: 1 apart, 0.5 indistinguishable.

    samples (N, N), across (N, M), references (M, M): distances. Source: Lopez-Paz and Oquab 2017
    (arXiv 1610.06545).
    """
    all_distances = np.block([[samples, across], [across.T, references]]).astype(float)
    np.fill_diagonal(all_distances, np.inf)
    of_samples = np.arange(len(all_distances)) < len(samples)
    return float((of_samples[all_distances.argmin(1)] == of_samples).mean())
