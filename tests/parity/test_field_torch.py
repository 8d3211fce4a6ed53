"""The field's training step against PyTorch's autograd and Adam, on the same rays."""
from dataclasses import replace

import fields
import numpy as np
import pytest

pytestmark = pytest.mark.parity


def test_steps_agree(tmp_path):
    """Losses of 20 steps: those after the first hold the gradient and the optimizer as well."""
    small = {"resolutions": [4, 9], "hash_levels": 4, "hash_log2": 9, "hash_finest": 40, "width": 16, "side": 48}
    case = fields.Case({name: replace(settings, **small) for name, settings in fields.tasks(256, 16).items()})
    fields.draw_weights(case, tmp_path / "weights")
    ours, theirs = (side(case, tmp_path / "weights") for side in (fields.ours, fields.theirs))
    assert list(ours) == ["step, dense", "step, hash"]
    for task in ours:
        found, expected = (np.array([side[task]() for _ in range(20)]) for side in (ours, theirs))
        assert expected[-1, 0] < 0.9 * expected[0, 0]          # they learn, so that there is something to compare
        np.testing.assert_allclose(found, expected, rtol=3e-4)
