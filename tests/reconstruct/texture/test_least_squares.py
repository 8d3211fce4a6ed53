"""Texture refinement against the dense solution of the same least squares."""
import numpy as np
import pytest

from sgm.reconstruct.texture import least_squares
from sgm.reconstruct.texture.least_squares import ANCHOR, FINE, refine

SIZE = 5


def dense(spots):
    """The matrix A (pixels, texels): bilinear samples of a texture, and their mean over a pixel, by loops."""
    matrix = np.zeros((len(spots), SIZE * SIZE))
    for row, samples in zip(matrix, spots):
        for x, y in np.clip(samples, 0, SIZE - 1.001):
            for texel in range(SIZE * SIZE):
                v, u = divmod(texel, SIZE)
                row[texel] += max(1 - abs(x - u), 0) * max(1 - abs(y - v), 0) / len(samples)
    return matrix


@pytest.fixture
def observed(monkeypatch):
    """40 pixels that look at the upper left of a texture: spots, colors, weights."""
    rng = np.random.default_rng(0)
    found = (rng.uniform(-0.3, 2.9, (40, FINE * FINE, 2)).astype(np.float32), rng.uniform(0.3, 0.6, (40, 3)).astype(np.float32),
             rng.uniform(0.2, 1, 40))
    monkeypatch.setattr(least_squares, "_observations", lambda *_: found)
    return found


def test_the_least_squares_solution(observed):
    spots, colors, weights = observed
    first = np.full((SIZE, SIZE, 3), 0.45, np.float32)
    texture, shown = refine(first, None, None, None, None, None, steps=200)
    a, w = dense(spots), weights[:, None]
    touched = (a > 0).any(0)
    np.testing.assert_array_equal(shown.reshape(-1), touched)
    assert touched.any() and not touched.all()
    anchor = ANCHOR * (a * w).sum(0)[touched].mean()        # the diagonal is made of A's row sums, which are 1
    expected = np.linalg.solve(a.T @ (w * a) + anchor * np.eye(SIZE * SIZE), a.T @ (w * colors) + anchor * 0.45)
    np.testing.assert_allclose(texture.reshape(-1, 3)[touched], expected[touched], atol=1e-6)
    np.testing.assert_array_equal(texture.reshape(-1, 3)[~touched], first.reshape(-1, 3)[~touched])


def test_an_interrupt_leaves_the_first_guess(observed):
    first = np.full((SIZE, SIZE, 3), 0.45, np.float32)
    texture, shown = refine(first, None, None, None, None, None, steps=200, stopped=["SIGINT"])
    assert texture is first and not shown.any()
