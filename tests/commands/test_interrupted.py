"""Full disk, Ctrl-C and kill -9 on real processes, and the same command again: finished folders stay, the rest gets done, and
nothing half-written counts as finished."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support.badfiles import object_on_white
from support.commands import tree
from support.paths import ROOT
from support.processes import running, stop, wait_until

from sgm.views.transforms import read_transforms

PROCEDURAL = ["tools/render_orbits.py", "procedural", "--count", "12", "--size", "32", "--frames", "4", "--workers", "2",
              "--out"]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for k, name in enumerate("abc"):
        object_on_white(48 + 16 * k).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def sample(image, output):
    return ["simple_video_sample.py", "--image", image, "--output", output, "--num-frames", "2", "--steps", "1", "--mode",
            "pynative"]


def finish(argv, largest_file=None):
    """(exit code, stderr) of a command that runs to its end."""
    with running(argv, largest_file) as process:
        said = process.communicate(timeout=300)[1]
        return process.returncode, said


def finished(folder):
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir()) if folder.exists() else []


def check_whole(folder, frames):
    """That a folder which is there under its name is a whole views folder."""
    cameras = read_transforms(folder)
    assert len(cameras.files) == frames
    for file in cameras.files:
        with Image.open(file) as image:
            image.load()


def leftovers(folder):
    return [path.name for path in folder.glob(".*")] if folder.exists() else []


# --- a full disk -----------------------------------------------------------------------------------------------------

def test_full_disk_while_rendering(tmp_path):
    # On a fresh clone the first rendering writes numba's cache, which does not fit either: let it be there.
    assert finish([*PROCEDURAL, tmp_path / "first", "--count", "1"])[0] == 0
    for more, limit in ([], 1500), (["--pack"], 50_000):
        out = tmp_path / f"out{len(more)}"
        argv = [*PROCEDURAL, out, *more]
        code, said = finish(argv, limit)
        assert code == 2 and said.strip().count("render_orbits.py: --out ") == 1 and "Traceback" not in said
        assert f"{out}" in said and "cannot be written (File too large); nothing was changed: raise the limit" in said
        assert not finished(out) and not leftovers(out)
        assert finish(argv)[0] == 0 and not leftovers(out)
    assert len(finished(tmp_path / "out0")) == 12
    assert np.load(tmp_path / "out1" / "clips.npy").any(axis=(1, 2, 3, 4)).all()


def test_full_disk_while_measuring(tmp_path):
    for k in range(2):
        object_on_white().save(tmp_path / f"{k:03d}.png")
    for flag, limit in (("--csv", 100), ("--sheet", 300)):
        argv = ["tools/evaluate.py", "views", tmp_path, tmp_path, flag, tmp_path / "result"]
        with running(argv, limit) as process:
            out, said = process.communicate()
        assert process.returncode == 2 and f"{tmp_path / 'result'}: cannot be written (File too large)" in said
        assert "PSNR" in out                        # the figures are printed all the same
        assert sorted(path.name for path in tmp_path.iterdir()) == ["000.png", "001.png"]


def test_full_disk_while_sampling(tmp_path, photos):
    argv = sample(photos / "a.png", tmp_path / "out")
    code, said = finish(argv, 12_000)
    assert code == 2 and "Traceback" not in said
    assert f"simple_video_sample.py: --output {tmp_path}/out/a_23: cannot be written: File too large; raise" in said
    assert not finished(tmp_path / "out") and not leftovers(tmp_path / "out")


@pytest.mark.parametrize("limit, status", [(400, 2), (3000, 2), (60_000, 0)])
def test_full_disk_while_a_video_is_written(limit, status, tmp_path):
    """Noise of two colours: small pictures, a small gif, a large mp4. A cut-off mp4 must not pass for a video."""
    code = ("import sys; sys.path.insert(0, '.'); import numpy as np\n"
            "from sgm.views.cameras import Orbit\nfrom sgm.common.cli import exit_code\nfrom sgm.views.folder import Views\n"
            "noise = 255 * np.random.RandomState(0).randint(0, 2, (21, 64, 64, 1)).astype(np.uint8)\n"
            "views = Views(noise.repeat(3, -1), noise[0].repeat(4, -1), Orbit.static(), {})\n"
            f"sys.exit(exit_code('save', lambda _: views.save({str(tmp_path / 'a')!r}, formats=('mp4',)) and 0))")
    code, said = finish(["-c", code], limit)
    assert code == status and "Traceback" not in said, said
    if status:
        assert "File too large; raise" in said and list(tmp_path.iterdir()) == []
    else:
        assert "views.mp4: cannot be written" in said and "views.gif holds the frames" in said
        check_whole(tmp_path / "a", 21)
        assert {"views.gif", "views.mp4"} & {path.name for path in (tmp_path / "a").iterdir()} == {"views.gif"}


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------

COMMANDS = ["train.py", "simple_video_sample.py",
            *(f"tools/{path.name}" for path in sorted((ROOT / "tools").glob("[!_]*.py")))]
# Python imports this on start: it interrupts the process as soon as the first module after sgm.common.startup is wanted.
INTERRUPT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("sgm.") and name not in ("sgm.common", "sgm.common.startup"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_modules_load(command, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    result = subprocess.run([sys.executable, str(ROOT / command), "--help"], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_while_rendering(tmp_path):
    with running([*PROCEDURAL, tmp_path / "out", "--count", "200"]) as process:
        wait_until(lambda: len(finished(tmp_path / "out")) > 2, process, "no folder yet")
        code, said = stop(process, signal.SIGINT)
    assert code == 130
    assert said.rstrip().endswith("render_orbits.py: interrupted; start again with the same options to continue")
    assert "Traceback" not in said and not leftovers(tmp_path / "out")
    for folder in finished(tmp_path / "out"):
        check_whole(folder, 4)


def test_ctrl_c_while_sampling(tmp_path, photos):
    """MindSpore answers Ctrl-C by killing the process, if it is let."""
    with running(sample(photos, tmp_path / "out")) as process:
        wait_until(lambda: finished(tmp_path / "out"), process, "no folder yet")
        code, said = stop(process, signal.SIGINT)
    assert code == 130 and said.rstrip().endswith("simple_video_sample.py: interrupted; finished folders stay")
    assert "Traceback" not in said and not leftovers(tmp_path / "out")
    assert [folder.name for folder in finished(tmp_path / "out")] == ["a_23"]
    check_whole(tmp_path / "out" / "a_23", 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_random_moments_of_sampling(number, tmp_path, photos):
    moments = random.Random(int(number))
    for moment in [moments.uniform(0.2, 3) for _ in range(3)] + [moments.uniform(3, 25) for _ in range(5)]:
        with running(sample(photos, tmp_path / "out")) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                code, said = stop(process, number)
                # while its modules load it ends at once, which a shell shows as 130 or 143
                assert code in (130, -number) and "Traceback" not in said and "Error" not in said, (moment, code, said)
        assert not leftovers(tmp_path / "out")
    for folder in finished(tmp_path / "out"):
        check_whole(folder, 2)


# --- kill -9 ---------------------------------------------------------------------------------------------------------

def children(process):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_kill_9_while_rendering_folders(kills, tmp_path):
    count, moments = max(12, 2 * kills), random.Random(kills)
    argv, whole = ([*PROCEDURAL, tmp_path / name, "--count", count] for name in ("out", "whole"))
    assert finish(whole)[0] == 0
    for kill in range(kills):
        before = {folder: folder.stat().st_ino for folder in finished(tmp_path / "out")}
        with running(argv) as process:
            wait_until(lambda: len(finished(tmp_path / "out")) > len(before) or len(before) > count - 4, process, kill)  # noqa: B023
            time.sleep(moments.uniform(0, 0.15))
            workers = children(process)
            stop(process, signal.SIGKILL)
            deadline = time.time() + 20
            while any(map(alive, workers)):         # they die with it, else they would write while the next run does
                assert time.time() < deadline, "a worker outlives its parent"
                time.sleep(0.01)
        for folder in finished(tmp_path / "out"):
            check_whole(folder, 4)
        assert {folder: folder.stat().st_ino for folder in before} == before
    assert finish(argv)[0] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and not leftovers(tmp_path / "out")


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_kill_9_while_packing(kills, tmp_path):
    argv, moments = [*PROCEDURAL, tmp_path / "out", "--pack"], random.Random(kills)
    assert finish([*PROCEDURAL, tmp_path / "whole", "--pack"])[0] == 0
    for _ in range(kills):
        with running(argv) as process:
            wait_until((tmp_path / "out.partial" / "render.json").exists, process, "not started")
            time.sleep(moments.uniform(0, 0.5))
            if process.poll() is None:
                stop(process, signal.SIGKILL)
        if (tmp_path / "out").exists():
            break
    assert finish(argv)[0] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and not (tmp_path / "out.partial").exists()


@pytest.mark.slow
def test_kill_9_while_sampling_a_folder(tmp_path, photos):
    argv, moments = sample(photos, tmp_path / "out"), random.Random(9)
    assert finish(sample(photos, tmp_path / "whole"))[0] == 0
    kept = {}
    for _ in range(6):
        with running(argv) as process:
            wait_until(lambda: len(finished(tmp_path / "out")) > len(kept) or leftovers(tmp_path / "out")  # noqa: B023
                       or process.poll() is not None or moments.random() < 0.002, process, "no folder yet")  # noqa: B023
            if process.poll() is None:
                stop(process, signal.SIGKILL)
        for folder in finished(tmp_path / "out"):
            check_whole(folder, 2)
            kept.setdefault(folder, folder.stat().st_ino)
        assert {folder: folder.stat().st_ino for folder in kept} == kept
    assert finish(argv)[0] == 0
    assert {folder: folder.stat().st_ino for folder in kept} == kept
    ours, theirs = (tree(tmp_path / name) for name in ("out", "whole"))
    assert ours.keys() == theirs.keys() and len(finished(tmp_path / "out")) == 3
    for name in ours:
        if not name.endswith("run.json"):           # which tells the seconds of its run
            assert ours[name] == theirs[name], name
        else:
            assert json.loads(ours[name])["seed"] == 23
