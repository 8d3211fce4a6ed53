"""The time that graphs take to compile, and compiled graphs that are kept for the next process.

MindSpore can keep graphs in files, but it names them by their place in the order in which a process
compiles, and takes a file without a look at what it was: another order, other shapes or settings
silently give the results of another graph (MindSpore 2.8, tests/ops/test_compilation.py). So each
program, model and precision has a folder here, with a list of what was compiled in which order, and
as soon as a process compiles something else, it takes and keeps nothing more.
"""
import hashlib
import json
import logging
import platform
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
from mindspore.common import api

from sgm.common.files import atomic
from sgm.common.locks import LockedError, locked

SOURCES = Path(__file__).resolve().parents[1]
log = logging.getLogger("sgm")


class _State:
    """What is known of the compilations of this process."""
    seconds = 0.0       # that they took
    begun = None        # when the one that runs began; None: none runs
    key = None          # of what is compiled, if that can be kept
    kept = None         # the only `_Kept` of this process: MindSpore takes one folder
    is_keeping = False  # whether `kept_graphs` is in force


class _Kept:
    """The list of the graphs in a folder, as far as this process agrees with it."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "graphs.json"
        try:
            self.known = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = []
        self.count, self.taken, self.agrees = 0, 0, True
        for path in folder.glob("rank_*/graph_cache/*.mindir"):     # of a process that was killed
            if path.stem not in {f"compile_cache_{k}" for k in range(len(self.known))}:
                path.unlink()

    def may_keep(self, key):
        """Return whether MindSpore may take the next graph from its file, or write it."""
        if self.count < len(self.known) and self.known[self.count] != key:
            self.agrees = False
        return self.agrees

    def compiled(self, key):
        """Note that the next graph was compiled or taken, and is in its file."""
        if not list(self.folder.glob(f"rank_*/graph_cache/compile_cache_{self.count}.mindir")):
            self.agrees = False
            return
        if self.count < len(self.known):
            self.taken += 1
        else:
            self.known.append(key)
            with atomic(self.file) as path:
                path.write_text(json.dumps(self.known), encoding="utf-8")
        self.count += 1


def compile_seconds():
    """Return the seconds that this process has compiled so far."""
    return _State.seconds


@contextmanager
def kept_graphs(folder, identity):
    """Context manager: graphs are taken from a folder, and kept there.

    folder: None keeps nothing. identity: all that graphs depend on besides the program and their
    arguments, as text: the model, its precision, the device. Another process that uses the same
    graphs at the same time keeps them from this one.
    """
    if folder is None or not _is_watched:
        if folder is not None:
            log.info("%s: MindSpore %s compiles in another way, so that graphs are not kept",
                     folder, ms.__version__)
        yield
        return
    place = Path(folder) / _digest(identity)
    if _State.kept is not None and _State.kept.folder != place:     # another model
        yield
        return
    place.mkdir(parents=True, exist_ok=True)
    lock = locked(place)
    try:
        lock.__enter__()
    except LockedError:
        log.info("%s: another process uses its graphs, so that they are compiled again", place)
        yield
        return
    try:
        if _State.kept is None:
            _State.kept = _Kept(place)
            ms.set_context(compile_cache_path=str(place))
        _State.is_keeping = True
        yield
    finally:
        _State.is_keeping = False
        log.debug("%s: %d graphs taken", place, _State.kept.taken)
        lock.__exit__(None, None, None)


def _digest(identity):
    """Return the name of a folder: of sources, the program that runs, versions and `identity`."""
    digest = hashlib.sha256(identity.encode())
    started = getattr(sys.modules["__main__"], "__file__", "")
    for text in (ms.__version__, platform.python_version(), platform.machine(), str(started)):
        digest.update(f"\n{text}".encode("utf-8", "surrogateescape"))
    for path in sorted(SOURCES.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _signature(value):
    """Return what a graph depends on of an argument, as text. Raises TypeError for other kinds."""
    if isinstance(value, ms.Tensor):
        return f"{value.dtype}{tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_signature, value))}]"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise TypeError


def _key(function, args, more):
    try:
        given = _signature(args), _signature(sorted(more.items()))
    except TypeError:
        return None
    return f"{function.__module__}.{function.__qualname__}{given}"


def _watch(executor):
    """Have MindSpore's compiler tell when it compiles; return whether it has the places for it."""
    if not (hasattr(executor, "compile") and hasattr(executor, "_set_compile_cache_dep_files")):
        return False
    look_up, prepare = executor.compile, executor._set_compile_cache_dep_files

    def compile(self, name, *args, phase="", **more):
        """Look for a graph, and compile it if there is none."""
        _State.key = _key(self.fn, args, more) if _State.is_keeping else None
        is_done = False
        try:
            found = look_up(self, name, *args, phase=phase, **more)
            is_done = True
        finally:
            if _State.begun is not None:
                _State.seconds += time.perf_counter() - _State.begun
                _State.begun = None
                _end(is_done)
        return found

    def begin(self):
        """Do what comes right before a compilation."""
        _State.begun = time.perf_counter()
        if _State.key is not None and _State.kept.may_keep(_State.key):
            ms.set_context(enable_compile_cache=True)
        else:
            _State.key = None
        return prepare(self)

    executor.compile, executor._set_compile_cache_dep_files = compile, begin
    return True


def _end(is_done):
    """Note the end of a compilation."""
    if _State.key is None:
        return
    ms.set_context(enable_compile_cache=False)
    if is_done:
        _State.kept.compiled(_State.key)
    else:
        _State.kept.agrees = False      # nobody knows how MindSpore counts it
    _State.key = None


_is_watched = _watch(getattr(api, "_JitExecutor", None))
