"""Which module may import which (design: leaves, then video, then engine, then train and pipeline), and no PyTorch."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "sgm").rglob("*.py"))
SCRIPTS = [ROOT / "train.py", ROOT / "simple_video_sample.py"]

# What a part may import. A module of `sgm` that belongs to no part is a leaf.
ALLOWED = {
    "leaf": {"leaf"},
    "checkpoint": {"leaf"},
    "video": {"leaf", "video"},
    "engine": {"leaf", "checkpoint", "video"},
    "train": {"leaf", "checkpoint", "video", "engine", "train"},
    "pipeline": {"leaf", "checkpoint", "video", "engine", "train"},
    "audit": {"leaf", "checkpoint", "video", "engine", "train", "shape", "audit"},
    "shape": {"leaf", "shape"},
    "shape.distill": {"leaf", "shape", "checkpoint", "video", "engine"},
}
WITHOUT_MINDSPORE = ["views.cameras", "views.images", "views.matting", "views.transforms", "views.metrics", "config.yaml_reader", "config.model", "common.errors", "common.cli", "diffusion.guards",
                     "checkpoints.mapped_file", "checkpoints.store", "checkpoints.safetensors_format", "checkpoints.store", "checkpoints.original_keys", "checkpoints.identify", "checkpoints.diffusers.names",
                     "checkpoints.diffusers.reader", "checkpoints.diffusers.writer", "checkpoints.svd_to_sv3d", "checkpoints.conversion",
                     "render.zbuffer", "render.procedural", "geometry.mesh_reader"]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    names = module.split(".")[1:]
    return next((part for part in (".".join(names[:2]), names[0] if names else "") if part in ALLOWED), "leaf")


def imports(path):
    """Absolute names of all modules a file imports, wherever in it; `from sgm import ops` is sgm.ops."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"sgm.{alias.name}" for alias in node.names] if node.module == "sgm" else [node.module]
            found.update(names)
    return found


def test_the_reader_of_imports(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import os.path\nfrom sgm import ops; from sgm.diffusion import engine\ndef f():\n    from sgm.video.unet import VideoUNet\n")
    assert imports(path) == {"os.path", "sgm.ops", "sgm.diffusion.engine", "sgm.video.unet"}
    parts = {"sgm": "leaf", "sgm.ops": "leaf", "sgm.video.unet": "video", "sgm.diffusion.engine": "engine",
             "sgm.reconstruct.nerf.field": "shape", "sgm.shape.distill": "shape.distill"}
    assert {name: part_of(name) for name in parts} == parts


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_arrows(path):
    part = part_of(module_of(path))
    for name in imports(path):
        if name.split(".")[0] == "sgm":
            assert part_of(name) in ALLOWED[part], f"{module_of(path)} ({part}) imports {name} ({part_of(name)})"
        assert name.split(".")[0] not in ("tools", "train", "simple_video_sample", "tests"), name


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=module_of)
def test_no_pytorch(path):
    for name in imports(path):
        assert name.split(".")[0] not in ("torch", "torchvision", "diffusers", "transformers", "open_clip", "kornia")


def test_no_mindspore_where_none_is_needed():
    """Rendering, evaluation and the check of a configuration must not take MindSpore's seconds to start."""
    code = f"import sys, {', '.join('sgm.' + name for name in WITHOUT_MINDSPORE)}; print('mindspore' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
