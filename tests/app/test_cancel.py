"""Cancel at every stage of every kind of job: the process ends with 130, what was finished stays, the next job works."""
import json
import os
import queue
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from _app import worker
from _app.jobs import Queue
from _app.studio import WORKER
from PIL import Image
from support.badfiles import object_on_white
from support.commands import tree
from support.paths import ROOT
from support.small_lrm import CHANGES

from sgm import ops
from sgm.common.progress import Chain
from sgm.config.model_files import load_spec
from sgm.config.reconstruction import load_mesh_spec
from sgm.diffusion.pipeline import run_record
from sgm.feedforward.reconstructor import load_lrm
from sgm.ops import device
from sgm.ops.profiling import StageTimer
from sgm.reconstruct.pipeline import Reconstruction
from sgm.views.folder import Views

VIEWS, MESH = worker.image_to_mesh.planned(load_spec("sv3d_tiny"), 3, load_mesh_spec("fast"), True)
FAST = worker._feedforward.PLANNED
SMALL = ["--config=lrm_small", "--ckpt=random", *(f"--set={text}" for text in [*CHANGES, "volume.threshold=0.3"]), "--faces=500", "--format=png"]


@pytest.fixture
def main(tmp_path, monkeypatch):
    """main(job, stage) -> the exit code of the computing process for a job, which is sent Ctrl-C when a stage begins."""
    begin, handler = Chain.begin, signal.getsignal(signal.SIGINT)
    object_on_white().save(tmp_path / "cup.png")
    monkeypatch.setattr(device, "wait", lambda: None)
    monkeypatch.setattr(ops, "wait", lambda: None)

    def do(kind, *flags, stage=None, **more):
        jobs, begun, (read, write) = queue.Queue(), [], os.pipe()
        jobs.put({"kind": kind, "argv": [str(tmp_path / "cup.png"), f"--output={tmp_path / 'out'}", *flags],
                  "scratch": str(tmp_path), **more})
        jobs.put(None)

        def begins(chain, name):
            begin(chain, name)
            begun.append(name)
            if name == stage:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Chain, "begin", begins)
        monkeypatch.setattr(worker, "read_jobs", lambda given: [given.put(jobs.get()) for _ in range(2)])
        monkeypatch.setattr(sys, "argv", ["app", str(write)])
        try:
            worker.main()
        finally:
            signal.signal(signal.SIGINT, handler)
        os.set_blocking(read, False)
        with os.fdopen(read) as events:
            code = [json.loads(line) for line in events][-1]["code"]
        assert stage is None or begun[-1] == stage, "it ended there"
        do.begun = begun
        return code
    return do


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_views(main, out, monkeypatch):
    """With a model that takes no time: no folder is left, and a finished one of another seed stays."""
    engine = SimpleNamespace(precision="Float32", is_random=False, weights=None, release=lambda: None)

    def generate_views(engine, image, orbit, options, **callbacks):
        timer = StageTimer()
        for name in VIEWS:
            with timer(name):
                pass
        frames = np.full((len(orbit), *image.shape[:2], 3), 255, np.uint8)
        frames[:, 16:48, 16:48] = (200, 40, 40)
        run = {**run_record(engine, orbit, options.of_model(engine.spec)), "stages": timer.log}
        return Views(frames, image, orbit, run)

    monkeypatch.setattr("sgm.diffusion.pipeline.load_model", lambda model, ckpt, dtype, overrides, lora, ema: SimpleNamespace(
        **vars(engine), spec=load_spec(model, overrides)))
    monkeypatch.setattr("sgm.diffusion.pipeline.generate_views", generate_views)
    flags = ["--num-frames=3", "--format=png"]
    assert main("views", *flags, "--seeds=1") == 0 and main.begun == list(VIEWS)
    before = tree(out)
    for stage in VIEWS:
        assert main("views", *flags, stage=stage) == 130 and tree(out) == before, stage
        assert [path.name for path in out.iterdir()] == ["cup_1"]
    assert main("views", *flags) == 0 and (out / "cup_23" / "run.json").is_file()


def test_mesh(main, out, monkeypatch):
    """With stages that take no time: those of the views folder and of an earlier mesh stay."""
    def run(self):
        for name in MESH:
            with self.timer(name):
                pass
        for file in self.outdated:
            file.unlink(missing_ok=True)
        (self.output / "work").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(self.output / "contact.png")
        (self.output / "mesh.glb").write_bytes(b"glTF")
        self.report = {"views": {"world": "the world of the poses"}, "mesh": {"faces": 192, "watertight": True}, "doubts": [],
                       "interrupted": False, "stages": self.timer.log}

    monkeypatch.setattr(Reconstruction, "_run", run)
    monkeypatch.setattr(worker.image_to_mesh._html_report, "write", lambda folder, *_: (folder / "report.html").write_text("page"))
    folder = out / "cup_23"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"image": {}, "model": "sv3d_tiny", "seed": 23, "steps": 3, "device": "CPU",
                                                 "versions": {}, "stages": {}}))
    given = {"folder": str(folder), "elevation": None}
    assert main("mesh", "--mesh-config=fast", stage="nerf", **given) == 130 and list(tree(out)) == ["cup_23/run.json"]
    assert main("mesh", **given) == 0 and main.begun == list(MESH)
    before = tree(out)
    assert {"cup_23/report.html", "cup_23/report.json", "cup_23/mesh/mesh.glb"} <= set(before)
    for stage in MESH:
        assert main("mesh", "--mesh-config=fast", stage=stage, **given) == 130 and tree(out) == before, stage
    assert main("mesh", "--mesh-config=fast", **given) == 0 and tree(out) != before


def test_fast_mesh_and_estimate(main, out, monkeypatch, uncompiled):
    """With a small network, which computes all of it."""
    network = load_lrm("lrm_small", "random", [one.removeprefix("--set=") for one in SMALL if one.startswith("--set=")])
    monkeypatch.setattr("sgm.feedforward.reconstructor.load_lrm", lambda *_: network)
    monkeypatch.setattr("sgm.feedforward.reconstructor.POINTS", 4096)
    assert main("elevation", *SMALL, stage="encode") == 130 and not out.exists()
    assert main("fast", *SMALL, stage="planes") == 130 and not [name for name in tree(out) if "mesh" in name]
    assert main("fast", *SMALL) == 0 and main.begun == list(FAST)
    before = tree(out)
    assert {"cup/report.html", "cup/report.json", "cup/mesh/mesh.glb"} <= set(before)
    for stage in FAST:
        assert main("fast", *SMALL, "--elevation=20", stage=stage) == 130 and tree(out) == before, stage
    assert main("fast", *SMALL, "--elevation=20") == 0
    assert json.loads((out / "cup" / "report.json").read_text())["elevation"] == 20


# The process with jobs that do what their first flag says.
PROCESS = """
import sys, time
from _app import worker
def do(process, job):
    print("does", job["argv"], flush=True)
    process.tell({"progress": {"stage": job["argv"]}})
    if job["argv"] == "refused":
        worker.image_to_mesh.parse(["--seeds"])
    if job["argv"] == "long":
        time.sleep(60)
    return 0
worker.Worker.do = do
"""


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_process_ends_when_it_is_cancelled_or_alone(tmp_path):
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "tools"))
    setup, start = WORKER.rsplit("; from", 1)
    made = Queue([sys.executable, "-c", f"{setup}\n{PROCESS}\nfrom{start}"], tmp_path, {**os.environ, "PYTHONPATH": paths})

    def over(job):
        until(lambda: job.is_over)
        return job.state, list(job.lines)

    try:
        # 1. a flag that argparse refuses fails its job only
        state, lines = over(made.add("views", "a", {"argv": "refused"}))
        first = made.process
        assert state == "failed" and "--seeds" in lines[-1] and not [line for line in lines if "Traceback" in line]
        assert over(made.add("views", "b", {"argv": "quick"})) == ("done", ["does quick"]) and made.process is first
        # 2. Ctrl-C between two jobs ends it without a word, and the next job has another one
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 0
        job = made.add("views", "c", {"argv": "long"})
        until(lambda: job.progress)
        made.cancel(job)
        state, lines = over(job)
        assert state == "cancelled" and lines[0] == "does long" and lines[-1] == "app.py: cancelled; what was finished stays"
        # 3. the end of its stdin, when the page is gone, ends the job that runs as Ctrl-C does
        job = made.add("views", "d", {"argv": "long"})
        until(lambda: job.progress)
        made.process.stdin.close()
        state, lines = over(job)
        assert state == "cancelled" and lines[-1] == "app.py: cancelled; what was finished stays"
        assert over(made.add("views", "e", {"argv": "quick"}))[0] == "done"
        last = made.process
    finally:
        made.close()
    last.wait(20)
