"""The video UNet against diffusers' UNetSpatioTemporalConditionModel."""
import numpy as np
import pytest
from sides import Side
from twins import FULL, SMALL, Case, draw_weights, ours, relative_error, theirs

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("stills", [False, True], ids=["moving", "partly stills"])
def test_two_videos(both, stills):
    """Two videos of different noise level, context and scalars; height and width differ."""
    found, expected = both(Case("unet", SMALL, frames=5, height=8, width=12, videos=2, stills=stills))
    assert relative_error(found["evaluate"], expected["evaluate"]) <= 2e-5


@pytest.mark.slow
def test_full_width(tmp_path):
    """1.52 billion parameters, 21 frames, 24 x 24 latents; one side after the other, each in a process of its own."""
    case = Case("unet", FULL, frames=21, height=24, width=24)
    weights = tmp_path / "weights.safetensors"
    try:
        with Side("draw", _draw, case, weights):
            pass
        outputs = []
        for name, build in (("ours", ours), ("theirs", theirs)):
            with Side(name, build, case, weights) as side:
                outputs.append(side.run("evaluate").output)
    finally:
        weights.unlink(missing_ok=True)     # 6 GB
    found, expected = outputs
    assert np.isfinite(expected).all()
    assert relative_error(found, expected) <= 5e-5


def _draw(case, path):
    draw_weights(case, path)
    return {}
