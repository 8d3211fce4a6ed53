"""The web page in headless Chromium, with the embedded model: from an image to a mesh that is downloaded.

Neither the browser nor the server reaches anything but this machine's loopback.
"""
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from itertools import product
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from support.badfiles import object_on_white
from support.paths import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3600),
              pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")]
pytest.importorskip("gradio", reason="needs requirements-app.txt")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of requirements-dev.txt")

SECONDS = 600           # without news of a job that computes
# Python runs it at every start: connections and names elsewhere fail, and are written down.
ONLY_LOOPBACK = """
import os, socket
connect, lookup = socket.socket.connect, socket.getaddrinfo
def note(what):
    with open(os.environ["ASKED"], "a") as file:
        print(what, file=file)
    raise OSError("there is no network")
def only_loopback(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        note(address)
    return connect(self, address)
def only_own_names(host, *more, **others):
    if host not in (None, "127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
        note(host)
    return lookup(host, *more, **others)
socket.socket.connect, socket.getaddrinfo = only_loopback, only_own_names
"""


# Writes a small network of random weights, whose estimator always says 27 degrees, and its configuration.
FAST = """
import sys
import numpy as np
from omegaconf import OmegaConf
from safetensors.numpy import save_file
from support.small_lrm import CHANGES
import sgm
changes = [*CHANGES, "volume.threshold=0.3"]
parts = {name: p.asnumpy() for name, p in sgm.load_lrm("lrm_small", "random", changes).parameters_dict().items()}
parts["elevation_head.mlp.2.weight"] += np.float32(1e-9)
parts["elevation_head.mlp.2.bias"] += np.float32(0.2)
save_file(parts, sys.argv[2])
described = OmegaConf.merge(OmegaConf.load("configs/lrm/lrm_small.yaml"), OmegaConf.from_dotlist(changes))
OmegaConf.save(described, sys.argv[1])
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """tools/app.py in a process of its own, without a network."""

    def __init__(self, folder, *flags):
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(ONLY_LOOPBACK)
        self.output, self.asked, port = folder / "out", folder / "asked", free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.said = open(folder / "said", "w+")
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tools" / "app.py", "--output", self.output, "--port", str(port), *flags], cwd=folder,
            stdout=self.said, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(folder), "ASKED": str(self.asked)})
        end = time.monotonic() + 120
        while "serves" not in (folder / "said").read_text() or not self.answers(port):
            assert self.process.poll() is None and time.monotonic() < end, (folder / "said").read_text()
            time.sleep(0.2)

    @staticmethod
    def answers(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def close(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) in (0, 130)
        self.said.close()
        assert not self.asked.exists(), self.asked.read_text()      # it asks nothing but loopback


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("app"), "--also", "sv3d_u=random")
    yield made
    made.close()


@pytest.fixture
def serve(tmp_path):
    """serve(*flags) -> a Server of the test's own."""
    made = []

    def start(*flags):
        made.append(Server(tmp_path / "app", *flags))
        return made[0]
    yield start
    for server in made:
        server.close()


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as toolkit:
        made = toolkit.chromium.launch(executable_path=BROWSER, args=[
            "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        yield made
        made.close()


@pytest.fixture
def visitor(chromium):
    """visitor(server, path) -> the Page of somebody who has just opened it."""
    contexts = []

    def open_page(server, path="/en/", **options):
        context = chromium.new_context(viewport={"width": 1300, "height": 1100}, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.requests = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.console = []
        page.on("console", lambda message: page.console.append(message.text))
        page.goto(server.url + path)
        page.wait_for_selector("#make_views")
        return page
    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def user(server, visitor):
    """user(path) -> the Page of somebody who has just opened the server that all tests share."""
    return lambda *what, **options: visitor(server, *what, **options)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    object_on_white(96).save(path)
    return path


def choose(page, path):
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_selector("#brush iframe")
    page.frame_locator("#brush iframe").locator("#strokes").wait_for()
    until(page, lambda: any(text.startswith("brush:") for text in page.console))


def until(page, condition, seconds=60):
    """What a condition gives once it is true; the seconds count from the last news of the job, which a busy core delays."""
    before = end = None
    while not (found := condition()):
        if (now := page.inner_text("#status")) != before:
            before, end = now, time.monotonic() + seconds
        assert time.monotonic() < end, now
        page.wait_for_timeout(100)
    return found


def count_of(page, start, least):
    """How many lines of the console begin so, once there are `least` of them."""
    count = lambda: sum(text.startswith(start) for text in page.console)  # noqa: E731
    until(page, lambda: count() >= least)
    return count()


def state(page):
    """The class of what the page says of its job: waiting, running, done, ..."""
    found = page.query_selector("#status .state")
    return (found.get_attribute("class").split()[1], found.inner_text()) if found else (None, "")


def wait_for(page, *states, seconds=SECONDS):
    return until(page, lambda: next((text for name, text in [state(page)] if name in states), None), seconds)


def pick(page, field, text):
    page.click(f"#{field} input")
    page.click(f'ul[role=listbox] li:has-text("{text}")')


def seen(page, selector, frame=None):
    """Pixels (H, W, 3) of what a selector names, in a frame or on the page, as shown."""
    frame = page.frame_locator(frame) if frame else page
    page.evaluate("scrollTo(0, 0)")
    shot = page.screenshot(full_page=True, clip=frame.locator(selector).bounding_box())     # no waiting for what turns
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def downloaded(page, name):
    with page.expect_download() as found:
        page.click(f"#result .links a:has-text('{name}')")
    return found.value.path()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_asks_nobody_else_and_speaks_two_languages(server, user, language):
    page = user("/", locale={"en": "en-US", "zh": "zh-CN"}[language])
    assert page.url == f"{server.url}/{language}/"
    assert ("生成视角" in page.inner_text("body")) == (language == "zh")
    page.wait_for_timeout(3000)
    foreign = [url for url in page.requests if not url.startswith((server.url, "data:", "blob:"))]
    assert len(page.requests) > 20 and not foreign
    assert page.is_disabled("#estimate") and page.is_disabled("#make_fast")      # there is no network for them, and it says so
    assert page.inner_text("body").count("--fast-config") == 2
    named = page.eval_on_selector_all("link, script", "all => all.map(one => one.href || one.src || '')")
    assert not [url for url in named if url and not url.startswith(server.url)]


def test_model_that_is_chosen_brings_its_settings(user):
    page = user()
    assert page.input_value("#steps input") == "3" and "sv3d_tiny: 21 views of 64 x 64" in page.inner_text("#line")
    pick(page, "model", "sv3d_u")
    until(page, lambda: page.input_value("#steps input") == "50")
    assert page.inner_text("#line") == "sv3d_u: 21 views of 576 x 576 pixels, on CPU."
    assert "is not told the elevation" in page.inner_text("#elevation")
    pick(page, "model", "sv3d_tiny")
    until(page, lambda: page.input_value("#steps input") == "3")
    assert "is not told" not in page.inner_text("#elevation")


def test_bad_file_is_said_in_a_line(user, tmp_path):
    page = user()
    (tmp_path / "photo.png").write_bytes(b"GIF89a, but no more")
    page.set_input_files("#upload input[type=file]", tmp_path / "photo.png")
    error = page.wait_for_selector("#note .error").inner_text()
    assert error.startswith("photo.png: found no image of a known kind, expected one of PNG, JPEG") and "\n" not in error
    page.click("#make_views")
    assert "choose an image first" in page.wait_for_selector(".toast-body").inner_text()
    (tmp_path / "large.png").write_bytes(os.urandom(33 << 20))
    sent = len(page.requests)
    page.click("#upload [aria-label=Clear], #upload button[title=Clear], #upload [aria-label='Remove this file']")
    page.set_input_files("#upload input[type=file]", tmp_path / "large.png")
    assert "at most 32 MB" in page.wait_for_selector("#too_large").inner_text()
    assert not [url for url in page.requests[sent:] if "/upload" in url]


def test_from_an_image_to_views(server, user, picture):
    page = user()
    # 1. the cut-out, corrected by a stroke across the object
    choose(page, picture)
    brush = page.frame_locator("#brush iframe")
    before, place = seen(page, "#picture", "#brush iframe"), brush.locator("#strokes").bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x - 5, y)
    page.mouse.down()
    page.mouse.move(x + 5, y, steps=4)
    page.mouse.up()
    drawn = count_of(page, "brush:", 2)
    changed = np.abs(seen(page, "#picture", "#brush iframe") - before).max(-1) > 10
    assert 0.002 < changed.mean() < 0.2
    # everything is background with a threshold of 99 %; the first cut-out is back when it starts again
    brush.locator("#threshold").fill("99")
    drawn = count_of(page, "brush:", drawn + 1)
    assert (np.abs(seen(page, "#picture", "#brush iframe") - before).max(-1) > 10).mean() > changed.mean() + 0.05
    brush.locator("#reset").click()
    count_of(page, "brush:", drawn + 1)
    assert np.array_equal(seen(page, "#picture", "#brush iframe"), before)
    # 2. views, with a preview on the way
    page.click("#make_views")
    until(page, lambda: page.query_selector("#status img"), SECONDS)
    until(page, lambda: page.evaluate("document.querySelector('#status img')?.naturalWidth > 0")
          or state(page)[0] == "done")
    assert "red_23: done" in wait_for(page, "done")
    until(page, lambda: any("21 cameras, en" in text for text in page.console))
    page.wait_for_timeout(1000)
    assert len(np.unique(seen(page, "#viewer", "iframe.viewer").reshape(-1, 3), axis=0)) > 50
    with zipfile.ZipFile(downloaded(page, "views.zip")) as packed:
        assert len([name for name in packed.namelist() if re.search(r"/\d{3}\.png$", name)]) == 21
    # 3. somebody else finds them
    other = user("/zh/")
    pick(other, "results", "red_23")
    other.wait_for_selector("#result h3:has-text('red_23')")
    assert not [url for one in (page, other) for url in one.requests if not url.startswith((server.url, "data:", "blob:"))]


def test_two_users_at_once_and_a_cancelled_job(server, user, picture):
    first, second = user(), user("/zh/")
    for page in (first, second):
        choose(page, picture)
    first.fill("#steps input", "100")           # it still runs when the other one is there
    first.press("#steps input", "Tab")
    for page in (first, second):
        page.click("#make_views")
        wait_for(page, "running", "waiting")
    assert "前面还有 1 个" in state(second)[1]
    first.click("#cancel")
    assert "cancelled" in wait_for(first, "cancelled")
    folder = wait_for(second, "done").partition("：")[0]
    assert (server.output / folder / "run.json").is_file()
    second.wait_for_selector(f"#result h3:has-text('{folder}')")


def test_mesh_is_made_shown_and_downloaded(serve, visitor, picture):
    """First cancelled, which makes a mesh of what there is, then whole."""
    trimesh = pytest.importorskip("trimesh")
    server = serve()
    page = visitor(server)
    choose(page, picture)
    page.click("#make_views")
    wait_for(page, "done")
    pick(page, "config", "fast")
    page.click("#make_mesh")
    until(page, lambda: "radiance field, step" in state(page)[1], SECONDS)
    page.click("#cancel")
    wait_for(page, "cancelled")
    page.wait_for_selector("#result p:has-text('made of what there was')")
    assert (server.output / "red_23" / "mesh" / "mesh.glb").is_file()
    page.click("#resume input")
    page.click("#make_mesh")
    wait_for(page, "running", "waiting")
    wait_for(page, "done", "doubtful")
    page.wait_for_selector("#result p:has-text('dB on the object')")
    page.wait_for_timeout(5000)
    faces = int([text for text in page.console if " faces, en" in text][-1].split()[1])
    shown = seen(page, "#viewer", "iframe.viewer")
    assert 0.03 < (np.abs(shown - 255).max(-1) > 20).mean() < 0.7       # not blank
    mesh = trimesh.load(downloaded(page, "mesh.glb"), file_type="glb", force="mesh")
    assert len(mesh.faces) == faces and mesh.extents.max() < 2
    with page.expect_popup() as popup:
        page.click("#result .links a:has-text('Report')")
    popup.value.wait_for_selector("#stages td", timeout=120_000)


def test_elevation_is_estimated_and_a_fast_mesh_made(tmp_path, serve, visitor, picture):
    trimesh = pytest.importorskip("trimesh")
    config, weights = tmp_path / "small.yaml", tmp_path / "small.safetensors"
    subprocess.run([sys.executable, "-c", FAST, config, weights], cwd=ROOT, check=True,
                   env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    server = serve("--fast-config", config, "--fast-ckpt", weights)
    page = visitor(server)
    choose(page, picture)
    assert page.input_value("#elevation input[type=number]") == "10"
    page.click("#estimate")
    assert wait_for(page, "done", "failed") == "red: about 27° above the horizon"
    until(page, lambda: page.input_value("#elevation input[type=number]") == "27")
    page.click("#make_fast")
    until(page, lambda: state(page)[1].startswith("red:") and "27°" not in state(page)[1])
    assert wait_for(page, "done", "failed") == "red: done"
    page.wait_for_selector("#result p:has-text('lrm_small, CPU')")
    faces = int(until(page, lambda: [text for text in page.console if " faces, en" in text])[-1].split()[1])
    page.wait_for_timeout(2000)
    assert len(np.unique(seen(page, "#viewer", "iframe.viewer").reshape(-1, 3), axis=0)) > 50
    mesh = trimesh.load(downloaded(page, "mesh.glb"), file_type="glb", force="mesh")
    assert len(mesh.faces) == faces and mesh.extents.max() == pytest.approx(1, abs=1e-4)
    assert json.loads((server.output / "red" / "report.json").read_text())["elevation"] == 27
    # the result stays open while an elevation is estimated
    page.click("#estimate")
    until(page, lambda: "27°" in state(page)[1])
    assert page.inner_text("#result h3") == "red"


def test_password(tmp_path, serve, chromium):
    (tmp_path / "secret").write_text("correct horse\n")
    server = serve("--password-file", tmp_path / "secret")
    wrong = chromium.new_context(http_credentials={"username": "me", "password": "wrong horse"}).new_page()
    assert wrong.goto(f"{server.url}/en/").status == 401
    right = chromium.new_context(http_credentials={"username": "me", "password": "correct horse"}).new_page()
    right.goto(f"{server.url}/en/")
    right.wait_for_selector("#make_views")


def test_toolkit_copies_no_file_and_fetches_no_address(server):
    """What it lacks by itself where it is mounted: paths of this machine, given as an upload, must not become readable."""
    with urlopen(f"{server.url}/en/config") as answer:
        functions = [found["id"] for found in json.load(answer)["dependencies"]]
    assert len(functions) > 10
    for function, path in product(functions, (__file__, "http://127.0.0.1:1/x.png")):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}] * 8
        asked = Request(f"{server.url}/en/gradio_api/queue/join", json.dumps({"fn_index": function, "data": data, "session_hash": "x"}).encode(),
                        {"content-type": "application/json"})
        with pytest.raises(HTTPError, match="403"):
            urlopen(asked)
