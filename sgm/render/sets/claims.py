"""Which folders are a set's own: what another run or another program wrote is not touched."""
from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from sgm.common.cli import check_folder
from sgm.common.errors import InputError
from sgm.common.files import atomic
from sgm.render.families.named import HALF_TURN

TRUTH = "truth"     # folder within degraded views
_VIEW_FILES = re.compile(r"[0-9]+\.png|transforms\.json")
_TRUTH_FILES = re.compile(r"[0-9]+\.png|transforms\.json|mesh\.ply")
_SET_FILES = re.compile(
    r"(clips|azimuths|elevations|names|seeds|starts|done)\.npy|render\.json|failed\.txt")
_TEMPORARY = re.compile(r"\..+\.tmp")          # what a killed process left, see `atomic`


def claim(folder: Path, record: dict, overwrite: bool = False):
    """Make the folder and note what is rendered into it, or check the note that is there.

    overwrite: delete what an earlier run left there, if nothing else is in it. Raises InputError
    rather than mix two kinds in one folder, or delete what this program did not render.
    """
    check_folder(folder, "--out")
    note = folder / "render.json"
    if overwrite and folder.exists():
        if not note.exists() and any(folder.iterdir()):
            raise InputError(f"--overwrite: {folder} is not empty and was not made by this tool (no"
                             " render.json); give another --out")
        foreign = _foreign(folder)
        if foreign:
            raise InputError(f"--overwrite: {foreign} is not of the orbits, and would be deleted"
                             " with them; move it, or give another --out")
        # aside first: half deleted it would look finished
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        shutil.rmtree(old)
    if note.exists():
        try:
            found = dict(json.loads(note.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError):
            raise InputError(f"{note}: is damaged; give another --out, or --overwrite to start"
                             " afresh") from None
        # what is not noted, since it is usual, or because the set is from before there was another
        usual = {"kind": None, "lighting": "fixed", "family": HALF_TURN} | dict.fromkeys(
            ("kinds", "degrade", "variations"))
        found = usual | found
        for key, value in (usual | record).items():
            if found.get(key) != value:
                raise InputError(f"--out {folder}: holds orbits rendered with {key}"
                                 f" {found.get(key)}, this run has {key} {value}; give another"
                                 " --out, or --overwrite to start afresh")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(note) as temporary:
        temporary.write_text(json.dumps(record, indent=1))


def _foreign(folder: Path) -> Path | None:
    """Return something in a folder of orbits that rendering did not write, or None."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and not _TEMPORARY.fullmatch(path.name):
            if foreign := foreign_in(path):
                return foreign
        elif not (_SET_FILES.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)):
            return path
    return None


def foreign_in(folder: Path, files: re.Pattern = _VIEW_FILES) -> Path | None:
    """Return something in a folder of views, or of their truth, that is neither, or None."""
    for path in sorted(folder.iterdir()):
        if path.name == TRUTH and files is _VIEW_FILES and path.is_dir() and not path.is_symlink():
            if foreign := foreign_in(path, _TRUTH_FILES):
                return foreign
        elif path.is_dir() or not files.fullmatch(path.name):
            return path
    return None
