"""The UNet's training step against diffusers' network with PyTorch's autograd and AdamW."""
from dataclasses import replace

import numpy as np
import pytest
import steps
import twins

pytestmark = pytest.mark.parity


def test_steps_agree(tmp_path):
    """Losses and gradient norms of six steps: those after the first hold the optimizer as well."""
    unet = replace(twins.SMALL.unet, channel_mult=[1, 2], num_res_blocks=1)     # compiles in a minute
    case = steps.case_of(replace(twins.SMALL, unet=unet), 3, 8)
    steps.draw_weights(case, tmp_path / "weights")
    ours, theirs = (side(case, tmp_path / "weights")["step"] for side in (steps.ours, steps.theirs))
    found, expected = (np.array([step() for _ in range(6)]) for step in (ours, theirs))
    assert expected[-1, 0] < 0.99 * expected[0, 0]              # it learns, so that there is something to compare
    np.testing.assert_allclose(found, expected, rtol=1e-4)
