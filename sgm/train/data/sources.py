"""Finds training and validation clips: what lies at a recipe's paths chooses its reader.

A path of `data` or `val`, or what a glob finds, is for a model of orbits
    a folder with clips.npy             a packed set (packed.py)
    a folder with transforms.json       one orbit, a views folder (orbits.py)
    a folder with cameras.npz, meta.pkl one Objaverse render (orbits.py)
    a .json file                        a list of ids of Objaverse renders
    any other folder                    all of these in it, up to `DEPTH` levels down
and for a model of videos
    a video file, a folder of images    cut into clips (videos.py); fps and motion from a clips.csv
                                        in the same folder, or estimated
    any other folder                    all of these in it.
A folder's train.txt and val.txt name, one on each line, what in it is trained on and what is held
out. With val.txt alone the rest is trained on; with train.txt alone the rest is not used.
"""
import glob
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from sgm.common.errors import InputError, one_line
from sgm.common.files import check_file
from sgm.train.data.clips import Clips, DataError, Memo, SkippedClips, log
from sgm.train.data.latent_cache import LatentStore
from sgm.train.data.latents import MANY, LatentClips, PixelClips
from sgm.train.data.motion import TABLE, read_table
from sgm.train.data.orbits import CAMERA_FILES, read_ids, read_orbit, read_render
from sgm.train.data.packed import PackedOrbits
from sgm.train.data.videos import VIDEO_SUFFIXES, read_video
from sgm.views.images import IMAGE_SUFFIXES

DEPTH = 3               # levels of folders that are looked through below a path of `data`
SPLITS = ("train", "val")
LEVEL = 5.0             # degrees by which the elevation of a static orbit may change


def find_data(settings, spec, progress):
    """Return what `open_data` needs of a recipe's data before there are networks: found and read.

    spec: the ModelSpec. progress(iterable, description) wraps long loops. Raises InputError:
    nothing is found, too much of it is unreadable, or it does not fit the model.
    """
    store = cache_store(settings)  # one for both: making room for the one must not remove the other
    return store, read_clips(settings, spec, store.memo if store else Memo(), progress)


def open_data(settings, engine, progress, rank=0, world_size=1, found=None):
    """Return (training examples, validation examples or None) of a recipe.

    settings: has the fields of `DataSettings`. progress(iterable, description) wraps long loops.
    The conditioner of `engine` must hold its weights, and keep them if settings.cache is false or
    settings.augment is not empty. rank, world_size: see `LatentClips`. found: the result of
    `find_data`, if it was called before. Both results have `batch(rng, indices, drop,
    random_start)`, `len()` and `num_frames` (see `Examples`). Raises InputError as `find_data`.
    """
    store, clips = found or find_data(settings, engine.spec, progress)
    return tuple(
        items and _examples(items, skipped, store, settings, engine, progress, rank, world_size)
        for items, skipped in clips)


def _examples(clips, skipped, store, settings, engine, progress, rank, world_size):
    spec = engine.spec
    condition = settings.condition if spec.is_orbit else "first"
    if store is None:
        return PixelClips(clips, engine, condition, spec.num_frames, settings.augment,
                          settings.encode_chunk, skipped)
    return LatentClips(clips, engine, store, progress, condition, spec.num_frames, settings.augment,
                       encode_chunk=settings.encode_chunk, rank=rank, world_size=world_size,
                       skipped=skipped)


def cache_folder(settings):
    """Return the folder in which encoded clips are kept."""
    if settings.cache_folder:
        return Path(settings.cache_folder)
    first = settings.data[0] if settings.data else "."
    # before its pattern
    plain = first[:min((first.index(c) for c in "*?[" if c in first), default=len(first))]
    return Path(plain).absolute().parent / "cache"


def cache_store(settings):
    """Return the LatentStore of a recipe, or None without a cache."""
    return LatentStore(cache_folder(settings), settings.cache_gb) if settings.cache else None


def cache_memo(settings):
    """Return the Memo in the cache folder, or one in memory if there is no cache."""
    return cache_store(settings).memo if settings.cache else Memo()


def read_clips(settings, spec, memo, progress=None):
    """Return the (Clips, SkippedClips) of a recipe for training, and those for validation.

    The latter Clips may be None. They are for the model `spec`. Nothing is decoded yet except the
    frames of videos, which are counted. Clips have at least the model's number of views; if
    settings.task is "autoencoder", which sees single views, any number. progress(iterable,
    description) wraps the loop over many. Raises InputError as `open_data` does.
    """
    least = 1 if getattr(settings, "task", None) == "autoencoder" else spec.num_frames
    split = {"train": [], "val": []}
    for place in expand(settings.data, "data"):
        for name, found in find(place, spec.is_orbit).items():
            split[name] += found
    for place in expand(settings.val, "val"):
        split["val"] += [item for found in find(place, spec.is_orbit).values() for item in found]
    if not split["train"]:
        raise DataError("data: found no clip to train on; expected packed sets or folders of"
                        " tools/render_orbits.py, or videos (--set data=[...])")
    return tuple(_read(split[name], settings, spec, least, memo, progress) for name in SPLITS)


def expand(patterns, key):
    """Return the paths that a recipe's list of paths and globs (** too) names, sorted within each.

    Raises DataError.
    """
    places = []
    for pattern in patterns:
        try:
            found = [Path(pattern)]
            if not found[0].exists():
                found = sorted(map(Path, glob.glob(pattern, recursive=True)))
        except (OSError, ValueError):       # a name that no file can have
            found = []
        if not found or not pattern:
            name = pattern if len(pattern) <= 1000 else pattern[:1000] + "..."
            raise DataError(f"{key}: {name or 'an empty name'}: no such file or folder; expected"
                            " packed sets, folders of views, a JSON list of Objaverse ids, or"
                            " videos")
        for path in found:
            check_file(path, DataError)
        places += found
    return places


def find(place, is_orbit):
    """Return {"train": [(kind, path), ...], "val": [...]} of what lies at `place`.

    It is divided by its train.txt and val.txt if it has one of them; kinds are packed, orbit,
    render, video. Raises DataError.
    """
    for split in SPLITS:
        check_file(place / f"{split}.txt", DataError)
    names = {
        split: _names(place / f"{split}.txt") for split in SPLITS
        if (place / f"{split}.txt").is_file()
    }
    if place.suffix == ".json" and place.is_file():
        return {"train": [("render", folder) for folder in read_ids(place)], "val": []}
    if not names:
        return {"train": list(_walk(place, is_orbit, DEPTH)), "val": []}
    split = {}
    for name, members in names.items():
        for member in members:
            if not (place / member).exists():
                raise DataError(f"data: {place / f'{name}.txt'}: names {member}, which is not in"
                                f" {place}; remove the line")
        split[name] = [
            item for member in members for item in _walk(place / member, is_orbit, DEPTH)
        ]
    if both := set(split.get("train", ())) & set(split.get("val", ())):
        raise DataError(f"data: {place}: {sorted(both)[0][1]} is in train.txt and in val.txt;"
                        " remove it from one of them")
    if "train" not in split:
        held = set(split["val"])
        split["train"] = [item for item in _walk(place, is_orbit, DEPTH) if item not in held]
    return {"val": [], **split}


def _names(path):
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data: {path}: cannot be read ({error}); expected a clip's folder on each"
                        " line") from None
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return list(dict.fromkeys(names))


def _walk(place, is_orbit, depth):
    """Yield (kind, path) of every clip or set at or below `place`.

    A folder that holds neither one nor folders is given as a clip, so that its reader says what is
    missing.
    """
    clip = "orbit" if is_orbit else "video"
    if place.is_file():
        yield clip, place
        return
    children = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    names = {path.name for path in children}
    if LatentStore.MEMO in names:
        return
    if not is_orbit and TABLE in names:
        read_table(place)               # here too: it may name files of other folders
    if "clips.npy" in names:
        yield "packed", place
    elif is_orbit and "transforms.json" in names:
        yield "orbit", place
    elif is_orbit and names & set(CAMERA_FILES):
        yield "render", place
    else:
        videos = [path for path in children
                  if path.suffix.lower() in VIDEO_SUFFIXES] if not is_orbit else []
        folders = [path for path in children if path.is_dir()] if depth else []
        yield from (("video", path) for path in videos)
        for folder in folders:
            yield from _walk(folder, is_orbit, depth - 1)
        if not videos and (not folders or any(path.suffix.lower() in IMAGE_SUFFIXES
                                              for path in children)):
            yield clip, place


def _read(found, settings, spec, least, memo, progress):
    """Return (Clips or None, SkippedClips) of (kind, path) pairs.

    Orbits have at least, videos exactly `least` frames.
    """
    items, skipped, kinds = [], SkippedClips(), {kind for kind, _ in found}
    size = (spec.height, spec.width)
    if "packed" in kinds:
        items += _packed([path for kind, path in found if kind == "packed"], settings, spec, least)
    others = [(kind, path) for kind, path in found if kind != "packed"]
    if progress and len(others) > MANY:
        others = progress(others, "reading cameras")
    for kind, path in others:
        try:
            if kind == "video":
                items += read_video(path, least, size, settings.stride, memo)
            else:
                clip = (read_orbit if kind == "orbit" else read_render)(path, spec.height)
                if clip.num_views < least:
                    raise DataError(f"{path}: has {clip.num_views} views, expected at least the"
                                    f" model's {least}")
                items += _on_backgrounds(clip, settings.background)
        except InputError as error:
            skipped.add(str(path), error)
    skipped.check(len(items) + len(skipped.reasons))
    if spec.is_orbit and not spec.is_posed:
        moving = [clip.name for clip in items if np.ptp(clip.angles[1]) > LEVEL]
        if moving:
            log.warning("%d of %d orbits are not level (%s), and %s is not conditioned on"
                        " elevations: it learns from static orbits",
                        len(moving), len(items), one_line(moving[0]), spec.name)
    return (Clips(items, size) if items else None), skipped


def _packed(folders, settings, spec, least):
    if not spec.is_orbit:
        raise DataError(f"data: {folders[0]} holds orbits, and {spec.name} learns from videos; give"
                        " video files or folders of frames")
    packed = PackedOrbits(folders, spec.height)
    opaque = [clip.folder for clip in packed.items if clip.arrays["clips"].shape[-1] == 3]
    if opaque and settings.background != "white":
        raise DataError(f"background: found {settings.background}, and {opaque[0]} is packed, on"
                        " white already; set background=white, or render it again")
    if packed.num_frames < least:
        raise DataError(f"data: {folders[0]} has {packed.num_frames} views of each orbit, and"
                        f" {spec.name} takes {least}; render it with --frames {least}")
    return [on for clip in packed.items for on in _on_backgrounds(clip, settings.background)]


def _on_backgrounds(clip, background):
    """Return the clip on white, on a color drawn from its name, or once on each."""
    seed = zlib.crc32(Path(clip.name).name.encode("utf-8", "surrogateescape"))
    color = np.random.RandomState(seed).randint(0, 256, 3)
    colored = replace(clip, background=tuple(int(level) for level in color))
    return {"white": [clip], "random": [colored], "both": [clip, colored]}[background]
