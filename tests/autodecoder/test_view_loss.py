"""The objective of stage 1: what it renders in a batch is what the model shows of each object, square by square."""
import numpy as np
import pytest
from mindspore import Tensor
from support.small_autodecoder import CHANGES, write_objects, write_weights

from sgm.autodecoder.object_model import load_objects
from sgm.autodecoder.perceptual import MultiScaleGradients
from sgm.autodecoder.view_loss import ViewLoss
from sgm.config.autodecoding import load_autodecoder_spec
from sgm.config.recipe import Recipe
from sgm.train.objects.masked_views import MaskedViews
from sgm.train.objects.object_batches import ViewSquares

MASK_WEIGHT, LEVEL = 10.0, 1 / 255


@pytest.mark.parametrize("shared", [True, False])
def test_pictures_are_those_of_the_model(shared, tmp_path, pynative):
    """Two objects, with shared and with own cameras, on data that the model itself made; then on those of each other."""
    spec = load_autodecoder_spec("autodecoder_small", CHANGES)
    model = load_objects(spec, write_weights(tmp_path / "small.safetensors"), False)[0]
    folder = write_objects(tmp_path / "set", shared=shared)
    views = MaskedViews([str(folder)], 16)
    made = [model.render(model.latents_of([k], 1), views.poses(k), 16)[0] for k in range(3)]
    np.save(folder / "clips.npy", np.round(np.stack(made) * 255).astype(np.uint8))
    views = MaskedViews([str(folder)], 16)
    assert views.shared == shared
    recipe = Recipe(task="autodecoder", batch=2, views=2, crop=8)
    rows, *rays, target = ViewSquares(recipe, model, views, np.arange(6), still=True)(0)
    loss = ViewLoss(model, MultiScaleGradients(8), 2, 2, 8, MASK_WEIGHT, shared)
    inputs = [Tensor(value) for value in (rows, *rays)]
    np.testing.assert_allclose(loss.pictures(*inputs).asnumpy(), target, atol=1.1 * LEVEL)      # levels are rounded
    assert np.abs(target[:2] - target[2:]).mean() > 10 * LEVEL
    right = float(loss(*inputs, Tensor(target)))
    wrong = float(loss(*inputs, Tensor(np.concatenate([target[2:], target[:2]]))))
    opacity = MASK_WEIGHT * np.abs(target[:2, 3] - target[2:, 3]).mean()
    assert right < (MASK_WEIGHT + 20) * LEVEL and wrong > right + 0.9 * opacity
