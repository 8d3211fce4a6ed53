"""What the page does when somebody does something, without a browser."""
import sys

import app
import pytest
from _app.jobs import Job
from _app.studio import Studio

gr = pytest.importorskip("gradio", reason="needs requirements-app.txt")


@pytest.fixture
def studio(tmp_path):
    args = app.parse(["--output", str(tmp_path / "out")])
    made = Studio(args, app.models(args), None, [sys.executable, "-c", "pass"])
    (tmp_path / "out" / "cup_23").mkdir()
    (tmp_path / "out" / "cup_23" / "run.json").write_text("{}")
    yield made
    made.close()


def known(studio, kind, folder, state):
    job = Job(kind, folder, {}, studio.scratch / folder, state=state)
    studio.queue.known[job.id] = job
    return job


def test_an_estimate_is_told_once_and_leaves_the_result_open(studio):
    from _app.page import Handlers
    do, job = Handlers(studio, "en"), known(studio, "elevation", "cup_23", "running")
    status, cancel, result, seen, _, elevation = do.look("cup_23", job.id, None)
    assert "cup_23: begins" in status and cancel.interactive and "<h3>cup_23</h3>" in result and elevation == gr.skip()
    job.state, job.elevation = "done", 27.3
    status, cancel, result, seen, _, elevation = do.look("cup_23", job.id, seen)
    assert "about 27°" in status and not cancel.interactive and result == gr.skip() and elevation == 27
    assert do.look("cup_23", job.id, seen)[5] == gr.skip()
    other = known(studio, "elevation", "cup_23", "done")
    other.elevation = 27.3
    assert do.look("cup_23", other.id, seen)[5] == 27, "asked once more, after the slider was moved"


def test_cancel_ends_the_estimate_before_the_job_of_the_open_result(studio, monkeypatch):
    from _app.page import Handlers
    do, ended = Handlers(studio, "en"), []
    monkeypatch.setattr(studio.queue, "cancel", ended.append)
    asked, job = known(studio, "elevation", "cup", "running"), known(studio, "mesh", "cup_23", "waiting")
    do.stop("cup_23", asked.id)
    asked.state = "done"
    do.stop("cup_23", asked.id)
    job.state = "done"
    do.stop("cup_23", asked.id)
    do.stop(None, None)
    assert ended == [asked, job]
