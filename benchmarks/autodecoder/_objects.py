"""What the benchmarks of autodecoders share: posed views of packed sets, latents, features."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402

from sgm.autodecoder.object_folder import agreement, as_levels, seen_like  # noqa: E402
from sgm.reconstruct.posed_views import PosedViews  # noqa: E402
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
    from sgm.common.errors import InputError
    from sgm.train.objects.masked_views import MaskedViews
    views = MaskedViews(args.data, model.spec.size)
    if len(views) != model.spec.objects:
        raise InputError(f"{args.ckpt}: found weights of {model.spec.objects} objects, expected"
                         f" those of the {len(views)} of --data")
    return views


def add_model(parser):
    """Add the flags of the model."""
    parser.add_argument("--ckpt", required=True, help="weights of train.py")
    parser.add_argument("--model", default="autodecoder_small", help="default autodecoder_small")
    parser.add_argument("--data", nargs="+", required=True,
                        help="the packed sets that it was trained on, in their order")
