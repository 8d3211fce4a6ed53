"""The output folder as the page shows it: which results there are, and which files may be read."""
import io
import json
import os
import re
import stat
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MOST_LISTED = 300       # results, the newest
TOLD = ("run.json", "report.json")      # what a result has: of views, of a mesh in one pass
NEVER = float("-inf")
MAX_JSON = 4 << 20      # bytes of a run.json or report.json that is read
SUFFIXES = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4", ".json":
            "application/json", ".glb": "model/gltf-binary", ".obj": "text/plain",
            ".mtl": "text/plain", ".ply": "application/octet-stream", ".html": "text/html"}
# {name of a download: the files in it}
ARCHIVES = {"views.zip": (r"[0-9]{3,}\.png|transforms\.json|run\.json", ""),
            "mesh_obj.zip": (r"mesh\.(obj|mtl|png)", "mesh")}
DOWNLOADS = ("mesh/mesh.glb", "mesh_obj.zip", "mesh/mesh.ply", "views.zip", "transforms.json",
             "views.mp4", "report.html")
NAME = re.compile(r"[^/\0.\s][^/\0]{0,199}")


class Result(NamedTuple):
    """What there is of one image: the name of its folder, its files, and what two of them say.

    run: its run.json, of a mesh without views its report.json; report: that of its mesh; {} without
    one.
    """
    name: str
    files: frozenset
    run: dict
    report: dict


class Results:
    """The results in an output folder. `folder` is made if it is not there.

    Nothing outside is ever read: names go down only, hidden ones and links are left out.
    """

    def __init__(self, folder):
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock, self.reserved = threading.Lock(), set()

    def names(self):
        """Return the names of the results, the newest first."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    times = [_time(Path(entry.path) / file) for file in TOLD]
                    if max(times) > NEVER:
                        found.append((max(times), entry.name))
        return [name for _, name in sorted(found, reverse=True)[:MOST_LISTED]]

    def free_name(self, stem, ending):
        """Return a stem for which neither a folder stem + ending is there, nor another user has it.

        `stem`, as `plain` has it, or with a number. It is reserved until `release`.
        """
        stem = plain(stem)
        with self.lock:
            for number in range(1, 1 << 20):
                name = stem if number == 1 else f"{stem}-{number}"
                folder = f"{name}{ending}"
                if folder not in self.reserved and not os.path.lexists(self.folder / folder):
                    self.reserved.add(folder)
                    return name

    def release(self, folder):
        """Give a folder back that `free_name` has reserved, and in which nothing will be."""
        with self.lock:
            self.reserved.discard(folder)

    def path(self, name, file):
        """Return the path of a file of a result that may be read; None for any other.

        file: as in a URL, "mesh/mesh.glb"; only in this form, not as "./mesh//mesh.glb/".
        """
        parts = (name, *PurePosixPath(file).parts)
        if "/".join(parts[1:]) != file or len(parts) > 3 or Path(file).suffix not in SUFFIXES:
            return None
        place = self.folder
        for part in parts:
            if not NAME.fullmatch(part):
                return None
            place = place / part
            try:
                mode = os.lstat(place).st_mode
            except (OSError, ValueError):
                return None
            if not (stat.S_ISDIR(mode) or part is parts[-1] and stat.S_ISREG(mode)):
                return None
        return place if stat.S_ISREG(mode) else None

    def get(self, name):
        """Return the `Result` of a name; None if there is none."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            return None
        files = {file for folder in ("", "mesh/") for file in self._listed(name, folder)}
        files = frozenset(file for file in files if self.path(name, file))
        if not files:
            return None
        report = self._json(name, "mesh/report.json") if "mesh/mesh.glb" in files else {}
        told = next((file for file in TOLD if file in files), TOLD[0])
        return Result(name, files, self._json(name, told), report)

    def _listed(self, name, folder):
        try:
            return [f"{folder}{file}" for file in os.listdir(self.folder / name / folder)]
        except OSError:
            return []

    def _json(self, name, file):
        path = self.path(name, file)
        try:
            if path is not None and path.stat().st_size <= MAX_JSON:
                found = json.loads(path.read_text(encoding="utf-8"))
                return found if isinstance(found, dict) else {}
        except (OSError, ValueError, RecursionError):
            pass
        return {}

    def archive(self, name, archive):
        """Return one of ARCHIVES as bytes; None if there is nothing to put into it."""
        if archive not in ARCHIVES:
            return None
        pattern, folder = ARCHIVES[archive]
        prefix = f"{folder}/" * bool(folder)
        files = sorted(file for file in self._listed(name, prefix)
                       if re.fullmatch(re.escape(prefix) + f"(?:{pattern})", file))
        paths = [path for path in (self.path(name, file) for file in files) if path]
        if not paths:
            return None
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:   # pictures do not shrink
            for path in paths:
                packed.write(path, f"{name}/{path.name}")
        return out.getvalue()

    def downloads(self, result):
        """Return the names of what can be downloaded of a Result."""
        def is_there(name):
            if name not in ARCHIVES:
                return name in result.files
            pattern, folder = ARCHIVES[name]
            prefix = re.escape(f"{folder}/" * bool(folder))
            return any(re.fullmatch(f"{prefix}(?:{pattern})", file) for file in result.files)
        return [name for name in DOWNLOADS if is_there(name)]


def plain(stem):
    """Return a text as a file's name may have it: letters, digits, - and _, at most 60."""
    return re.sub(r"[^\w-]+", "_", stem).strip("_-")[:60] or "image"


def _time(file):
    """Return when a file was last written; NEVER if there is none."""
    try:
        return os.stat(file, follow_symlinks=False).st_mtime
    except OSError:
        return NEVER
