"""The image tower and its normalisation against transformers' CLIPVisionModelWithProjection."""
import pytest
from twins import SMALL, Case, relative_error

pytestmark = pytest.mark.parity


def test_embedding(both):
    found, expected = both(Case("clip", SMALL, frames=2))
    assert relative_error(found["embed"], expected["embed"]) <= 2e-5
