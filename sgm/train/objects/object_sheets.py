"""Contact sheets of an autodecoder's training: held-out views, and objects that were generated."""
import numpy as np

from sgm.autodecoder.latents.sampling import sample
from sgm.render.procedural import on_white
from sgm.train.run.validation import SIDE, captioned
from sgm.views.cameras import Orbit
from sgm.views.images import as_levels
from sgm.views.metrics import compare

ORBIT_VIEWS = 8         # of a generated object


def draw_held_out(model, squares, recipe):
    """Return (picture (H, W, 3) uint8, {"val_psnr_fg": dB, "val_iou": 0 .. 1}) of held-out views.

    The figures are means over the held-out views of `recipe.sheet_clips` objects, evenly spread.
    squares: the `ViewSquares` of these views.
    """
    views, numbers, rows, found = squares.clips, squares.numbers, [], []
    chosen = np.linspace(0, len(views) - 1, min(recipe.sheet_clips, len(views)))
    for index in chosen.round().astype(int):
        latents = model.latents_of([index], batch=1)
        made = as_levels(model.render(latents, views.poses(index, numbers), views.size)[0])
        true = views.pictures(index, numbers).transpose(0, 2, 3, 1)
        true[..., :3] /= np.maximum(true[..., 3:], 1e-3)
        true = as_levels(true)
        measured = [compare(a, b) for a, b in zip(made, true)]
        means = [float(np.mean([view[name] for view in measured])) for name in ("psnr_fg", "iou")]
        found.append(means)
        rows.append(captioned(f"object {index}: true, rendered; {means[0]:.1f} dB, silhouettes"
                              f" {means[1]:.2f}", on_white(true), on_white(made)))
    psnr, iou = np.mean(found, 0)
    return np.concatenate(rows), {"val_psnr_fg": float(psnr), "val_iou": float(iou)}


def draw_generated(model, held_out, recipe):
    """Return (picture (H, W, 3) uint8, {}) of `recipe.sheet_clips` objects that are sampled.

    held_out: not used, as none of them is known.
    """
    latents = sample(model, range(recipe.sheet_clips), recipe.sheet_steps)
    orbit = Orbit.static(20, ORBIT_VIEWS)
    rows = [captioned(f"seed {seed}", on_white(as_levels(views))) for seed, views in
            enumerate(model.render(latents, orbit.poses(), min(model.spec.size, SIDE)))]
    return np.concatenate(rows), {}
