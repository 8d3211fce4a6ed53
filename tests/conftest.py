"""What the tests of the networks share: the goldens, networks with the goldens' weights, the measure of an error."""
import inspect
import logging
import os
import shutil
import signal
import sys
from collections import Counter
from functools import cache
from types import SimpleNamespace

os.environ["GLOG_v"] = "3"              # MindSpore's log level, read when it is imported: errors only
# Without graphs, an operator after the other: MindSpore's pipeline of threads that hand them on takes twelve times as long
# where they share a core (10 s or 0.8 s for the small UNet), and names a later operator in an error.
os.environ["MS_DEV_LAUNCH_BLOCKING"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Workers have cores of their own, and so MindSpore as many threads: two that share theirs are three times slower.
    number, workers = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[number::workers] or os.sched_getaffinity(0))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from support.badfiles import object_on_white  # noqa: E402
from support.goldens import PACKAGED, golden_file, golden_weight  # noqa: E402

_measured = {}
# The files that take longest begin first: none of them runs when the other worker has nothing left to do.
LONGEST = ("test_samplers", "test_scene_box", "test_unet", "test_train", "test_train_objects", "test_graphs", "test_golden",
           "test_views_to_mesh", "test_interrupted", "test_simple_video_sample", "test_batches", "test_bad_input",
           "test_refinement", "test_training", "test_trainer", "test_engine")
# As a shell has them in the background, and nohup: tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption("--errors", action="store_true", help="print the largest error measured against each golden")


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--errors") and _measured:
        terminalreporter.section("largest relative L2 error, and its limit")
        for what, (error, limit) in sorted(_measured.items()):
            terminalreporter.write_line(f"{error:9.2e} {limit:7.0e}  {what}")


@cache
def load_golden(name):
    return load_file(golden_file(f"{name}.safetensors"))


@pytest.fixture(scope="session")
def golden():
    """golden("unet_svd") -> {name: array} of tests/golden/unet_svd.safetensors."""
    return load_golden


@pytest.fixture(scope="session")
def math(golden):
    """The reference's noise levels, preconditioning, guidance and weights of losses."""
    return golden("diffusion_math")


def numpy_of(x):
    return x.asnumpy() if hasattr(x, "asnumpy") else np.asarray(x)


def l2_error(ours, theirs):
    """|ours - theirs| / |theirs| in float64; NaN anywhere makes it NaN, which no limit admits."""
    ours, theirs = (numpy_of(x).astype(np.float64) for x in (ours, theirs))
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))


@pytest.fixture(scope="session")
def relative_error():
    """relative_error(ours, theirs) -> float; shapes must be equal."""
    return l2_error


@pytest.fixture(scope="session")
def agree():
    """agree(what, ours, theirs, limit=2e-5): asserts the relative L2 error. `what` is its line under --errors."""
    def check(what, ours, theirs, limit=2e-5):
        error = l2_error(ours, theirs)
        _measured[what] = max((error, limit), _measured.get(what, (0.0, limit)))
        assert error <= limit, f"{what}: relative L2 error {error:.3g}, at most {limit:.0e} allowed"
    return check


def fill(cell, prefix=""):
    """Give every parameter of `cell` its golden weight, that of the key prefix + name; -> cell."""
    from mindspore import Tensor
    for name, parameter in cell.parameters_and_names():
        parameter.set_data(Tensor(golden_weight(prefix + name, parameter.shape)))
    return cell


@pytest.fixture(scope="session")
def filled():
    """filled(cell, prefix) -> cell, its parameters having the goldens' weights."""
    return fill


@pytest.fixture(scope="session")
def tiny_spec():
    """tiny_spec("sv3d_p") -> the ModelSpec of a golden, from the reference implementation's own YAML file."""
    from sgm.config.model_files import load_spec
    return lambda name: load_spec(PACKAGED / f"tiny_{name}.yaml")


@pytest.fixture(scope="session")
def tiny_engine(tiny_spec):
    """tiny_engine("sv3d_p") -> an Engine with the goldens' weights, made once. Tests must not change its weights."""
    from sgm.diffusion.engine import Engine

    @cache
    def make(name):
        return fill(Engine(tiny_spec(name)))
    return make


@pytest.fixture(autouse=True)
def graphs_afterwards():
    """A command with --mode pynative leaves graphs switched off; the next test finds them switched on."""
    yield
    if "sgm.ops" in sys.modules:
        sys.modules["sgm.ops"].set_jit(True)


@pytest.fixture(autouse=True)
def log_level_afterwards():
    """A command sets how much its log says; the next test finds what Python begins with."""
    yield
    logging.getLogger("sgm").setLevel(logging.NOTSET)


@pytest.fixture
def pynative():
    """Graphs switched off for one test."""
    from sgm import ops
    ops.set_jit(False)
    yield
    ops.set_jit(True)


@pytest.fixture
def uncompiled(monkeypatch):
    """The same for commands, which switch graphs on themselves: where a network's graph is not what a test is about."""
    monkeypatch.setattr("sgm.ops.compiled", lambda function: function)


@pytest.fixture
def norm_eps(monkeypatch):
    """Counter of ("group" or "layer", eps) of the token norms that run in this test (pynative).

    The goldens cannot tell: an eps of 1e-6 where it is 1e-5 changes the small networks' outputs by less than 2e-5.
    """
    from sgm import ops
    seen = Counter()

    def watch(kind, norm):
        def call(*args, **options):
            seen[kind, inspect.signature(norm).bind(*args, **options).arguments.get("eps", default(norm))] += 1
            return norm(*args, **options)
        return call

    def default(norm):
        return inspect.signature(norm).parameters["eps"].default

    monkeypatch.setattr(ops, "group_norm", watch("group", ops.group_norm))
    monkeypatch.setattr(ops, "layer_norm", watch("layer", ops.layer_norm))
    return seen


@pytest.fixture
def no_clip(monkeypatch):
    """In place of the CLIP image tower, a frame's mean level."""
    from support.making_data import fake_tokens
    monkeypatch.setattr("sgm.train.data.examples.Encoders.tokens", fake_tokens)


@pytest.fixture
def photo(tmp_path):
    """The path of an image that can be used."""
    object_on_white().save(tmp_path / "cup.png")
    return tmp_path / "cup.png"


@pytest.fixture
def quick(monkeypatch):
    """simple_video_sample.py without its network: all views are white, at once."""
    def generate_views(engine, image, orbit, options, **callbacks):
        from sgm.diffusion.pipeline import run_record
        from sgm.views.folder import Views
        frames = np.full((len(orbit), *image.shape[:2], 3), 255, np.uint8)
        return Views(frames, image, orbit, run_record(engine, orbit, options.of_model(engine.spec)))
    monkeypatch.setattr("sgm.diffusion.pipeline.generate_views", generate_views)


@pytest.fixture
def training(tmp_path):
    """Flags of a training of the autoencoder on two clips, as tools/render_orbits.py --pack writes them."""
    data = tmp_path / "toys"
    data.mkdir()
    np.save(data / "clips.npy", np.zeros((2, 3, 32, 32, 3), np.uint8))
    np.save(data / "azimuths.npy", np.tile(np.float32([120, 240, 0]), (2, 1)))
    np.save(data / "elevations.npy", np.zeros((2, 3), np.float32))
    return ["--model_cfg", "sv3d_tiny", "--train_cfg", "vae_tiny", "--set", f"data=[{data}]", "--model-set", "num_frames=3",
            "--model-set", "height=32", "--model-set", "width=32"]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Small models as files: the folder of `converting.write_models`. Not to be changed."""
    from support.converting import (
        write_models,  # loads tools/convert.py, which most tests do not need
    )
    return write_models(tmp_path_factory.mktemp("files"))


@pytest.fixture
def folder(files, tmp_path):
    """A copy of the small svd's diffusers folder, to be damaged."""
    shutil.copytree(files / "svd", tmp_path / "svd")
    return tmp_path / "svd"


@pytest.fixture
def cpu_afterwards():
    """Whatever a test selects, the next one finds the CPU's forms."""
    from sgm import ops
    yield
    ops.set_target("CPU")


@pytest.fixture
def opencv(monkeypatch):
    """opencv(code, said): what check.py's process that loads OpenCV first shall end with; well, unless it is called."""
    from sgm.audit import environment

    def ends(code, said):
        process = SimpleNamespace(returncode=code, communicate=lambda: ("", said))
        monkeypatch.setattr(environment, "start_opencv_first", lambda: process)
    ends(0, "")
    return ends
