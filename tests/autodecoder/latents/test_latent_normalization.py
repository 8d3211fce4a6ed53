"""Robust normalization: what outliers do to it, its way back, and what is clipped."""
import numpy as np
import pytest

from sgm.autodecoder.latents.latent_normalization import clipped_share, robust_normalization


@pytest.mark.parametrize("std", [1.0, 0.5])
def test_bulk_gets_its_deviation_whatever_the_tails(std):
    """A hundredth of the numbers at 1e7: mean and deviation would be 1e5 and 1e6."""
    rng = np.random.default_rng(0)
    bulk = rng.normal(3, 2, 100_000).astype(np.float32)
    latents = np.concatenate([bulk, np.float32([1e7] * 500 + [-1e7] * 500)])
    rng.shuffle(latents)
    found = robust_normalization(latents, std, 8.0)
    assert abs(found.median - 3) < 0.05 and abs(found.deviation - 2) < 0.05
    normalized = found.apply(bulk)
    assert abs(normalized.mean()) < 0.02 and abs(normalized.std() - std) < 0.02
    assert found.apply(latents).max() == np.float32(8 * std) and found.apply(latents).min() == np.float32(-8 * std)
    np.testing.assert_allclose(found.invert(normalized), bulk, atol=1e-4)
    assert clipped_share(latents, found) == pytest.approx(1000 / 101_000, abs=1e-6)


def test_latents_that_are_all_alike():
    with pytest.raises(ValueError, match="half of all latents are the same number"):
        robust_normalization(np.zeros(100), 0.5, 8.0)
