"""Encoder and temporal decoder against diffusers' AutoencoderKLTemporalDecoder."""
import pytest
from twins import SMALL, Case, relative_error

pytestmark = pytest.mark.parity


@pytest.fixture
def outputs(both):
    return both(Case("vae", SMALL, frames=5, height=6, width=10, videos=2))


def test_encode_and_decode(outputs):
    found, expected = outputs
    for moment in range(2):     # mean, log variance
        assert relative_error(found["encode"][moment], expected["encode"][moment]) <= 2e-5
    assert relative_error(found["decode"], expected["decode"]) <= 2e-5
