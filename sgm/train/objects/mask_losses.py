"""Objects whose views contradict each other, by the loss of an autodecoder of their opacity.

The filter of Ntavelis et al. 2023 (arXiv 2307.05445), appendix C.1: an autodecoder is trained on
masks alone, and objects of unusually high loss are dropped. It needs no labels.
"""
import numpy as np

from sgm.autodecoder.latents.latent_normalization import QUARTILES

BATCH = 8


def mask_losses(model, views, count=8, progress=None):
    """Return the mean absolute error of the opacity of each object, (N,).

    model: an ObjectModel that was trained on `views`, a MaskedViews of `sgm.train`. count: views of
    each object, evenly spread, of which every second pixel each way is compared. progress(iterable,
    description) wraps the loop.
    """
    chosen = np.unique(np.linspace(0, views.num_frames - 1, count).round().astype(int))
    batch = min(BATCH, len(views)) if views.shared else 1
    losses, starts = [], range(0, len(views), batch)
    for start in progress(starts, "losses of masks") if progress else starts:
        some = np.arange(start, min(start + batch, len(views)))
        latents = model.latents_of(np.resize(some, batch), batch)
        rays = [part[:, ::2, ::2].reshape(-1, 3) for part in views.rays(some[0], chosen)]
        made = model.render_rays(model.volumes_of(latents), *rays)[..., 3]
        for opacity, index in zip(made, some):
            true = views.pictures(index, chosen)[:, 3, ::2, ::2]
            losses.append(np.abs(opacity - true.reshape(-1)).mean())
    return np.array(losses)


def deviations(losses):
    """Return by how many robust standard deviations each loss lies above the median, (N,)."""
    low, median, high = np.percentile(losses, (25, 50, 75))
    return (losses - median) / max(QUARTILES * (high - low), 1e-12)
