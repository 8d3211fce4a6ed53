"""What the benchmarks of autodecoders share: posed views of packed sets, figures, kept results."""
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402

from sgm.autodecoder.object_folder import agreement, as_levels, seen_like  # noqa: E402
from sgm.autodecoder.object_model import of_diffusion  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.reconstruct.posed_views import PosedViews  # noqa: E402
from sgm.train.objects.masked_views import MaskedViews  # noqa: E402
from sgm.views.cameras import FOV_DEG, focal_length  # noqa: E402


def posed(views, index, numbers):
    """Return views of an object of a MaskedViews as PosedViews."""
    rgba = views.pictures(index, numbers).transpose(0, 2, 3, 1)
    fl = float(focal_length(views.size, FOV_DEG))
    return PosedViews(np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3]),
                      views.poses(index, numbers), fl, fl, views.size / 2, views.size / 2)


def figures(made, views):
    """Return the foreground PSNR and silhouette IoU of pictures (V, H, W, 4) uint8."""
    found = agreement(made, as_levels(views.rgb, views.mask))
    return found["psnr_fg"], found["iou"]


def seen(model, latent, views):
    """Return `figures` of a latent (8^3, C) against PosedViews."""
    return figures(seen_like(model, latent, views), views)


def trained_views(args, model):
    """Return the MaskedViews that the model was trained on. Raises InputError."""
    views = MaskedViews(args.data, model.spec.size)
    views.check_trained_on(model, args.ckpt)
    return views


def spread(count, total):
    """Return `count` numbers below `total`, evenly spread, as one set follows another."""
    return np.arange(count) * total // count


def weights_hash(model, diffusion=False):
    """Return a hash of an ObjectModel's embeddings and decoder; diffusion: of its denoiser, too."""
    found = hashlib.sha256()
    for parameter in model.get_parameters():
        if diffusion or not of_diffusion(parameter.name):
            found.update(parameter.name.encode() + parameter.asnumpy().tobytes())
    return found.hexdigest()[:16]


class Kept:
    """Results in files of a folder; a further call with the same settings makes only the missing.

    settings: what they follow from, {name: value}. Raises InputError if the folder has results of
    other settings.
    """

    FILE = "settings.json"

    def __init__(self, folder, settings):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if self.settings(folder) is None:
            with atomic(folder / self.FILE) as temporary:
                temporary.write_text(json.dumps(settings))
        elif self.settings(folder) != json.loads(json.dumps(settings)):
            raise InputError(f"--out {folder}: found results of other weights, data or steps,"
                             " expected those of this command; give another folder, or remove it")

    @classmethod
    def settings(cls, folder):
        """Return the settings of a folder, None if it has none."""
        path = folder / cls.FILE
        return json.loads(path.read_text()) if path.is_file() else None

    def __call__(self, name, make):
        """Return the arrays {name: array} of a file; make() returns them if they are missing."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            arrays = make()
            with atomic(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)
        with np.load(path) as found:
            return dict(found)


def add_model(parser):
    """Add the flags of the model."""
    parser.add_argument("--ckpt", required=True, help="weights of train.py")
    parser.add_argument("--model", default="autodecoder_small", help="default autodecoder_small")
    parser.add_argument("--data", nargs="+", required=True,
                        help="the packed sets that it was trained on, in their order")
