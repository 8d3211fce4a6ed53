"""The process that computes: its main thread does one job after the other, as the commands do.

`_app.jobs.Queue` starts `main` with the number of the pipe for what it tells. A job is a line of
JSON on stdin: kind ("views", "mesh", "fast" or "elevation"), argv (of image_to_mesh.py), folder and
elevation (of a mesh), scratch (folder for the preview). Ctrl-C (SIGINT) ends a job as it ends a
command. When stdin ends, so does the process.
"""
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import _feedforward
import image_to_mesh

import simple_video_sample
from _app.jobs import END
from sgm.common.cli import exit_code, loading
from sgm.common.errors import of_command
from sgm.common.progress import Chain, stage_begins
from sgm.config.model_files import load_spec
from sgm.config.reconstruction import load_mesh_spec
from sgm.reconstruct.stage_files import check_output, mesh_folder
from sgm.views.images import save_png
from sgm.views.media import contact_sheet

LEAVE_SECONDS = 15      # in which a job ends when the page is gone
SIDE = 48               # pixels of a preview's frames, at least


class Worker:
    """Does jobs; keeps the model between them. tell: gets a dict of what happens."""

    def __init__(self, tell):
        self.tell, self.model, self.named = tell, None, None        # the model, and which it is

    def do(self, job):
        """Do a job; return the exit code of the command that does the same."""
        args = image_to_mesh.parse(job["argv"])
        if self.named != (args.config, args.ckpt):      # one model at a time is in memory
            self.model, self.named = None, (args.config, args.ckpt)
        if args.feedforward:
            return self.feedforward(args, job["kind"])
        with of_command(image_to_mesh.RENAMED):
            spec = load_mesh_spec(args.mesh_config,
                                  [*args.mesh_set, *image_to_mesh.views_to_mesh.settings(args)])
        if job["kind"] == "views":
            return self.views(args, spec, Path(job["scratch"]))
        return self.mesh(args, spec, Path(job["folder"]), job["elevation"])

    def views(self, args, spec, scratch):
        """Make the views of an image."""
        def draw(i, steps, estimate):
            frames = estimate.sketch()
            factor = -(-SIDE // frames.shape[1])        # a pixel becomes a square
            frames = frames.repeat(factor, 1).repeat(factor, 2)
            save_png(scratch / "preview.png", contact_sheet(frames, columns=7))
            self.tell({"preview": i + 1})

        sampling = simple_video_sample.Sampling(args, True, self.model, draw)
        self.model = sampling.engine
        with Chain(planned(args, spec)[:1], tell=self.progress):
            return sampling.run()

    def feedforward(self, args, kind):
        """Make the mesh of an image in one pass, or only tell the elevation of its camera."""
        made = _feedforward.FeedForward(args, self.model)
        self.model = made.model
        if kind == "fast":
            return made.run(self.progress)
        with Chain([{"encode": 1}], tell=self.progress):
            stage_begins("encode")
            self.tell({"elevation": made.elevation()})
        return 0

    def mesh(self, args, spec, folder, elevation):
        """Make the mesh of a views folder."""
        check_output(mesh_folder(folder))
        with loading():
            from sgm import ops
        ops.set_device(args.device, args.device_id, args.mode)
        if args.distill:
            self.model = simple_video_sample.Sampling(args, engine=self.model).engine
        elif self.model is not None:
            self.model.release()
        meshes = image_to_mesh.Meshes(args, spec, self.model if args.distill else None,
                                      elevation=elevation)
        with Chain(planned(args, spec)[1:], tell=self.progress):
            return meshes.run([folder], True)

    def progress(self, state):
        """Tell the state of a Chain."""
        self.tell({"progress": state})


def planned(args, spec):
    """Return `image_to_mesh.planned` of flags: of the views, and of the mesh."""
    model = load_spec(args.config or "sv3d_tiny", simple_video_sample.overrides(args))
    steps = args.steps or model.sampling.steps
    return image_to_mesh.planned(model, steps, spec, args.distill)


def read_jobs(jobs):
    """Put the jobs on stdin into a queue, and None at its end, when the one that runs is ended."""
    for line in sys.stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)      # it may be waiting
    timer = threading.Timer(LEAVE_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()


def main():
    """Do jobs until stdin ends, or one is interrupted: MindSpore may be in any state then."""
    signal.signal(signal.SIGINT, signal.default_int_handler)    # nohup would have it ignored
    pipe, lock = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8"), threading.Lock()

    def tell(event):
        with lock:
            print(json.dumps(event), file=pipe, flush=True)

    worker, jobs, code = Worker(tell), queue.Queue(), 0
    threading.Thread(target=read_jobs, args=(jobs,), daemon=True).start()
    try:
        while code != 130 and (job := jobs.get()) is not None:
            try:
                code = exit_code("app.py", lambda _: worker.do(job), None,  # noqa: B023 - at once
                                 "cancelled; what was finished stays")
            except SystemExit as error:         # a flag that argparse refuses
                code = error.code
            print(END, flush=True)
            tell({"code": code})
    except KeyboardInterrupt:                   # between two jobs
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)    # the end of stdin sends one more
