"""Preconditioning against the reference's numbers."""
import numpy as np
from mindspore import Tensor
from support.goldens import TIGHT

from sgm.diffusion.denoiser import scalings


def test_scalings(math):
    results = scalings(Tensor(math["in/sigma"]))
    for name, ours in zip(("c_skip", "c_out", "c_in", "c_noise"), results):
        np.testing.assert_allclose(ours.asnumpy(), math[f"out/{name}"], **TIGHT, err_msg=name)
