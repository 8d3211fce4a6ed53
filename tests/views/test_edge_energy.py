"""Edge energy against a wave whose blur is known, KID against a sum by hand."""
import cv2
import numpy as np
import pytest

from sgm.views.metrics import ERODED, OCTAVES, edge_energy, edge_ratio, kid


def wave(period, amplitude=40):
    """Return a gray RGBA view whose luminance is a cosine along x, within a square."""
    x = np.arange(96)
    gray = np.round(128 + amplitude * np.cos(2 * np.pi * x / period)).astype(np.uint8)
    view = np.zeros((96, 96, 4), np.uint8)
    view[..., :3] = gray[None, :, None]
    view[8:88, 8:88, 3] = 255
    return view


def left(sigma, w):
    """Return what a sampled Gaussian, its weights normalized, leaves of a wave of frequency w."""
    k = np.arange(-20, 21)
    weights = np.exp(-k ** 2 / (2 * sigma ** 2))
    return (weights * np.cos(w * k)).sum() / weights.sum()


@pytest.mark.parametrize("period", (6, 12))
def test_a_wave_keeps_what_both_blurs_leave_of_it(period):
    w, amplitude = 2 * np.pi / period, 40 / 255
    expected = [(amplitude * (left(fine, w) - left(coarse, w))) ** 2 / 2
                for fine, coarse in OCTAVES]
    np.testing.assert_allclose(edge_energy(wave(period)), expected, rtol=0.06)


def test_a_blurred_view_has_less_and_the_finer_band_loses_more():
    view = wave(6)
    blurred = view.copy()
    blurred[..., :3] = cv2.GaussianBlur(view[..., :3], (0, 0), 1.5)
    fine, coarse = edge_ratio([blurred], [view])
    assert fine < 0.2 and coarse < 0.2
    np.testing.assert_allclose(edge_ratio([view], [view]), 1)


def test_the_outline_itself_is_no_edge():
    view = np.zeros((64, 64, 4), np.uint8)
    view[16:48, 16:48] = (0, 0, 0, 255)     # black on white
    np.testing.assert_allclose(edge_energy(view), 0, atol=1e-12)


def test_an_object_too_thin_to_look_inside_does_not_count():
    thin = np.zeros((64, 64, 4), np.uint8)
    thin[10:50, 30:30 + 2 * ERODED] = (90, 90, 90, 255)
    assert np.isnan(edge_energy(thin)).all()
    assert np.isnan(edge_ratio([thin], [thin])).all()
    np.testing.assert_allclose(edge_ratio([thin, wave(6)], [thin, wave(6)]), 1)


def test_kid_by_hand():
    """Two features a set, one number each: kernels (x y + 1)^3 summed by hand."""
    first, second = np.array([[0.0], [1.0]]), np.array([[2.0], [0.0]])
    # within: (0*1+1)^3 = 1 and (2*0+1)^3 = 1; between: 1, 1, 27, 1
    assert kid(first, second) == pytest.approx(1 + 1 - 2 * (1 + 1 + 27 + 1) / 4)


def test_kid_of_one_distribution_is_about_zero_and_of_two_is_not():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 400, 8))
    assert abs(kid(a, b)) < 0.05 < 1 < kid(a, b + 1)


def test_kid_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="one width"):
        kid(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="two or more"):
        kid(np.zeros((1, 3)), np.zeros((4, 3)))
