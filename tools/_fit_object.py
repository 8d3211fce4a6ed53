"""Fits an unseen object for generate_objects.py, and what its objects note of a run."""
import hashlib
import sys
import time

import numpy as np

from sgm.common.cli import until_stopped
from sgm.common.errors import InputError
from sgm.common.progress import Bar, say


def digest(*arrays):
    """Return a short hash of numbers."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array, np.float32).tobytes())
    return found.hexdigest()[:32]


def common_record(args, objects):
    """Return what run.json says of every object."""
    import mindspore

    from sgm import __version__
    from sgm.autodecoder.pipeline import EMBEDDED
    from sgm.checkpoints.loading import file_hash
    return {"model": objects.spec.name, "model_set": args.model_set, "elevation": args.elevation,
            "checkpoint": "random" if args.ckpt == "random" else file_hash(
                args.ckpt or EMBEDDED[1]),
            "size": args.size or objects.spec.size, "device": args.device,
            "versions": {"sgm": __version__, "mindspore": mindspore.__version__}}


class Fitting:
    """The object that views show. finished: its folder after `run`."""

    def __init__(self, args, objects, orbit):
        from sgm.autodecoder.fitting import STEPS
        self.args, self.objects, self.orbit, self.finished = args, objects, orbit, []
        place = args.fit.resolve()
        self.name = f"fit_{place.parent.name if place.is_file() else place.name}"
        self.views = objects.read(args.fit, args.fit_views, not args.quiet)
        self.steps = args.fit_steps or STEPS
        files = [path.name for path in self.views.files]
        given = digest(self.views.rgb, self.views.mask, self.views.c2w, self.views.intrinsics)
        self.record = {**common_record(args, objects), "fit_steps": self.steps,
                       "fitted": {"views": files, "hash": given}}

    def run(self):
        """Fit and write the object; return the exit code."""
        from sgm.autodecoder.object_folder import (
            agreement,
            as_levels,
            is_made,
            seen_like,
            write_object,
        )
        from sgm.render.procedural import on_white
        from sgm.train.run.validation import captioned
        from sgm.views.images import save_png
        args, folder = self.args, self.args.output / self.name
        if is_made(folder, self.record, args.overwrite):
            say(f"{folder}: finished already, skipped")
            self.finished = [self.name]
            return 0
        began = time.monotonic()
        with until_stopped() as stopped:
            found, latents = self.objects.fitter.fit(self.views, self.steps, 0, str(args.fit),
                                                     Shown(args.quiet), stopped)
        made = seen_like(self.objects.model, latents[0], self.views)
        true = as_levels(self.views.rgb, self.views.mask)
        figures = agreement(made, true)
        text = f"{figures['psnr_fg']:.1f} dB on the object, silhouettes {figures['iou']:.2f}"
        sheet = captioned(f"{self.name}: given, fitted; {text}", on_white(true), on_white(made))
        try:
            mesh = self.objects.mesh(latents[0])
        except InputError as error:
            shown = args.output / f"{self.name}.png"
            save_png(shown, sheet)
            raise InputError(f"{error}; {shown} shows what was found") from None
        views = self.objects.render(latents[0], self.orbit, args.size)
        record = {**self.record, "nearest_object": found.nearest,
                  "metrics": {name: round(float(value), 4) for name, value in figures.items()},
                  "seconds": round(time.monotonic() - began, 1)}
        if stopped:             # it can be made again, with all steps
            record["fit_steps"] = "interrupted"
        write_object(folder, views, self.orbit, mesh, record, sheet, args.overwrite)
        self.finished = [self.name]
        say(f"{folder}: {len(mesh.faces)} faces; {len(self.views)} views: {text}")
        if stopped:
            print("generate_objects.py: interrupted; the object is as far as it came",
                  file=sys.stderr)
            return 130
        return 0


class Shown:
    """Shows the stages of a fit, a bar each."""

    def __init__(self, quiet):
        self.quiet, self.stage, self.bar = quiet, None, None

    def __call__(self, stage, done, total, text=""):
        """Show that `done` of `total` parts of a stage are done."""
        if stage != self.stage:
            self.stage, self.bar = stage, Bar(total, stage, quiet=self.quiet)
        self.bar.say(text)
        self.bar.update(done - self.bar.done)
        if done == total:
            self.bar.close()
