"""Running the project's commands inside a test, and what they say when something is wrong."""
import importlib.util
import sys

from support.paths import ROOT

# Settings of a mesh that takes seconds.
TINY_MESH = (
    "side=64", "hull.resolution=32", "nerf.resolutions=[8,20]", "nerf.steps=12", "nerf.rays=128", "nerf.samples=8",
    "nerf.save_every=4", "nerf.preview_every=6", "depth.resolution=24", "depth.side=48", "depth.samples=16",
    "dmtet.sides=[48,64]", "dmtet.steps=[4,2]", "dmtet.pixels=1024", "dmtet.save_every=2", "dmtet.preview_every=4",
    "texture.size=128", "texture.refine=1")


def load_tool(name):
    """The module of tools/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module              # worker processes look its functions up by name
    spec.loader.exec_module(module)
    return module


def ending(run, argv, capsys):
    """(exit code, the one line on stderr) of a command whose input is wrong; asserts that it is one short line."""
    capsys.readouterr()
    try:
        code = run([str(word) for word in argv])
    except SystemExit as stop:                  # of argparse
        code = stop.code
    said = capsys.readouterr().err.strip("\n")
    assert "\n" not in said and 0 < len(said) <= 2100 and "Traceback" not in said, said
    return code, said


def tree(folder):
    """{relative path: content} of all that is below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sample(image, output, *more):
    """Flags of simple_video_sample.py: three views, quickly written."""
    return ["--image", image, "--output", output, "--num-frames", "3", "--format", "png", *more]
