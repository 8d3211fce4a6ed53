#!/usr/bin/env python3
"""The demonstration of `make demo`: what the embedded small model does, then one image to a mesh.

The model makes the orbit of a photograph; a mesh is made of 21 rendered views of a procedural
object that the model has never seen; at the end one picture of that object becomes a mesh.

  demo.py [--output outputs/demo]
"""
import argparse
import os
import sys
import time
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import Arguments, exit_code, loading, loudness
from sgm.render.seeds import HELD_BACK_SEEDS

ROOT = Path(__file__).resolve().parents[1]
SEED = HELD_BACK_SEEDS[3]
ELEVATION = 10


def environment():
    """Return how to use the Python of this run in a shell, as the end of a sentence."""
    folder = os.path.relpath(sys.prefix)
    if sys.prefix == sys.base_prefix:           # no environment of its own
        return f": {sys.executable} simple_video_sample.py --help"
    return (f", once in each shell: source {folder}/bin/activate (or call {folder}/bin/python"
            " instead of python)")


def main(argv=None):
    """Run the demonstration; return the exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"),
                        help="default outputs/demo")
    args = parser.parse_args(argv)
    started = time.time()
    with loading():
        import image_to_mesh
        import views_to_mesh

        import simple_video_sample
        from sgm.render.procedural import make_object
        from sgm.render.sets.folders import render_folders
        from sgm.render.sets.items import procedural_items
        from sgm.render.sets.settings import OrbitSettings
        from sgm.render.zbuffer import SOFT, render_views
        from sgm.views.cameras import FOV_DEG, Orbit
        from sgm.views.images import save_png

    # the photograph is cut out, and framed as the objects of the training were
    out, inputs = args.output, args.output / "inputs"
    sampling = ["--output", str(out), "--overwrite", "--elevation", str(ELEVATION), *loudness(args)]
    code = simple_video_sample.main(["--image", str(ROOT / "assets" / "coffee.png"),
                                     "--frame-ratio", "0.75", *sampling])
    if code:
        return code

    # rendered views, not the small model's: these show what the second half does with views that
    # agree
    settings = OrbitSettings(size=384, elevation=(ELEVATION, ELEVATION))
    render_folders(procedural_items([SEED]), out / "rendered", settings)
    code = views_to_mesh.main([str(out / "rendered" / f"{SEED:07d}"), "--config", "fast",
                               "--output", str(out / "mesh"), *loudness(args)])
    if code:
        return code

    # one picture to a mesh; it shows the object as in training, so nothing is cut out
    inputs.mkdir(parents=True, exist_ok=True)
    front = Orbit.static(ELEVATION).poses()[-1:]
    picture = render_views(make_object(SEED), front, 576, FOV_DEG, lighting=SOFT)[0]
    save_png(inputs / "object.png", picture)
    code = image_to_mesh.main([str(inputs / "object.png"), "--no-matte", "--mesh-config", "fast",
                               *sampling])
    if code:
        return code
    print(f"\n{time.time() - started:.0f} s. Look at\n"
          f"  {out}/coffee_23/contact.png  a photograph: the small model knows procedural objects"
          " only, so this shows the path, not the quality\n"
          f"  {out}/mesh/mesh.glb          a mesh of 21 rendered views of an object (also"
          " contact.png, turntable.gif)\n"
          f"  {out}/object_23/report.html  one picture of that object to a mesh: open it in a"
          " browser, it needs no network\n"
          f"For the next commands{environment()}. The README says how to use the published"
          " weights.")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("demo.py", main))
