"""What the tests of the hull share."""
import pytest

from sgm.reconstruct.hull import scene_box


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Where the object is, is sought on a grid of an eighth of the usual cells."""
    monkeypatch.setattr(scene_box, "LOW", 48)
