"""What the tests of the field's training and of depth share."""
import pytest
from support.colored_ball import ball_views


@pytest.fixture(scope="module")
def views():
    return ball_views()
