"""The first pages and docs/: commands run or parse, Python compiles, links and paths exist.

An HTML comment before a fenced block says what is done with its commands (see docs/README.md):
`<!-- run -->` runs them, `<!-- parsed: reason -->` only gives them to the command's own parser.
"""
import argparse
import ast
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import sgm

ROOT = Path(__file__).resolve().parents[2]
FIRST_PAGES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAGES = (*FIRST_PAGES, *sorted((ROOT / "docs").glob("*.md")))
LINKED = (*PAGES, ROOT / "CHANGELOG.md", ROOT / "assets" / "LICENSES.md")
MOST_LINES, MOST_COLUMNS = 110, 110             # of a first page
OURS = ("assets/", "benchmarks/", "configs/", "docs/", "sgm/", "tests/", "tools/")
LANGUAGES = ("", "python", "text")              # of a fenced block; "" is commands
RUN_SECONDS = 300
MARKER = re.compile(r"<!-- (run|parsed: .+) -->")


def relative(page):
    """Return a page's path from the root."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its marker ("run", "parsed: ...", "")."""
    page: Path
    line: int
    language: str
    marker: str
    text: str

    def __str__(self):
        return f"{relative(self.page)}:{self.line}"

    @property
    def commands(self):
        """Return the words of each command, without shell comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def read_blocks(page):
    """Return the fenced blocks of a Markdown page."""
    blocks, fence, marker = [], None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if fence is None:
                fence, language, body = number, line[3:].strip(), []
            else:
                text = "\n".join(body) + "\n"
                blocks.append(Block(page, fence, language, marker, text))
                fence, marker = None, ""
        elif fence is not None:
            body.append(line)
        elif line.strip():
            found = MARKER.fullmatch(line.strip())
            marker = found[1] if found else ""
    assert fence is None, f"{page}:{fence}: the block has no end"
    return blocks


def read_notebook(page):
    """Return the commands of a notebook, lines that begin with !, as a block of each cell."""
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    texts = ["\n".join(re.findall(r"(?m)^!(.*)$", "".join(cell["source"]).replace("\\\n", " ")))
             for cell in cells if cell["cell_type"] == "code"]
    return [Block(page, number, "", "parsed: test_walkthrough runs it", text)
            for number, text in enumerate(texts) if text]


BLOCKS = [block for page in PAGES for block in read_blocks(page)]
BLOCKS += read_notebook(ROOT / "docs" / "walkthrough.ipynb")
COMMANDS = [block for block in BLOCKS if block.language == ""]
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUNS = {shlex.join(words): words for block in COMMANDS if block.marker == "run"
        for words in block.commands}
# What makes the commands that take long short: without graphs, which compile for fifteen seconds.
SHORTER = {"simple_video_sample.py": ["--mode", "pynative", "--steps", "2"]}


# Commands

def test_blocks_are_marked():
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block}: a block of {block.language}"
        assert bool(block.marker) == (block.language == ""), f"{block}: marker {block.marker!r}"
    assert RUNS


@pytest.fixture
def checkout(tmp_path):
    """An empty folder with links to what a clone has, so that outputs stay out of the clone."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("outputs", "runs", "data"):
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.parametrize("command", RUNS)
def test_command_runs(command, checkout):
    check_run([*RUNS[command], *SHORTER.get(RUNS[command][1], ())], checkout)


@pytest.mark.slow
@pytest.mark.parametrize("command", [text for text, words in RUNS.items() if words[1] in SHORTER])
def test_command_runs_as_it_stands(command, checkout):
    check_run(RUNS[command], checkout)


def check_run(words, checkout):
    """Assert that a command ends well."""
    assert words[0] == "python", "only Python is run"
    done = subprocess.run([sys.executable, *words[1:]], cwd=checkout, capture_output=True,
                          text=True, timeout=RUN_SECONDS, env={**os.environ, "GLOG_v": "3"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


class Parsed(Exception):
    """Ends a command after its flags were read."""


@pytest.fixture
def parse(monkeypatch):
    """parse(script, words) -> what the script's own parser makes of them."""
    def stop(parser, argv=None, namespace=None):
        raise Parsed(original(parser, argv, namespace))

    def parse(script, words):
        path = ROOT / script
        assert path.is_file(), f"{script}: no such command"
        monkeypatch.syspath_prepend(str(path.parent))
        name = f"documented_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        with pytest.raises(Parsed) as caught:
            module.main(words)
        return module, caught.value.args[0]

    original = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    return parse


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands_parse(block, parse):
    for words in block.commands:
        check_command(words, parse)


def check_command(words, parse):
    """Assert that a command has the form its program takes and that its own files exist."""
    check_files(words)
    program, *rest = words
    if program == "python":
        check_script(*parse(rest[0], rest[1:]))
    elif program == "msrun":
        check_msrun(rest, parse)
    elif program == "make":
        check_make(rest)
    elif program == "pip":
        assert rest[0] == "install", words
        check_requirements([word for word in rest[1:] if not word.startswith("-")])
    else:
        assert program == "source" and len(rest) == 1, f"{shlex.join(words)}: unknown program"


def check_msrun(words, parse):
    """Assert `--name=number ... script flags`; with --join=True msrun waits for its processes."""
    script = next(i for i, word in enumerate(words) if not word.startswith("--"))
    for flag in words[:script]:
        assert re.fullmatch(r"--((worker_num|local_worker_num|master_port)=\d+|join=True)", flag), flag
    check_script(*parse(words[script], words[script + 1:]))


def check_make(words):
    """Assert that targets and variables are those of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, value = word.partition("=")
        pattern = rf"(?m)^{name}\s*[?:]?=" if equals else rf"(?m)^{re.escape(name)}:"
        assert re.search(pattern, makefile), f"make {word}: not in the Makefile"
        assert name != "TESTS" or (ROOT / value).exists(), word


def check_requirements(words):
    """Assert that `pip install` gets this project, its requirement files, or packages they name."""
    known = " ".join(path.read_text(encoding="utf-8") for path in ROOT.glob("requirements*.txt"))
    for word in words:
        name = re.split(r"[<>=\[]", word)[0]
        assert word.endswith(".txt") or word.startswith(".") or name in known, word


def check_files(words):
    """Assert that files of this project exist."""
    for word in words:
        if word.startswith(OURS):
            assert (ROOT / word).exists(), f"{word}: no such file"


def known_config(name, *folders):
    """Whether one of configs/<folders>, by default sampling, has a file of this name, or of the stem of this path."""
    return any((ROOT / "configs" / folder / f"{Path(name).stem}.yaml").is_file() for folder in folders or ("sampling",))


def check_script(module, args):
    """Assert that the configurations a command names exist and have the keys it sets."""
    name = Path(module.__file__).stem
    if name == "train":
        spec, _, _ = module.configure(args)
        assert known_config(args.model_cfg, "sampling", "autodecoder", "lrm")
        assert known_config(args.train_cfg or spec.name, "train")
    elif name in ("views_to_mesh", "degraded", "distillation", "light"):
        if "config" in args:            # not all commands of a benchmark have one
            module.load_mesh_spec(args.config, args.set)
    elif name == "image_to_mesh":
        module.load_mesh_spec(args.mesh_config, args.mesh_set)
        assert args.config is None or known_config(args.config, "sampling", "lrm"), args.config
    elif name in ("feedforward", "elevation"):
        assert known_config(args.config, "lrm"), args.config
    elif getattr(args, "config", None):
        assert known_config(args.config), args.config
    for config in getattr(args, "audit", None) or ():
        assert known_config(config, "mesh" if config.startswith("mesh/") else "sampling"), config


# Python

@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_uses_public_names(block):
    for node in ast.walk(ast.parse(block.text, str(block))):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "sgm", f"{block}: import sgm, then sgm.{node.names[0].name}"
        if is_public(node):
            assert node.attr in sgm.__all__, f"{block}: sgm.{node.attr}"
        if isinstance(node, ast.Call) and is_public(node.func):
            known = inspect.signature(getattr(sgm, node.func.attr)).parameters
            for keyword in node.keywords:
                assert keyword.arg in known, f"{block}: sgm.{node.func.attr}({keyword.arg}=)"


def is_public(node):
    """Whether a node is `sgm.<name>`."""
    return (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            and node.value.id == "sgm")


# Links, paths, sizes

def prose(page):
    """Return a page without its fenced blocks."""
    return re.sub(r"(?ms)^```.*?^```\n", "", page.read_text(encoding="utf-8"))


def anchors(page):
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=relative)
def test_links_lead_somewhere(page):
    text = prose(page)
    targets = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"|(?m:^\[[^\]]+\]: (\S+)$)", text)
    for target in filter(None, (one or two or three for one, two, three in targets)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        assert goal.exists() and ROOT in (goal, *goal.parents), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(goal), f"{page.name}: {target}"
    for reference in re.findall(r"\]\[([^\]]+)\]", text):
        assert re.search(rf"(?m)^\[{re.escape(reference)}\]: ", text), f"{page.name}: {reference}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_paths_exist(page):
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        word = span.split()[0].rstrip("/,") if span.split() else ""
        if word.startswith(OURS) and not re.search(r"[<>*{}]", word):
            short = re.fullmatch(r"configs/\w+\.yaml", word) and known_config(word)
            assert (ROOT / word).exists() or short, f"{page.name}: {word}"


@pytest.mark.parametrize("page", FIRST_PAGES, ids=relative)
def test_first_page_is_one_page(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= MOST_COLUMNS, max(lines, key=len)


def test_first_pages_have_the_same_commands():
    english, chinese = (read_blocks(page) for page in FIRST_PAGES)
    assert [(b.language, b.marker) for b in english] == [(b.language, b.marker) for b in chinese]
    for one, other in zip(english, chinese):
        if one.language == "":
            assert one.commands == other.commands
        else:
            assert one.text == other.text


def test_contents_name_every_page():
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in contents, page.name


def test_tree_of_development_page_is_real():
    page = ROOT / "docs" / "development.md"
    tree = next(block.text for block in read_blocks(page) if "sgm/\n" in block.text)
    rooms = re.findall(r"(?m)^  (\w+)/ ", tree)
    assert set(rooms) == {path.parent.name for path in (ROOT / "sgm").glob("*/__init__.py")}
    tools = re.search(r"(?m)^tools/ +(.+)$", tree)[1].split()
    found = {path.stem for path in (ROOT / "tools").glob("*.py") if not path.stem.startswith("_")}
    assert set(tools) <= found


def test_project_is_called_by_its_name():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name = re.search(r'(?m)^name = "(.+)"', project)[1]
    for page in FIRST_PAGES:
        assert page.read_text(encoding="utf-8").startswith(f"# {name}")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert name in citation and f"\nversion: {sgm.__version__}\n" in citation
