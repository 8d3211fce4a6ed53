"""What the tests of textures share."""
import pytest
import trimesh


@pytest.fixture(scope="module")
def ball():
    return trimesh.creation.icosphere(5, 0.45)
