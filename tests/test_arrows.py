"""Which room of `sgm/` may import which, and no PyTorch at run time."""
import ast
import subprocess
import sys

import pytest
from support.paths import ROOT

SGM = sorted((ROOT / "sgm").rglob("*.py"))
COMMANDS = [ROOT / "train.py", ROOT / "simple_video_sample.py", *sorted((ROOT / "tools").rglob("*.py"))]

# From the ground up: a room imports only rooms that stand before it.
ORDER = ["common", "config", "ops", "views", "geometry", "models", "checkpoints", "render", "diffusion", "reconstruct",
         "feedforward", "autodecoder", "train", "audit"]
# Rooms that stand before a room, and that it still does not need: meshes are made without any diffusion network, but
# for distillation.
FORBIDDEN = {"reconstruct": {"models", "checkpoints", "diffusion"}, "checkpoints": {"models"}, "feedforward": {"diffusion"}}
EXCEPT = {("reconstruct.distill.orbit_model", "diffusion"), ("checkpoints", "models.architecture")}
# The same within sgm/reconstruct.
RECONSTRUCT = ["posed_views", "views_reader", "upright", "stage_files", "optimization", "hull", "exposure", "nerf", "dmtet", "distill", "texture",
               "light", "report", "stages", "pipeline"]
# Names that two files have because they do the same job for two rooms.
PAIRS = {"pipeline", "metrics"}
MOST_FILES = 12
WITHOUT_MINDSPORE = ["common", "config", "views", "geometry", "render", "checkpoints"]
WITH_MINDSPORE = {"checkpoints.loading"}        # these files of the rooms above may need it
# What only the web page needs, and these files of it: its queue, limits and results are tested without.
TOOLKIT = {"gradio", "fastapi", "starlette", "uvicorn"}
WITH_TOOLKIT = {"tools._app.page", "tools._app.server"}
PYTORCH = {"torch", "torchvision", "diffusers", "transformers", "open_clip", "kornia"}


def module_of(path):
    """The dotted name of a file, without `sgm.`: "views.cameras", "views" for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:-1] if parts[-1] == "__init__" else parts[parts[0] == "sgm":])


MODULES = {module_of(path): path for path in SGM}


def imports(path):
    """Absolute names of all modules a file imports, wherever in it; `from sgm import ops` is sgm.ops."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            inside = node.module.removeprefix("sgm").strip(".") if node.module.split(".")[0] == "sgm" else None
            names = {f"{inside}.{alias.name}".strip(".") for alias in node.names} if inside is not None else set()
            modules = {f"sgm.{name}" for name in names if name in MODULES}
            found.update(modules if len(modules) == len(names) and modules else modules | {node.module})
    return found


def arrows(path):
    """The modules of `sgm` that a file imports, without `sgm.`."""
    return {name.removeprefix("sgm.") for name in imports(path) if name.startswith("sgm.")}


def test_reader_of_imports(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import os.path\nfrom sgm import ops, views\ndef f():\n    from sgm.models.unet import VideoUNet\n"
                    "from sgm.reconstruct.hull import cavity\n")
    assert imports(path) == {"os.path", "sgm.ops", "sgm.views", "sgm.models.unet", "sgm.reconstruct.hull.cavity"}
    assert module_of(ROOT / "sgm/views/cameras.py") == "views.cameras"
    assert module_of(ROOT / "sgm/__init__.py") == "" and module_of(ROOT / "train.py") == "train"


def test_every_room_has_its_place():
    rooms = {path.name for path in (ROOT / "sgm").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ORDER) and [path.name for path in (ROOT / "sgm").glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_point_to_earlier_rooms(module):
    room = module.split(".")[0]
    for other in arrows(MODULES[module]):
        target = other.split(".")[0]
        assert ORDER.index(target) <= ORDER.index(room), f"sgm.{module} imports sgm.{other}"
        allowed = (module, target) in EXCEPT or (room, other) in EXCEPT
        assert target not in FORBIDDEN.get(room, ()) or allowed, f"sgm.{module} imports sgm.{other}"
    for name in imports(MODULES[module]):
        assert name.split(".")[0] not in ("tools", "benchmarks", "tests", "simple_video_sample"), f"sgm.{module}: {name}"


def test_reconstruction_has_an_order_of_its_own():
    """Within sgm/reconstruct a step of the data knows those before it only."""
    for module in MODULES:
        room, _, inner = module.partition(".")
        step = inner.split(".")[0]
        if room == "reconstruct" and step in RECONSTRUCT:
            steps = [other.split(".")[1] for other in arrows(MODULES[module]) if other.startswith("reconstruct.")]
            later = RECONSTRUCT[RECONSTRUCT.index(step) + 1:]
            assert not set(steps) & set(later), f"sgm.{module} imports {', '.join(set(steps) & set(later))}"


def test_no_circle_of_files():
    graph = {module: arrows(path) - {module} for module, path in MODULES.items()}
    while ready := [module for module, needed in graph.items() if not needed & set(graph)]:
        for module in ready:
            del graph[module]
    assert not graph, f"a circle among {', '.join(sorted(graph))}"


def test_rooms_are_small_and_names_are_used_once():
    named = {}
    for path in SGM:
        if path.name != "__init__.py":
            named.setdefault(path.stem, []).append(module_of(path))
    for folder in {path.parent for path in SGM}:
        count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        assert count <= MOST_FILES, f"{folder.relative_to(ROOT)} holds {count} files"
    twice = {name: files for name, files in named.items() if len(files) > 1 and name not in PAIRS}
    assert not twice, f"one name, two files: {twice}"
    rooms = set(ORDER) & set(named)
    assert not rooms, f"files named like a room: {rooms}"


@pytest.mark.parametrize("path", SGM + COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pytorch_and_no_tests(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & PYTORCH and "tests" not in roots and "conftest" not in roots


@pytest.mark.parametrize("path", SGM + COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_toolkit_of_the_page_stays_there(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & TOOLKIT or module_of(path) in WITH_TOOLKIT
    assert path.parent.name == "_app" or "_app" not in roots or module_of(path) == "tools.app"


def test_no_mindspore_where_none_is_needed():
    """Rendering, evaluation and the check of a configuration must not take MindSpore's seconds to start."""
    modules = [f"sgm.{name}" for name in MODULES if name.split(".")[0] in WITHOUT_MINDSPORE and name not in WITH_MINDSPORE]
    code = f"import sys, {', '.join(sorted(modules))}; print('mindspore' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
