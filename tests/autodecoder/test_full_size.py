"""The paper's models at full size, with random weights: an embedding becomes a latent, a volume and a view."""
import numpy as np
import pytest

from sgm.autodecoder.object_model import VOXELS, ObjectModel
from sgm.config.autodecoding import load_autodecoder_spec
from sgm.models.initialization import initialize
from sgm.views.cameras import Orbit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chairs", "celebv", "objaverse", "tables"])
def test_one_forward_pass(name):
    """The last, of 128^3, takes 4.4 GB."""
    model = ObjectModel(load_autodecoder_spec(f"autodecoder_{name}"))
    initialize(model, 0)
    latents = model.latents_of([5], batch=1)
    assert latents.shape == (1, VOXELS, 256) and np.isfinite(latents).all() and latents.std() > 0.1
    view = model.render(latents, Orbit.static(10, 4).poses()[:1], 64)
    assert view.shape == (1, 1, 64, 64, 4) and np.isfinite(view).all()
    assert 0.02 < view[..., 3].mean() < 0.9 and view[..., 3].std() > 0.05
    model.release()
