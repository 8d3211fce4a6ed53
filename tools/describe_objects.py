#!/usr/bin/env python3
"""Write what each object of a data set is, for the conditional diffusion of an autodecoder.

  describe_objects.py class data/rings64 --names procedural --out classes.safetensors
  describe_objects.py class data/furniture --names classes.csv --out classes.safetensors
  describe_objects.py image data/rings64 --out images.safetensors
  describe_objects.py image data/rings64 --tower sv3d_p --tower-ckpt sv3d_p.safetensors --out FILE

data: packed sets of render_orbits.py --pack, in the order in which train.py is given them. class:
--names is a CSV file with the columns name and class; the names are those in names.npy of the set.
image: the tokens that a model of views makes of several views of each object; training draws one of
them each time. The last line that is printed is what train.py needs besides.
Texts: a .safetensors file with `tokens` (objects, captions of each, tokens, width) float32 of any
text encoder will do; there is none here.
Exit code: 0 done, 2 wrong input, 130 interrupted (nothing is written then).
"""
import argparse
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import Arguments, check_folder, exit_code, int_range, loading
from sgm.common.progress import each

PROCEDURAL = "procedural"       # in place of a file: the kinds of procedural objects


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(prog="describe_objects.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("data", nargs="+", help="packed sets")
    common.add_argument("--out", type=Path, required=True, metavar="FILE",
                        help=".safetensors file to write")
    classes = commands.add_parser("class", parents=[common], help="classes from a list")
    classes.add_argument("--names", type=Path, required=True, metavar="FILE.csv",
                         help="columns name and class; or the word procedural: the kinds of"
                         " procedural objects")
    image = commands.add_parser("image", parents=[common], help="tokens of views")
    image.add_argument("--tower", default="sv3d_tiny", metavar="NAME|YAML",
                       help="model of views whose image tower is used (default sv3d_tiny)")
    image.add_argument("--tower-ckpt", metavar="FILE",
                       help="its weights (default: embedded, of sv3d_tiny only)")
    image.add_argument("--views", type=int_range(1, 1000), default=8,
                       help="views of each object, evenly spread (default 8)")
    image.add_argument("--size", type=int_range(8, 4096), default=64,
                       help="pixels that views are reduced to before the tower (default 64)")
    return parser.parse_args(argv)


def main(argv=None):
    """Write what the flags ask for; return the exit code."""
    args = parse(argv)
    check_folder(args.out.parent, "--out")
    with loading():
        from sgm.autodecoder.latents.conditions import Tower
        from sgm.train.objects.masked_views import MaskedViews
        from sgm.train.objects.object_conditions import write_labels, write_tokens
        from sgm.train.objects.object_describing import (
            kinds_of,
            listed_classes,
            names_of,
            sorted_classes,
            tokens_of,
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = f"conditions={args.out}"
    if args.command == "class":
        views = MaskedViews(args.data, 8)
        names = names_of(views.packed)
        classes, labels = sorted_classes(
            kinds_of(names) if str(args.names) == PROCEDURAL else listed_classes(names, args.names))
        write_labels(args.out, labels, classes, views.names_hash())
        count, more = len(labels), f"labels=[{','.join(classes)}]"
    else:
        views = MaskedViews(args.data, args.size)
        tokens = tokens_of(views.packed, Tower(args.tower, args.tower_ckpt), args.views,
                           lambda items: each(items, "tokens", "object", quiet=args.quiet))
        write_tokens(args.out, tokens, args.tower, views.names_hash())
        count, more = len(tokens), f"width={tokens.shape[-1]}"
        if args.tower != "sv3d_tiny":
            more += f" --model-set diffusion.condition.tower={args.tower}"
    print(f"{args.out}: {count} objects")
    print(f"train.py ... --set {settings} --model-set diffusion.condition.kind={args.command}"
          f" --model-set diffusion.condition.{more}")
    return 0


def run(argv=None):
    """Return the exit code of `main`; errors are one line."""
    return exit_code("describe_objects.py", main, argv, "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(run())
