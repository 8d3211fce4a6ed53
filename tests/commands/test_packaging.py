"""What is installed, and which `sgm` a tool finds."""
import ast
import re
import subprocess
import sys

import pytest
from support.paths import ROOT

import sgm

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_of_the_package_is_installed():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "sgm").rglob("__init__.py")}
    assert set(SETTINGS["packages"]) == folders | set(SETTINGS["package-dir"])


def test_configurations_and_weights_are_installed():
    data = {ROOT / SETTINGS["package-dir"].get(package, package.replace(".", "/")): patterns
            for package, patterns in SETTINGS["package-data"].items()}
    installed = {path for folder, patterns in data.items() for pattern in patterns for path in folder.glob(pattern)}
    needed = {*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "sgm" / "audit" / "golden").iterdir(),
              *(ROOT / "sgm").rglob("*.yaml"), *(ROOT / "assets" / name for name in ("sv3d_tiny.safetensors", "catalogue.csv"))}
    assert needed <= installed


def test_another_package_of_the_same_name_is_named(tmp_path):
    """The original's package is called sgm too."""
    (tmp_path / "sgm").mkdir()
    (tmp_path / "sgm" / "__init__.py").write_text("")
    code = ("import runpy, sys\nfrom importlib.machinery import PathFinder\n"
            "class Foreign:\n"
            "    def find_spec(name, path=None, target=None):\n"
            f"        return PathFinder.find_spec(name, [{str(tmp_path)!r}]) if name == 'sgm' else None\n"
            f"sys.meta_path.insert(0, Foreign)\nsys.path.insert(0, {str(ROOT / 'tools')!r})\n"
            f"sys.argv = ['convert.py', '--help']\nrunpy.run_path({str(ROOT / 'tools' / 'convert.py')!r})\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"convert.py: found the package sgm in {tmp_path / 'sgm'}")


def test_version(capsys):
    import simple_video_sample
    with pytest.raises(SystemExit):
        simple_video_sample.parse(["--version"])
    assert capsys.readouterr().out == "sv3d-mindspore 0.5.0\n"


def test_lint():
    """Line length, docstrings and imports are as pyproject.toml asks."""
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_an_installed_package_has_all_it_needs(tmp_path):
    """A wheel, unpacked elsewhere, finds its configurations and weights without the checkout."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    wheel, = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "site"], check=True)
    code = ("import sgm; from sgm.diffusion.pipeline import EMBEDDED; from sgm.config.model_files import load_spec\n"
            "print(sgm.__file__, EMBEDDED[1].is_file(), load_spec('sv3d_p').num_frames)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "site" / "sgm" / "__init__.py"), "True", "21"]


def test_requirements_are_the_packages_that_are_imported():
    """Nothing is imported that requirements.txt does not name, and nothing is named that is not used."""
    files = [*(ROOT / "sgm").rglob("*.py"), *(ROOT / "tools").rglob("*.py"), ROOT / "train.py", ROOT / "simple_video_sample.py"]
    ours = {"sgm", "simple_video_sample", "_app", *(path.stem for path in (ROOT / "tools").glob("*.py"))}
    found = set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    named = {re.match("[A-Za-z0-9-]+", line)[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()
             if line and not line.startswith("#")}
    distributions = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml",
                     "imageio_ffmpeg": "imageio"}       # imageio[ffmpeg]
    optional = {"rembg", "tensorboardX", "gradio", "fastapi", "uvicorn"}       # gradio brings the last two
    used = {distributions.get(name, name) for name in found - ours - optional - set(sys.stdlib_module_names)}
    assert used == named


def test_public_names():
    """dir() shows them before they are imported, without what the module itself uses."""
    assert dir(sgm) == sorted([*sgm.__all__, "__version__"])
    assert {"Views", "Orbit", "load_model", "generate", "views_to_mesh"} <= set(dir(sgm)) and sgm.__version__ == "0.5.0"
    for name in sgm.__all__:
        assert getattr(sgm, name).__name__ == name
