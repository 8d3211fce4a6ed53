"""Rough pictures of latents."""
import numpy as np

from sgm.diffusion import sketch


def test_map_that_made_latents_is_found_again():
    """Where latents are a linear map of the blocks' mean colors, the sketch is those colors."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (3, 24, 32)).astype(np.float32)
    means = pixels.reshape(3, 6, 4, 8, 4).mean((2, 4))
    latents = np.einsum("zc,chw->zhw", rng.standard_normal((4, 3)), means) + rng.standard_normal((4, 1, 1))
    colors = sketch.fitted(latents.astype(np.float32), pixels)
    drawn = sketch.drawn(np.stack([latents, latents[:, :, ::-1]]), colors)
    expected = (means.transpose(1, 2, 0) + 1) / 2 * 255
    assert drawn.shape == (2, 6, 8, 3) and drawn.dtype == np.uint8
    assert np.abs(drawn[0] + 0.5 - expected).max() < 1.5 and np.array_equal(drawn[1], drawn[0][:, ::-1])


def test_one_color_gives_that_color():
    colors = sketch.fitted(np.ones((4, 6, 8), np.float32), np.full((3, 24, 32), 0.5, np.float32))
    assert np.abs(sketch.drawn(np.ones((1, 4, 6, 8), np.float32), colors).astype(int) - 191).max() <= 1
    assert sketch.drawn(np.full((1, 4, 6, 8), 1e9), colors).max() == 255      # clipped
