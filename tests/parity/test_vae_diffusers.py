"""Encoder and temporal decoder against diffusers' AutoencoderKLTemporalDecoder."""
import pytest
from twins import SMALL, Case

pytestmark = pytest.mark.parity


def test_two_videos(both, agree):
    """Two videos, each its own chunk; height and width differ."""
    found, expected = both(Case("vae", SMALL, frames=5, height=6, width=10, videos=2))
    for i, moment in enumerate(("mean", "log variance")):
        agree(f"parity vae {moment}", found["encode"][i], expected["encode"][i], 5e-6)
    agree("parity vae decode", found["decode"], expected["decode"], 5e-6)
