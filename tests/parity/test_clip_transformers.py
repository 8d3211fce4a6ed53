"""The image tower and the normalisation before it against transformers' CLIPVisionModelWithProjection."""
import pytest
from twins import SMALL, Case

pytestmark = pytest.mark.parity


def test_two_images(both, agree):
    found, expected = both(Case("clip", SMALL, frames=2))
    agree("parity clip", found["embed"], expected["embed"], 5e-6)
