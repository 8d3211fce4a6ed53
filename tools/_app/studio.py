"""What a server has: model, pictures, jobs, results; and how a user's wish becomes a job."""
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from _app import forms
from _app.cutouts import Cutouts
from _app.jobs import Queue
from _app.results import Results, plain
from sgm.common.cli import MAX_SEED
from sgm.common.errors import InputError
from sgm.config.lrm import load_lrm_spec
from sgm.config.model import ModelSpec
from sgm.config.yaml_reader import ConfigError

TOOLS = Path(__file__).resolve().parents[1]
EMBEDDED = "sv3d_tiny"          # the model without --config
# Starts the computing process. Until it is ready, Ctrl-C ends it without a word.
WORKER = ("import signal; signal.signal(signal.SIGINT, signal.SIG_DFL);"
          " from _app.worker import main; main()")


class Model(NamedTuple):
    """A model that the page offers: its ModelSpec, and the flags by which image_to_mesh.py has it.
    """
    spec: ModelSpec
    argv: list


class Studio:
    """Everything behind the page, without the page.

    models: {name: Model}; spec: that of the first one; fast: the LrmSpec of the feed-forward
    network, or None; estimates: whether that has an estimator of the elevation; uploads: the folder
    for the toolkit's copies.
    args: flags of tools/app.py; models: Models, of which the first is chosen at the beginning;
    fast_argv: flags of a feed-forward network, None without one. command: of the computing process,
    by default `_app.worker`.
    Raises ConfigError.
    """

    def __init__(self, args, models, fast_argv=None, command=None):
        self.models, self.spec = {model.spec.name: model for model in models}, models[0].spec
        names = [model.spec.name for model in models]
        if len(self.models) < len(names):
            name = max(names, key=names.count)
            raise ConfigError(f"--also: found two models of the name {name}, expected different"
                              " ones; give one of them another name in a YAML file")
        for model in models:
            if not model.spec.is_orbit:
                raise ConfigError(f"--config: found {model.spec.name}, which makes a video without"
                                  " cameras, expected models of orbits: sv3d_u, sv3d_p")
        self.fast = load_lrm_spec(args.fast_config) if args.fast_config else None
        self.estimates = self.fast is not None and self.fast.elevation_width > 0
        self.device = args.device
        self.output = f"--output={Path(args.output).absolute()}"
        self.fast_argv = fast_argv
        self.results = Results(args.output)
        self.cutouts = Cutouts(self.spec.height)
        self.scratch = Path(tempfile.mkdtemp(prefix="sv3d-app-"))
        self.jobs, self.uploads = self.scratch / "jobs", self.scratch / "uploads"
        self.jobs.mkdir()
        self.uploads.mkdir()
        paths = [str(TOOLS), os.environ.get("PYTHONPATH")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.queue = Queue(command or [sys.executable, "-c", WORKER], self.jobs, environment,
                           lambda line: print(line, flush=True), self.results.folder)

    def open_upload(self, path):
        """Return (token, Cutout) of a file that the toolkit has received. Raises InputError."""
        place = Path(path).resolve()
        if not place.is_relative_to(self.uploads.resolve()):
            raise InputError("found a path, expected an uploaded file")
        return self.cutouts.add(place.name, place.read_bytes())

    def make_views(self, token, form):
        """Return the Job of the views of an uploaded picture. Raises InputError."""
        model = self.models[forms.one_of(form, "model", tuple(self.models))]
        argv = [*model.argv, self.output, *forms.views_argv(form, model.spec.sampling)]
        ending = f"_{forms.whole(form, 'seed', 0, MAX_SEED)}"
        return self._add("views", token, ending, argv)

    def make_fast(self, token, form):
        """Return the Job of the mesh of an uploaded picture in one pass. Raises InputError."""
        if self.fast_argv is None:
            raise InputError("found no feed-forward network, expected --fast-config when the page"
                             " was started")
        elevation = forms.number(form, "elevation", -89, 89)
        argv = [*self.fast_argv, self.output, f"--elevation={elevation:g}"]
        return self._add("fast", token, "", argv)

    def estimate(self, token):
        """Return the Job that estimates the elevation of a picture's camera. Raises InputError."""
        if not self.estimates:
            raise InputError("elevation: found no network with an estimator of it, expected"
                             " --fast-config lrm_small when the page was started")
        stem = plain(self.cutouts.get(token).stem)
        return self._queue("elevation", token, stem, stem, [*self.fast_argv, self.output])

    def _add(self, kind, token, ending, argv):
        """Queue a job of a picture, whose results are in a folder of its name and an ending."""
        stem = self.results.free_name(self.cutouts.get(token).stem, ending)
        folder = f"{stem}{ending}"
        try:
            return self._queue(kind, token, stem, folder, argv)
        except Exception:
            self.results.release(folder)
            raise

    def _queue(self, kind, token, stem, folder, argv):
        """Queue a job of a picture, which is written as stem.png for it."""
        scratch = Path(tempfile.mkdtemp(dir=self.jobs))
        try:
            image = scratch / f"{stem}.png"
            self.cutouts.save(token, image)
            return self.queue.add(kind, folder, {"argv": [str(image), *argv]}, scratch)
        except Exception:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def make_mesh(self, name, form):
        """Return the Job of the mesh of a result. Raises InputError."""
        found = self.results.get(name)
        if found is None or "transforms.json" not in found.files or "stages" not in found.run:
            raise InputError("found no views, expected some: make them first, or open a result")
        job = self.queue.of(name)
        if job is not None and not job.is_over:
            raise InputError(f"{name}: is being worked on already; cancel that first, or wait")
        model = self.models.get(str(found.run.get("model")))
        argv, elevation = forms.mesh_argv(form, may_distill=model is not None)
        model = model or self.models[self.spec.name]
        folder = self.results.folder / name
        return self.queue.add("mesh", name, {
            "argv": [str(folder / "input.png"), *model.argv, self.output, *argv],
            "folder": str(folder), "elevation": elevation})

    def close(self):
        """End all jobs, keeping what they can, and remove what is temporary."""
        try:
            self.queue.close()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
