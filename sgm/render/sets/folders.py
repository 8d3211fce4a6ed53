"""Sets that are a folder of views for each object."""
from __future__ import annotations

import shutil
import zlib
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from sgm.common.files import atomic
from sgm.geometry.mesh import MeshError
from sgm.geometry.mesh_writer import ply
from sgm.render.degradation import degraded_orbit
from sgm.render.sets.claims import TRUTH, claim, foreign_in
from sgm.render.sets.objects import load_object, rendered
from sgm.render.sets.processes import in_processes
from sgm.render.sets.settings import Item, OrbitSettings, Progress
from sgm.views.transforms import write_transforms


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


def render_folder(item: Item, out: str, settings: OrbitSettings) -> tuple[str, str | None]:
    """Render one object into out/name; return its name and why it failed, or None."""
    name, source = item
    final = Path(out, name)
    try:
        foreign = foreign_in(final) if final.is_dir() else None
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
