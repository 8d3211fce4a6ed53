"""Renders sets of orbits with exact cameras: a folder of views per object, or one packed array.

Objects are rendered in several processes. What is finished is kept, so a call with the same
settings continues a set, and one with other settings is refused. Every object has its own elevation
and orbit, and with varied lighting its own lights. All are drawn from the seed and the object's
name alone, so the number of processes and the order do not matter.

A packed set has clips.npy (N, T, H, W, 4) uint8 with straight alpha, azimuths.npy and
elevations.npy (N, T) float32 degrees, and names.npy (N,) text. A folder of degraded views has their
truth within: the folder truth with the clean views, the true cameras and the shape as mesh.ply;
one of a catalogue object has the shape there.
"""
from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from sgm.common.arrays import read_npy
from sgm.common.cli import check_folder
from sgm.common.errors import InputError
from sgm.common.files import atomic
from sgm.geometry.mesh import Mesh, MeshError
from sgm.geometry.mesh_reader import SUFFIXES, load_mesh
from sgm.geometry.mesh_writer import ply
from sgm.geometry.zipped import ZippedMesh, members
from sgm.render.catalogue import CatalogueObject
from sgm.render.degradation import Degradation, degraded_orbit
from sgm.render.families.named import HALF_TURN, ProceduralObject, objects_of
from sgm.render.framing import normalized, viewing_distance
from sgm.render.variation import variation_of
from sgm.render.zbuffer import SOFT, STUDIO, Lighting, render_views
from sgm.views.cameras import DISTANCE, FOV_DEG, Orbit, position
from sgm.views.transforms import write_transforms

PACK_BLOCK = 16     # objects per task when packing
TRUTH = "truth"     # folder within degraded views
_VIEW_FILES = re.compile(r"[0-9]+\.png|transforms\.json")
_TRUTH_FILES = re.compile(r"[0-9]+\.png|transforms\.json|mesh\.ply")
_SET_FILES = re.compile(
    r"(clips|azimuths|elevations|names|seeds|starts|done)\.npy|render\.json|failed\.txt")
_TEMPORARY = re.compile(r"\..+\.tmp")          # what a killed process left, see `atomic`

# progress(done, total, failure): objects that are finished, of how many, and (name, reason) of one
# that just failed, or None
Progress = Callable[[int, int, "tuple[str, str] | None"], None]

# where an object comes from: a mesh file, one within an archive, or what builds or loads itself
Source = ProceduralObject | str | ZippedMesh | CatalogueObject
Item = tuple[str, Source]           # its name, and that


@dataclass(frozen=True)
class OrbitSettings:
    """What all orbits of a set have in common; recorded in its render.json."""
    # objects: "procedural" by seed, "meshes" from files, or those of the "catalogue"
    kind: str = "procedural"
    family: str = HALF_TURN         # procedural only: one of sgm.render.families.named.FAMILIES
    kinds: tuple[str, ...] | None = None    # procedural only: kinds of it, None all
    size: int = 576                 # pixels per side
    frames: int = 21                # views per orbit
    # "static": constant elevation; "dynamic": the random orbits of SV3D's paper; "rings": the same
    # 36 cameras for all objects
    orbit: str = "static"
    elevation: tuple[float, float] = (-5.0, 30.0)   # range of the input view's elevation, degrees
    # "fixed": the same lights for all objects; "varied": soft lights of each object's own
    lighting: str = "fixed"
    supersample: int = 2            # samples per pixel and side
    seed: int = 0                   # draws elevations, orbits, lights and variations
    up: str | None = None           # meshes only: up axis of the files, "auto", "y" or "z"
    # meshes only: "box" scales the longest side to 1, "sphere" the radius to 0.5
    fit: str | None = None
    variations: int | None = None   # varied forms of each object, instead of the object itself
    degrade: Degradation | None = None      # faults of generated views

    def record(self) -> dict:
        """Return the settings as render.json holds them."""
        values = {name: list(value) if name == "kinds" else value
                  for name, value in asdict(self).items() if value is not None}
        if self.family == HALF_TURN:        # as in sets from before there was another
            del values["family"]
        return values | {"elevation": [float(bound) for bound in self.elevation]}


# --- one object -----------------------------------------------------------------------------------

def orbit_of(name: str, settings: OrbitSettings) -> Orbit:
    """Return the object's own orbit, drawn from the seed and the name.

    Its elevation is uniform in the range.
    """
    if settings.orbit == "rings":
        return Orbit.rings()
    rng = np.random.RandomState(_seed_of(f"{settings.seed}/{name}"))
    elevation = round(float(rng.uniform(*settings.elevation)), 3)
    if settings.orbit == "static":
        return Orbit.static(elevation, settings.frames)
    return Orbit.dynamic(int(rng.randint(2 ** 31 - 1)), elevation, settings.frames)


def _seed_of(text: str) -> int:
    # names of files need not be text
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def lighting_of(name: str, settings: OrbitSettings, usual: Lighting) -> Lighting:
    """Return the object's lights: the usual ones, or varied ones, which stay soft.

    The key light stands 20 to 75 degrees high at any azimuth, the fill light lower and 100 to 260
    degrees further round. Strengths are the usual ones times 0.75 to 1.25 (key), 0.5 to 2 (fill,
    sky), 0.85 to 1.1 (ambient).
    """
    if settings.lighting == "fixed":
        return usual
    rng = np.random.RandomState(_seed_of(f"{settings.seed}/{name}/light"))
    azimuth, high, low = rng.uniform(0, 360), rng.uniform(20, 75), rng.uniform(0, 30)
    across = azimuth + rng.uniform(100, 260)
    key, fill, sky, ambient = rng.uniform((0.75, 0.5, 0.5, 0.85), (1.25, 2, 2, 1.1))
    return Lighting(ambient * usual.ambient, key * usual.key, tuple(position(azimuth, high, 1.0)),
                    fill * usual.fill, tuple(position(across, low, 1.0)), sky * usual.sky)


@dataclass(frozen=True)
class Rendered:
    """The views (T, H, W, 4) uint8 of an object, and how they were made."""
    views: np.ndarray
    mesh: Mesh
    orbit: Orbit
    distance: float
    lighting: Lighting


def rendered(name: str, mesh: Mesh, settings: OrbitSettings) -> Rendered:
    """Render the object `name`, whose mesh `load_object` returned."""
    orbit, distance, lighting = orbit_of(name, settings), DISTANCE, SOFT
    variation = variation_of(name, settings.seed) if settings.variations else None
    if settings.kind != "procedural":
        mesh = normalized(variation.of_mesh(mesh) if variation else mesh, settings.fit)
        distance, lighting = viewing_distance(mesh, orbit), STUDIO
    lighting = lighting_of(name, settings, lighting)
    views = render_views(mesh, orbit.poses(distance), settings.size, FOV_DEG,
                         supersample=settings.supersample, lighting=lighting)
    return Rendered(variation.of_colors(views) if variation else views, mesh, orbit, distance,
                    lighting)


def load_object(source: Source, up: str | None) -> Mesh:
    """Return the mesh of an object, z up. Raises MeshError."""
    if isinstance(source, (ProceduralObject, CatalogueObject)):
        return source.load()
    return source.load(up) if isinstance(source, ZippedMesh) else load_mesh(source, up)


def render_folder(item: Item, out: str, settings: OrbitSettings) -> tuple[str, str | None]:
    """Render one object into out/name; return its name and why it failed, or None."""
    name, source = item
    final = Path(out, name)
    try:
        foreign = _foreign_in(final) if final.is_dir() else None
        if foreign or final.exists() and not final.is_dir():
            found = foreign.relative_to(final) if foreign else "a file"
            return name, f"{final} is in the way ({found}); give another --out"
        made = rendered(name, load_object(source, settings.up), settings)
        views, written = made.views, made.orbit
        if settings.degrade:
            rng = np.random.RandomState(zlib.crc32(f"{settings.seed}/{name}/degrade".encode()))
            views, written = degraded_orbit(made.mesh, made.orbit, made.distance, settings.size,
                                            made.lighting, settings.supersample, settings.degrade,
                                            rng)
    except (MeshError, MemoryError) as error:
        return name, str(error) or "out of memory"
    with atomic(final, name=f"--out {final}") as folder:
        write_pictures(folder, views)
        write_transforms(folder, written, settings.size, distance=made.distance)
        if settings.degrade:
            write_pictures(folder / TRUTH, made.views)
            write_transforms(folder / TRUTH, made.orbit, settings.size, distance=made.distance)
        if settings.degrade or settings.kind == "catalogue":
            mesh = made.mesh
            colors = np.ones((len(mesh.vertices), 3)) if mesh.colors is None else mesh.colors
            (folder / TRUTH).mkdir(exist_ok=True)
            (folder / TRUTH / "mesh.ply").write_bytes(
                ply(mesh.vertices, mesh.faces, np.round(255 * np.clip(colors, 0, 1))))
        shutil.rmtree(final, ignore_errors=True)
    return name, None


def write_pictures(folder: Path, pictures: np.ndarray):
    """Write pictures (T, H, W, 3 or 4) uint8 as 000.png, 001.png, ... into a new folder."""
    folder.mkdir()
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{k:03d}.png")


def render_block(rows: list[tuple[int, Item]], folder: str, settings: OrbitSettings) -> int:
    """Render items into their rows of a packed set; return how many. Raises MeshError."""
    arrays = {name: read_npy(Path(folder, name + ".npy"), "r+")
              for name in ("clips", "azimuths", "elevations", "done")}
    loaded = None
    for row, (name, source) in rows:
        if source != loaded:        # the forms of one object follow each other
            mesh, loaded = load_object(source, settings.up), source
        made = rendered(name, mesh, settings)
        arrays["clips"][row] = made.views
        arrays["azimuths"][row] = made.orbit.azimuths_deg
        arrays["elevations"][row] = made.orbit.elevations_deg
        arrays["done"][row] = True
    return len(rows)


# --- processes ------------------------------------------------------------------------------------

def in_processes(task: Callable, items: list, workers: int) -> Iterator:
    """Yield the results of task(item), in order, from `workers` processes.

    Ctrl-C lets running items end. Raises InputError if the system kills a worker.
    """
    if workers == 1 or len(items) < 2:
        yield from map(task, items)
        return
    pool = ProcessPoolExecutor(min(workers, len(items)), initializer=_start_worker)
    try:
        yield from pool.map(task, items)
    except BrokenProcessPool:
        raise InputError("a worker was killed, most likely because memory ran out; start again with"
                         " --workers 1") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker():
    """Leave Ctrl-C and a closed terminal to the parent; SIGTERM ends the worker without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # An orphan would wait without end, or finish its object while the next run renders the same
    # one. Linux's PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


# --- whole sets -----------------------------------------------------------------------------------

def procedural_items(seeds: Iterable[int]) -> list[tuple[str, ProceduralObject]]:
    """Return (name, object) of seeds of the first family, as `render_folders` takes them."""
    return [(each.name, each) for each in map(ProceduralObject, seeds)]


def items_of_kinds(family: str, kinds: tuple[str, ...] | None, first: int,
                   count: int) -> list[tuple[str, ProceduralObject]]:
    """Return (name, object) of the first `count` objects of some kinds, None all, from a seed on.

    Raises InputError if there are not so many.
    """
    items = [(each.name, each) for each in islice(objects_of(family, kinds, first), count)]
    if len(items) < count:
        raise InputError(f"--first-seed {first} --count {count}: seeds must stay under 2^32")
    return items


def mesh_items(paths: list[str], copies: int = 0) -> list[tuple[str, str | ZippedMesh]]:
    """Return the sorted (name, source) of mesh files, and of those in folders and zip archives.

    Folders are searched with their sub-folders. The name is the file's without its suffix; files
    that share one get their folder's in front, or the whole path. With `copies`, every file comes
    so often, the copy's number behind its name. Raises InputError if a path does not exist or no
    file is found.
    """
    files = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give mesh files"
                             f" ({', '.join(SUFFIXES)}), folders or zip archives")
        if path.is_dir():
            files |= {p: str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES}
        elif path.suffix.lower() == ".zip":
            files |= {path / member: ZippedMesh(str(path), member) for member in members(path)
                      if Path(member).suffix.lower() in SUFFIXES
                      and not member.startswith("__MACOSX/")}     # what macOS adds is no mesh
        else:
            files[path] = str(path)
    if not files:
        raise InputError(f"{paths[0]}: no mesh files in it; expected {', '.join(SUFFIXES)}")
    names = [p.stem for p in sorted(files)]
    for name_of in (lambda p: f"{p.resolve().parent.name}-{p.stem}",
                    lambda p: "-".join(p.resolve().parts[1:])):
        shared = {name for name, count in Counter(names).items() if count > 1}
        names = [name_of(p) if name in shared else name for name, p in zip(names, sorted(files))]
    items = [(name, files[path]) for name, path in zip(names, sorted(files))]
    return [(f"{name}-{k:02d}", source) for name, source in items
            for k in range(copies)] if copies else items


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
            if foreign := _foreign_in(path):
                return foreign
        elif not (_SET_FILES.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)):
            return path
    return None


def _foreign_in(folder: Path, files: re.Pattern = _VIEW_FILES) -> Path | None:
    """Return something in a folder of views, or of their truth, that is neither, or None."""
    for path in sorted(folder.iterdir()):
        if path.name == TRUTH and files is _VIEW_FILES and path.is_dir() and not path.is_symlink():
            if foreign := _foreign_in(path, _TRUTH_FILES):
                return foreign
        elif path.is_dir() or not files.fullmatch(path.name):
            return path
    return None


def render_folders(items: list[Item], out: Path, settings: OrbitSettings, *,
                   workers: int = 1, overwrite: bool = False,
                   progress: Progress | None = None) -> dict[str, str]:
    """Render a views folder out/name for every item; finished ones are kept.

    items: see `procedural_items`, `mesh_items`, `catalogue_items`. Returns {name: reason} of the
    objects that failed, which out/failed.txt lists too. Raises InputError if `out` holds orbits of
    other settings or cannot be written.
    """
    claim(out, settings.record(), overwrite)
    todo = [item for item in items if not (out / item[0] / "transforms.json").exists()]
    done, failed = len(items) - len(todo), {}
    results = in_processes(partial(render_folder, out=str(out), settings=settings), todo, workers)
    with closing(results):
        for name, reason in results:
            done += 1
            if reason:
                failed[name] = reason
            if progress:
                progress(done, len(items), (name, reason) if reason else None)
    listing = out / "failed.txt"
    listing.unlink(missing_ok=True)
    if failed:
        # names of files need not be text
        listing.write_text("".join(f"{name}\t{reason}\n" for name, reason in failed.items()),
                           "utf-8", "backslashreplace")
    return failed


def render_packed(items: list[Item], out: Path, settings: OrbitSettings, *, workers: int = 1,
                  overwrite: bool = False, progress: Progress | None = None) -> bool:
    """Render the orbits of items into one packed set.

    Returns whether there was anything to do. An unfinished set lies in out.partial and is
    continued. Raises InputError as `render_folders` does, if an object cannot be rendered, or if
    the disk has not enough space.
    """
    record = settings.record() | {"count": len(items)}
    if settings.kind == "procedural":
        record["first_seed"] = items[0][1].seed
    names = [name for name, _ in items]
    begun = begin_packed(out, record, names, settings.frames, settings.size, overwrite)
    if begun is None:
        return False
    # Render the rows that are missing.
    work, todo = begun
    blocks = [[(row, items[row]) for row in todo[k:k + PACK_BLOCK]]
              for k in range(0, len(todo), PACK_BLOCK)]
    done = len(items) - len(todo)
    results = in_processes(partial(render_block, folder=str(work), settings=settings), blocks,
                           workers)
    with closing(results):
        for count in results:
            done += count
            if progress:
                progress(done, len(items), None)
    finish_packed(work, out)
    return True


def begin_packed(out: Path, record: dict, names: list[str], frames: int, size: int,
                 overwrite: bool = False) -> tuple[Path, list[int]] | None:
    """Return the folder of an unfinished packed set and its rows to do; None if it is finished.

    record: what render.json says of it; names: of its rows. See `render_packed`.
    """
    work = out.with_name(out.name + ".partial")
    # Start afresh, or accept what is there.
    if overwrite and out.exists():
        claim(out, record, True)            # refuses folders of others, empties our own
        shutil.rmtree(out)
    if (out / "clips.npy").exists():
        claim(out, record)                  # refuses another kind
        if (out / "names.npy").exists():    # in sets from before, the seeds' record is enough
            _check_names(out, names)
        return None
    if out.exists():
        raise InputError(f"--out {out}: exists and holds no packed set; give another --out")
    claim(work, record, overwrite)
    if not (work / "done.npy").exists():
        _make_arrays(work, out, names, frames, size)
    return work, _rows_to_do(work, names, frames, size)


def finish_packed(work: Path, out: Path):
    """Give a set whose rows are all there its name."""
    os.replace(work, out)
    (out / "done.npy").unlink()


def write_row(work: Path, row: int, views: np.ndarray, orbit: Orbit):
    """Write views (T, S, S, 4) uint8, straight alpha, and cameras of a row of an unfinished set."""
    for name, values in (("clips", views), ("azimuths", orbit.azimuths_deg),
                         ("elevations", orbit.elevations_deg), ("done", True)):
        array = read_npy(work / f"{name}.npy", "r+")
        array[row] = values
        array.flush()


def _layout(names, frames, size):
    """Return (name, type, shape) of the arrays of an unfinished packed set; "done" is the last."""
    count = len(names)
    return (("clips", np.uint8, (count, frames, size, size, 4)),
            ("azimuths", np.float32, (count, frames)), ("elevations", np.float32, (count, frames)),
            ("names", np.array(names).dtype, (count,)), ("done", bool, (count,)))


def _check_names(folder, names):
    """Raise InputError if a set has other objects."""
    found = read_npy(folder / "names.npy").tolist()
    if found != names:
        other = next((name for name, one in zip(names, found) if name != one), names[-1])
        raise InputError(f"--out {folder}: holds other objects than {other} in its place; give"
                         " another --out, or --overwrite to start afresh")


def _rows_to_do(folder, names, frames, size):
    """Return the rows of an unfinished packed set that are missing. Raises InputError."""
    try:
        arrays = {name: read_npy(folder / f"{name}.npy", "r", kind, shape)
                  for name, kind, shape in _layout(names, frames, size)}
    except (InputError, OSError) as error:
        raise InputError(f"{error}; give --overwrite to start afresh") from None
    _check_names(folder, names)
    return np.flatnonzero(~arrays["done"]).tolist()


def _make_arrays(folder: Path, out: Path, names: list[str], frames: int, size: int):
    """Write the empty arrays of a packed set; done.npy, the last, shows that all are there."""
    needed, free = len(names) * frames * size * size * 4, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"--out {out}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB"
                         " are free; render fewer or smaller orbits")
    for name, kind, shape in _layout(names, frames, size):
        with atomic(folder / f"{name}.npy", name=f"--out {out}") as new:
            array = np.lib.format.open_memmap(new, "w+", kind, shape)
            if name == "names":
                array[:] = names
            array.flush()
            with open(new, "r+b") as file:  # else a disk that fills up later would kill the process
                os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
