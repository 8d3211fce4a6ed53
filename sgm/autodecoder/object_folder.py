"""What is written of an object: a views folder of ours with its mesh, and sheets of several."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from sgm.reconstruct.posed_views import PosedViews
from sgm.views.folder import Views, check_replaceable, check_same, is_finished
from sgm.views.images import read_image, write_png
from sgm.views.metrics import compare, mean_metrics
from sgm.views.transforms import write_transforms

MESH, FITTED = "mesh.glb", "fitted.png"


def is_made(folder, run, overwrite=False):
    """Return whether a folder holds what a run would write and need not make again.

    Raises ViewsError if something else is in it, or without `overwrite` if it was made otherwise.
    """
    check_replaceable(folder)
    if not is_finished(folder) or overwrite:
        return False
    check_same(folder, run)
    return True


@dataclass(repr=False)
class ObjectViews(Views):
    """A views folder of an object whose shape is known: its alpha is its own, its mesh is with it.

    frames (T, S, S, 4) uint8, straight alpha; mesh: a TexturedMesh; sheet: a picture (H, W, 3) for
    fitted.png.
    """
    mesh: object = None
    sheet: Optional[np.ndarray] = None

    def rgba(self):
        """Return the frames."""
        return self.frames

    def _write(self, folder, background, fps, formats):
        for k, view in enumerate(self.frames):
            write_png(folder / f"{k:03d}.png", view)
        write_transforms(folder, self.orbit, self.frames.shape[1])
        self.mesh.save(folder / MESH)
        if self.sheet is not None:
            write_png(folder / FITTED, self.sheet)
        files = sorted(path.name for path in folder.iterdir())
        (folder / "run.json").write_text(json.dumps({**self.run, "files": [*files, "run.json"]},
                                                    indent=1))


def write_object(folder, views, orbit, mesh, run, sheet=None, overwrite=False):
    """Write 000.png ..., transforms.json, mesh.glb and run.json, all of them or nothing.

    run: what run.json says; the others: see `ObjectViews`, `Views.save`. Raises ViewsError.
    """
    ObjectViews(views, None, orbit, run, mesh=mesh, sheet=sheet).save(
        folder, formats=(), overwrite=overwrite)


def views_of(folder):
    """Return the views of a written object, (T, S, S, 4) uint8."""
    files = sorted(Path(folder).glob("[0-9][0-9][0-9].png"))
    return np.stack([read_image(file, lambda image: np.asarray(image.convert("RGBA")))
                     for file in files])


def as_levels(rgb, mask):
    """Return premultiplied colors (..., 3) and opacity (...) as straight RGBA uint8."""
    rgba = np.concatenate([rgb / np.maximum(mask, 1e-3)[..., None], mask[..., None]], -1)
    return np.round(rgba.clip(0, 1) * 255).astype(np.uint8)


def seen_like(model, latent, views: PosedViews):
    """Return a latent (8^3, C) from the cameras of views: (V, H, W, 4) uint8, straight alpha."""
    places = (part.reshape(-1) for part in np.indices(views.mask.shape))
    made = model.render_rays(model.volumes_of(latent[None]), *views.rays(*places))[0]
    made = made.reshape(*views.mask.shape, 4)
    return as_levels(made[..., :3], made[..., 3])


def agreement(made, true):
    """Return the mean metrics of views (V, H, W, 4) uint8 against true ones, see `views.metrics`.
    """
    return mean_metrics([compare(a, b) for a, b in zip(made, true)])
