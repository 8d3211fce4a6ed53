"""Renders short videos that are no orbits: the camera slides, approaches and rolls."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from sgm.common.errors import InputError
from sgm.common.files import atomic
from sgm.render.procedural import make_object, on_white
from sgm.render.sets.folders import write_pictures
from sgm.render.sets.processes import in_processes
from sgm.render.zbuffer import SOFT, render_views
from sgm.views.cameras import DISTANCE, FOV_DEG, camera_to_world
from sgm.views.images import read_image

# largest move of the camera to a side, up or down, and along its line of sight; world units
SLIDE = (0.25, 0.2, 0.5)
ROLL = 25.0                 # largest turn of the camera about that line, degrees
SUPERSAMPLE = 2


def clip_poses(rng: np.random.RandomState, count: int) -> np.ndarray:
    """Return the poses of a camera in steady motion, (count, 4, 4) float64 OpenGL camera-to-world.

    It starts looking at the origin and never turns about the object. Where it stands and how far it
    moves, sideways, up, along its line of sight and about it, is uniform within `SLIDE` and `ROLL`.
    """
    start = camera_to_world(rng.uniform(0, 360), rng.uniform(-5, 30), DISTANCE)
    shift, roll = rng.uniform(-1, 1, 3) * SLIDE, np.deg2rad(rng.uniform(-ROLL, ROLL))
    poses = []
    for share in np.linspace(0, 1, count):
        c, s = np.cos(share * roll), np.sin(share * roll)
        motion = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        motion[:3, 3] = share * shift
        poses.append(start @ motion)
    return np.stack(poses)


def render_video_clip(seed: int, out: str, size: int, count: int):
    """Render `count` frames of one object into the folder out/<seed>, whole or not at all."""
    poses = clip_poses(np.random.RandomState(seed), count)
    views = render_views(make_object(seed), poses, size, FOV_DEG, supersample=SUPERSAMPLE,
                         lighting=SOFT)
    final = Path(out, f"{seed:07d}")
    with atomic(final, name=f"--out {final}") as folder:
        write_pictures(folder, on_white(views))


def _check_same(out, seeds, size, count):
    """Raise InputError if the clips of `seeds`, which are there, are not of this size and length.
    """
    clips = [sorted((out / f"{seed:07d}").glob("*.png")) for seed in seeds]
    clips = [files for files in clips if files]
    if not clips:
        return
    found = max(map(len, clips)), *read_image(clips[0][0], lambda picture: picture.size)
    if found != (count, size, size):
        raise InputError(f"--out {out}: holds clips of {found[0]} frames of {found[1]} x {found[2]}"
                         f" pixels, expected {count} of {size} x {size}; give another --out")


def render_video_clips(seeds: range, out: Path, size: int, count: int, *, workers: int = 1,
                       progress: Callable[[int, int], None] | None = None):
    """Render one clip of each object; clips that exist are kept.

    progress(done, total) follows each. Raises InputError if `out` cannot be written, or holds clips
    of another size or length.
    """
    out.mkdir(parents=True, exist_ok=True)
    todo = [seed for seed in seeds if not (out / f"{seed:07d}").is_dir()]
    _check_same(out, sorted(set(seeds) - set(todo)), size, count)
    rendered = in_processes(partial(render_video_clip, out=str(out), size=size, count=count), todo,
                            workers)
    for done, _ in enumerate(rendered, len(seeds) - len(todo) + 1):
        if progress:
            progress(done, len(seeds))
