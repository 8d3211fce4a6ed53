#!/usr/bin/env python3
"""Find objects of a data set whose views contradict each other, without labels.

  train.py --model_cfg autodecoder_small --train_cfg --set color_weight=0 --set hold_out=0
  filter_objects.py data/rings64 --ckpt runs/autodecoder_small/averaged.safetensors --out losses.csv
  filter_objects.py data/rings64 --ckpt FILE --out losses.csv --kept data/rings64_kept

An autodecoder that was trained on the masks of the set alone (color_weight=0) cannot explain
silhouettes that no shape has; objects with an unusually high loss are dropped (arXiv 2307.05445,
appendix C.1). --out gets the loss of each object, how many robust standard deviations above the
median it is, and whether it is kept. --kept writes a packed set of those.
data: packed sets of render_orbits.py --pack, in the order in which train.py was given them.
Exit code: 0 done, 2 wrong input, 130 interrupted (nothing is written then).
"""
import argparse
import csv
import shutil
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import Arguments, check_folder, exit_code, float_range, int_range, loading
from sgm.common.errors import InputError
from sgm.common.files import atomic
from sgm.common.progress import each, say

STARTS, NOTE = "starts.npy", "render.json"      # that a packed set may have


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(prog="filter_objects.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", nargs="+", help="packed sets")
    add("--ckpt", required=True, metavar="FILE", help="weights of stage 1, trained on these sets")
    add("--model", default="autodecoder_small", metavar="NAME|YAML",
        help="a name in configs/autodecoder or a YAML file (default autodecoder_small)")
    add("--out", type=Path, required=True, metavar="FILE.csv", help="losses of all objects")
    add("--kept", type=Path, metavar="DIR", help="packed set to write, of the kept objects")
    add("--limit", type=float_range(0, 1000), default=3.0,
        help="robust standard deviations above the median from which an object is dropped"
        " (default 3)")
    add("--views", type=int_range(1, 1000), default=8,
        help="views of each object that are compared, evenly spread (default 8)")
    add("--device", choices=("CPU", "Ascend"), default="CPU", help="default CPU")
    add("--device-id", type=int_range(0, 1023), default=0, help="which NPU (default 0)")
    return parser.parse_args(argv)


def main(argv=None):
    """Write the losses, and the kept objects if asked for; return the exit code."""
    args = parse(argv)
    check_folder(args.out.parent, "--out")
    if args.kept:
        check_folder(args.kept.parent, "--kept")
        if args.kept.exists():
            raise InputError(f"--kept {args.kept}: exists already, expected a new folder; remove"
                             " it, or give another")
    with loading():
        import numpy as np

        from sgm import ops
        from sgm.autodecoder.pipeline import load_autodecoder
        from sgm.train.objects.mask_losses import deviations, mask_losses
        from sgm.train.objects.masked_views import MaskedViews
        from sgm.train.objects.object_describing import names_of
    ops.set_device(args.device, args.device_id)
    model = load_autodecoder(args.model, args.ckpt).model
    views = MaskedViews(args.data, model.spec.size)
    views.check_trained_on(model, args.ckpt)
    names = names_of(views.packed)
    losses = mask_losses(model, views, args.views,
                         lambda items, text: each(items, text, "batch", quiet=args.quiet))
    if not np.isfinite(losses).all():
        raise InputError(f"{args.ckpt}: found losses that are not finite, expected numbers: the"
                         " weights are damaged or their training diverged")
    above = deviations(losses)
    kept = above <= args.limit
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(args.out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "loss", "deviations", "kept"])
        writer.writerows([name, f"{loss:.6f}", f"{far:.2f}", int(keep)]
                         for name, loss, far, keep in zip(names, losses, above, kept))
    say(f"{args.out}: {(~kept).sum()} of {len(kept)} objects are dropped"
        + "".join(f"\n  {names[k]}: loss {losses[k]:.4f}, {above[k]:.1f} deviations"
                  for k in (-above).argsort()[:10] if not kept[k]))
    if args.kept:
        write_kept(args.kept, views.packed, kept, names)
        say(f"{args.kept}: {kept.sum()} objects")
    return 0


def write_kept(folder, packed, kept, names):
    """Write a packed set of the objects that are kept, all of it or nothing.

    What synthesize.py noted of its clips, and the settings of render_orbits.py where all sets have
    the same, are kept, too.
    """
    import numpy as np
    clips = [clip for clip, keep in zip(packed.items, kept) if keep]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic(folder) as place:
        place.mkdir()
        for name in ("clips", "azimuths", "elevations"):
            rows = [clip.arrays[name][clip.row] for clip in clips]
            array = np.lib.format.open_memmap(place / f"{name}.npy", "w+", rows[0].dtype,
                                              (len(rows), *rows[0].shape))
            for row, values in enumerate(rows):
                array[row] = values
            array.flush()
        np.save(place / "names.npy", np.array([name for name, keep in zip(names, kept) if keep]))
        if all((clip.folder / STARTS).is_file() for clip in clips):
            starts = [np.load(clip.folder / STARTS)[clip.row] for clip in clips]
            np.save(place / STARTS, np.array(starts))
        notes = {clip.folder / NOTE for clip in clips}
        if all(map(Path.is_file, notes)) and len({note.read_text() for note in notes}) == 1:
            shutil.copyfile(notes.pop(), place / NOTE)


def run(argv=None):
    """Return the exit code of `main`; errors are one line."""
    return exit_code("filter_objects.py", main, argv, "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(run())
