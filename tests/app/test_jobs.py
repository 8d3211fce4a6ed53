"""The queue of the web page, with a process that does nothing but what a job says."""
import signal
import sys
import textwrap
import threading
import time

import pytest
from _app import jobs
from _app.jobs import Queue

from sgm.common.errors import InputError

PROCESS = """
    import json, os, sys, time
    pipe = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    tell = lambda **event: print(json.dumps(event), file=pipe)
    for line in sys.stdin:
        job, code = json.loads(line), 0
        print("process", os.getpid(), job["do"], flush=True)
        tell(progress={"stage": job["do"]})
        try:
            if job["do"] == "draw":
                open(os.path.join(job["scratch"], "preview.png"), "w").close()
                tell(preview=1)
            if job["do"] == "complain":
                print(f"{job['scratch']}/cup.png: no picture; {os.getcwd()}/results/cup: nothing", flush=True)
            if job["do"] == "estimate":
                tell(elevation=12.5)
            if job["do"] == "die":
                os._exit(7)
            if job["do"] in ("wait", "stubborn", "draw", "slow", "late"):
                time.sleep(60)
            code = job.get("code", 0)
        except KeyboardInterrupt:
            if job["do"] == "stubborn":
                time.sleep(60)
            if job["do"] == "slow":
                time.sleep(1)
                open("mesh", "w").close()
            code = 130
        if job["do"] == "late":         # the signal came when all was done
            print("\\0", flush=True)
            tell(code=0)
            time.sleep(0.3)
            break
        if job["do"] != "silent":
            print("\\0", flush=True)
        tell(code=code)
        if code == 130:
            break
"""


@pytest.fixture
def queue(tmp_path):
    (tmp_path / "process.py").write_text(textwrap.dedent(PROCESS))
    made = Queue([sys.executable, "-S", str(tmp_path / "process.py")], tmp_path, output=tmp_path / "results")
    yield made
    made.close()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def over(*found):
    until(lambda: all(job.is_over for job in found))
    return [job.state for job in found]


def test_jobs_are_done_in_order_by_one_process(queue):
    codes = [0, 2, 3, 1]
    made = [queue.add("views", f"cup{code}", {"do": "nothing", "code": code}) for code in codes]
    assert over(*made) == ["done", "failed", "doubtful", "failed"]
    assert len({job.lines[0].split()[1] for job in made}) == 1
    assert not any(job.scratch.exists() for job in made) and made[0].progress == {"stage": "nothing"}
    assert queue.of("cup2") is made[1] and queue.of("mug") is None


def test_estimate_is_kept_with_its_job(queue):
    first, second = queue.add("elevation", "a", {"do": "estimate"}), queue.add("views", "b", {"do": "nothing"})
    assert over(first, second) == ["done", "done"] and (first.elevation, second.elevation) == (12.5, None)


def test_folders_of_the_machine_are_left_out_of_what_is_said(queue):
    job = queue.add("views", "a", {"do": "complain"})
    assert over(job) == ["done"] and job.lines[-1] == "cup.png: no picture; cup: nothing"


def test_places_count_the_job_that_runs(queue):
    first, second, third = (queue.add("views", name, {"do": "wait"}) for name in "abc")
    until(lambda: first.state == "running")
    assert [queue.place(job) for job in (first, second, third)] == [0, 1, 2]
    assert queue.unfinished() == [first, second, third]
    queue.cancel(second)
    assert (second.state, queue.place(third)) == ("cancelled", 1)


def test_cancelled_job_ends_and_the_next_begins_in_a_new_process(queue):
    first, second = queue.add("views", "a", {"do": "draw"}), queue.add("views", "b", {"do": "nothing"})
    until(lambda: first.steps_drawn)
    assert first.preview.is_file()
    queue.cancel(first)
    assert over(first, second) == ["cancelled", "done"]
    assert first.lines[0].split()[1] != second.lines[0].split()[1] and not first.scratch.exists()


def test_a_second_cancel_ends_what_does_not_listen(queue):
    job = queue.add("mesh", "a", {"do": "stubborn"})
    until(lambda: job.progress)
    queue.cancel(job)
    time.sleep(0.2)
    assert job.state == "running" and job.cancelled == 1
    queue.cancel(job)
    assert over(job) == ["cancelled"]


def test_cancel_that_comes_too_late_leaves_the_next_job_alone(queue, monkeypatch):
    """Before the process tells that it is done, which then ends, and after that: nothing is signalled."""
    monkeypatch.setattr(jobs, "SAID_SECONDS", 1)
    first, second = queue.add("views", "a", {"do": "late"}), queue.add("views", "b", {"do": "silent"})
    until(lambda: first.progress)
    queue.cancel(first)
    until(lambda: second.code == 0)
    assert first.state == "done" and not second.is_over
    third = queue.add("views", "c", {"do": "nothing"})
    queue.cancel(second)
    assert over(second, third) == ["done", "done"] and not second.cancelled
    processes = [job.lines[0].split()[1] for job in (first, second, third)]
    assert processes[0] != processes[1] == processes[2]


def test_job_is_waited_for_when_the_page_ends(queue, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "END_SECONDS", 0.1)
    said = []
    queue.log = said.append
    job = queue.add("mesh", "cup", {"do": "slow"})
    until(lambda: job.progress)
    queue.close()
    assert job.state == "cancelled" and (tmp_path / "mesh").is_file() and queue.process.poll() is not None
    assert said[-1] == "cup: is being cancelled; what is finished stays. Ctrl-C again ends it at once"


def test_second_ctrl_c_of_the_page_ends_what_does_not_listen(queue):
    job = queue.add("mesh", "cup", {"do": "stubborn"})
    until(lambda: job.progress)
    timer = threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    queue.close()
    timer.join()
    assert job.state == "cancelled" and queue.process.poll() == -signal.SIGKILL


def test_process_that_dies_fails_its_job_only(queue):
    first, second = queue.add("views", "a", {"do": "die"}), queue.add("views", "b", {"do": "nothing"})
    assert over(first, second) == ["failed", "done"]
    assert first.lines[-1] == "the computing process ended unexpectedly (exit code 7)"


def test_process_that_cannot_start_fails_its_job(tmp_path):
    broken = Queue([str(tmp_path / "nothing")], tmp_path)
    job = broken.add("views", "a", {})
    assert over(job) == ["failed"] and "No such file" in job.lines[-1]
    broken.close()


def test_a_full_queue_refuses(queue, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_WAITING", 1)
    first = queue.add("views", "a", {"do": "wait"})
    until(lambda: first.state == "running")
    second = queue.add("views", "b", {"do": "wait"})
    with pytest.raises(InputError, match="the queue is full"):
        queue.add("views", "c", {"do": "wait"})
    queue.close()
    assert over(first, second) == ["cancelled", "cancelled"] and queue.process.poll() is not None


def test_jobs_that_are_over_are_forgotten(queue, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_KEPT", 3)
    made = []
    for number in range(5):
        made.append(queue.add("views", str(number), {"do": "nothing"}))
        over(made[-1])
    assert list(queue.known.values()) == made[-3:]
