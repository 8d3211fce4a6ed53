"""Contact sheets of a feed-forward network's training: held-out objects as it reconstructs them."""
import numpy as np

from sgm.feedforward.meshes import with_opacity
from sgm.feedforward.rays import SV3D_INTRINSICS
from sgm.render.procedural import on_white
from sgm.train.feedforward.feedforward_batches import input_view
from sgm.train.run.validation import captioned
from sgm.views.images import as_levels
from sgm.views.metrics import compare


def draw_reconstructed(model, held_out, recipe):
    """Return (picture (H, W, 3) uint8, {"val_psnr_fg": dB, "val_iou": 0 .. 1}) of held-out objects.

    The figures are means over the views that are measured, of the first `recipe.sheet_clips`
    objects. held_out: their `ViewsOfInputs`, still.
    """
    rng, rows, found = np.random.default_rng(recipe.seed), [], []
    views, size = held_out.targets, held_out.stages[-1]
    for index in range(min(recipe.sheet_clips, len(held_out.clips))):
        source = held_out.inputs[-1]
        image = input_view(held_out.clips, held_out.spec, rng, index, source)[0][None]
        planes = model.planes(model.encode(image), held_out.camera(rng, index, source))
        made, opacity, _ = model.render(planes, held_out.poses(index, source, views),
                                        SV3D_INTRINSICS, (size, size))
        true = held_out.clips.pictures(index, views, size).transpose(0, 2, 3, 1)
        true[..., :3] /= np.maximum(true[..., 3:], 1e-3)
        made = with_opacity(made, opacity)
        true = as_levels(true)
        measured = [compare(a, b) for a, b in zip(made, true)]
        means = [float(np.mean([view[name] for view in measured])) for name in ("psnr_fg", "iou")]
        found.append(means)
        shown = as_levels(image[0].transpose(1, 2, 0))
        rows.append(captioned(f"object {index}: input, true; reconstructed; {means[0]:.1f} dB,"
                              f" silhouettes {means[1]:.2f}", [shown, *on_white(true)],
                              [np.full_like(shown, 255), *on_white(made)]))
    psnr, iou = np.mean(found, 0)
    return np.concatenate(rows), {"val_psnr_fg": float(psnr), "val_iou": float(iou)}
