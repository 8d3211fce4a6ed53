"""Reads views with known cameras for reconstruction: pictures cut out, of one pinhole and size.

Any transforms.json is read, of any scale, with alpha or without.
"""
import hashlib
import logging
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sgm.common.errors import argument
from sgm.common.files import check_file, natural_key
from sgm.common.progress import each
from sgm.reconstruct.posed_views import MIN_VIEWS, PosedViews, ShapeError, reduced
from sgm.views.cameras import CameraError
from sgm.views.images import ImageError, load_image, read_image, stored
from sgm.views.lenses import common_pinhole, resampled
from sgm.views.matting import REMEDY, alpha_from_white, cuts_out, matte, without_dust
from sgm.views.transforms import TRAIN, json_path, read_transforms

EMPTY, FULL = 0.0005, 0.98  # a mask that covers less, or more, of its image shows no object
# A mask that keeps more than this of its border says what to ignore; it cuts no object out.
KEPT_BORDER = 0.5
LARGE = 0.5                 # so does one of this share of its picture that is the same in several
LABELS = 16                 # levels of a mask that is made of labels, at most
NOISE = 16                  # levels that JPEG's noise reaches where a mask is black
# A mask whose IoU with its picture's alpha is above this is the cut-out once more
ALIKE = 0.9
# A mask that fills this share of its bounding box, or touches this share of its picture's border,
# is the picture's ground as well: of genuine orbits, those of uncut photographs have the former.
RECTANGLE, AT_BORDER = 0.985, 0.3
OBLONG = 0.05               # relative difference of fl_x and fl_y that hardly any camera has
log = logging.getLogger("sgm")


def read_views(path, side=576, most=120, method="auto", progress=False, fewest=MIN_VIEWS):
    """Read a views folder or a transforms.json (ours, nerfstudio's, Blender's) as it is.

    Return PosedViews, not yet normalized (see `scene_box.framed`). Pictures of several lenses, or
    of one that is no pinhole with square pixels, are resampled as one pinhole would see them. side:
    the longer side of the pictures is reduced to this many pixels. most: if there are more views,
    this many are used, evenly spread; fewest: how many there must be. method: how an object is cut
    out of a picture without alpha, see `sgm.views.matting.matte`. Raises CameraError, ImageError,
    ShapeError.
    """
    path = Path(path)
    check_file(path, ShapeError)
    check_file(path / "transforms.json", ShapeError)
    if not path.exists():
        raise ShapeError(
            f"{path}: no such file or folder; give a folder of views with its transforms.json"
        )
    if not json_path(path).is_file():
        others = sorted(path.glob("transforms*.json"), key=natural_key)
        if others:
            raise ShapeError(
                f"{path}: found no transforms.json in it, but {others[0].name}; give that file if"
                " it holds the cameras of its views"
            )
        raise ShapeError(
            f"{path}: found no transforms.json in it, expected the cameras of its views; for frames"
            f" of a known orbit give {argument('orbit')} (static, zero123plus, ...), else export"
            " from nerfstudio or Blender"
        )
    if json_path(path).name == TRAIN and path.is_dir():
        others = [other.name for other in sorted(path.glob("transforms_*.json"))
                  if other.name != TRAIN]
        log.info("%s: found no transforms.json in it; %s is taken%s", path, TRAIN,
                 f", {' and '.join(others)} not" if others else "")
    # Cameras, and which of them are used.
    posed = read_transforms(path)
    if len(posed.files) < fewest:
        raise ShapeError(
            f"{path}: found {len(posed.files)} views, expected at least {fewest} (20 and more"
            " are good); add views around the object"
        )
    chosen = np.unique(
        np.linspace(0, len(posed.files) - 1, min(most, len(posed.files))).round().astype(int)
    )
    if len(chosen) < len(posed.files):
        log.warning(
            "%s: %d of its %d views are used, evenly spread", path, len(chosen), len(posed.files)
        )
    # The pinhole of all views.
    target = posed.lens
    is_shared = target is not None
    if is_shared:
        scale = min(1.0, side / max(target.width, target.height))
        target = target.of_size(*(max(1, round(length * scale))
                                  for length in (target.width, target.height)))
    else:
        try:
            target = common_pinhole([posed.lenses[k] for k in chosen], side)
        except CameraError as error:
            raise CameraError(f"{path}: {error}") from None
        oblong = [lens for lens in posed.lenses if abs(lens.fl_y / lens.fl_x - 1) > OBLONG]
        if oblong:
            log.warning("%s: fl_x %.1f and fl_y %.1f say that pixels are not square; pictures are"
                        " stretched until they are", path, oblong[0].fl_x, oblong[0].fl_y)
        log.info("%s: pictures are resampled as a pinhole with a focal length of %.1f pixels would"
                 " see them", path, target.fl_x)
    # Pictures: cut out, of one shape and size, each with an object.
    shared_masks = _shared([posed.masks[k] for k in chosen])
    pictures, known, used, how, resized, doubts = [], [], [], {}, {}, {}
    for k in each(chosen, "views", "view", quiet=not progress):
        file, lens = posed.files[k], posed.lenses[k]
        picture, tells, said, doubt = _picture(file, posed.masks[k], method, shared_masks)
        if doubt:
            doubts[file.name] = doubt
        how[said] = how.get(said, 0) + 1
        height, width = picture.shape[:2]
        if abs(width - height * lens.width / lens.height) > max(1.5, 0.01 * width):
            raise ShapeError(
                f"{file}: found {width} x {height} pixels, expected the shape of w {lens.width}, h"
                f" {lens.height} in {path}; use the pictures that belong to these cameras, as they"
                " are stored (cameras know nothing of EXIF's orientation)"
            )
        if (width, height) != (lens.width, lens.height):
            resized[lens.width, lens.height] = width, height
        size = target.width, target.height
        if not is_shared:
            picture, tells = resampled(picture, tells, lens, target)
        elif (width, height) != size:
            shrinks = width > size[0]
            picture = cv2.resize(
                picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
            tells = None if tells is None else reduced(tells, size)
        solid = picture[..., 3] > 0.5
        covered = float((solid if tells is None else solid & tells).mean())
        share = 1.0 if tells is None else max(float(tells.mean()), 1e-9)
        if posed.masks[k] is not None and tells is not None and covered <= EMPTY:
            log.warning("%s: is left out, what its mask_path leaves shows nothing of the object",
                        file)
            continue
        if not EMPTY < covered < FULL * share:
            raise ShapeError(
                f"{file}: the object's mask ({said}) covers {covered / share:.1%} of the picture,"
                " expected a part of it; give pictures with alpha, or on a plain background, or"
                " take the view out of transforms.json"
            )
        used.append(k)
        pictures.append(picture)
        known.append(tells)
    for said, found in list(resized.items())[:1]:
        log.warning("%s: w %d, h %d, but pictures are of %d x %d pixels; focal lengths are taken"
                    " for those of w and h", path, *said, *found)
    if len(how) > 1 or not any(said.startswith("alpha") for said in how):
        log.info("cut out: %s", ", ".join(f"{count} by {said}" for said, count in how.items()))
    if doubts:
        log.warning("%s: in %s of %d views the object may be cut out badly, in %s because %s; %s",
                    path, len(doubts), len(chosen), *next(iter(doubts.items())), REMEDY)
    if len(used) < fewest:
        raise ShapeError(
            f"{path}: only {len(used)} of its {len(chosen)} views show something of the object,"
            f" expected at least {fewest}; check mask_path: what is 0 in a mask is ignored"
        )
    uncut = [posed.files[k].name for k, picture in zip(used, pictures)
             if shows_ground(picture[..., 3] > 0.5)]
    if uncut:
        log.warning("%s: in %d of %d views (%s) what is cut out fills an upright rectangle or"
                    " reaches far along the picture's border: unless the object is a box or leaves"
                    " the picture, a background that was not cut out becomes walls of the mesh; cut"
                    " the object out of the picture that the views were generated from, or of each"
                    " view (%s)", path, len(uncut), len(used),
                    ", ".join(uncut[:3]) + ", ..." * (len(uncut) > 3), REMEDY)
    pictures = np.stack(pictures)
    views = PosedViews(
        np.ascontiguousarray(pictures[..., :3]),
        np.ascontiguousarray(pictures[..., 3]),
        posed.poses[used],
        target.fl_x,
        target.fl_y,
        target.cx,
        target.cy,
        files=tuple(posed.files[k] for k in used),
        applied=posed.applied,
    )
    if all(tells is None or tells.all() for tells in known):
        return views
    everything = np.ones((views.h, views.w), bool)
    return views.ignoring([everything if tells is None else tells for tells in known])


def shows_ground(mask):
    """Return whether a view's mask (H, W) bool shows more than an object.

    It does where it is an upright rectangle, the shape of a photograph that was pasted into the
    picture as it is, or where much of the picture's border is in it.
    """
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return False
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(mask.sum() >= RECTANGLE * box or border.mean() >= AT_BORDER)


def _picture(file, mask, method, shared_masks):
    """Return premultiplied RGBA (H, W, 4) float32, what is known, how it was cut out, a doubt.

    Levels are in [0, 1]. What is known is (H, W) bool, or None: everything; a doubt is a sentence
    on why the cut-out may be wrong, or None. mask: path of the picture's mask, or None;
    shared_masks: see `_shared`.
    """
    image = load_image(file, upright=False)
    used = levels = doubt = None
    if mask is not None:
        levels = _mask(mask, image, file)
        used = levels > 0
    known = used
    try:
        if cuts_out(image):
            how, rgba = "alpha of its own", np.asarray(without_dust(image))
            if used is not None and _overlap(used, rgba[..., 3] > 127) > ALIKE:
                how, known = "alpha of its own and of its mask_path", None
        elif levels is not None and _is_cut_out(levels, mask in shared_masks, method):
            alpha = levels if _is_soft(levels) else np.where(levels > 0, 255, 0)
            rgba = np.dstack([np.asarray(image)[..., :3], alpha.astype(np.uint8)])
            how, used, known = "alpha of its mask_path", None, None
        elif method == "auto" and _has_white_border(np.asarray(image)):
            how, rgba = "white background", alpha_from_white(np.asarray(image.convert("RGB")))
        else:
            full = image.size
            image, how, doubt = matte(image, method)
            rgba = np.asarray(image)
            if image.size != full:      # matte works on reduced pictures
                rgba = cv2.resize(rgba, full, interpolation=cv2.INTER_LINEAR)
    except ImageError as error:
        raise ShapeError(f"{file}: {error}") from None
    rgba = rgba.astype(np.float32) / 255
    if used is not None:
        rgba[..., 3] *= used
    rgba[..., :3] *= rgba[..., 3:]
    if known is None or known.all():
        return rgba, None, how, doubt
    return rgba, known, how + ", ignoring what mask_path does", doubt


def _overlap(one, other):
    """Return the intersection over union of two masks (H, W) bool."""
    return (one & other).sum() / max((one | other).sum(), 1)


def _mask(path, image, file):
    """Return the levels of a mask (H, W) uint8, 0 where nothing is to be used.

    Raises ImageError, and ShapeError if it is not of the picture's size.
    """
    lossy, levels = read_image(path, lambda opened: (opened.format == "JPEG", np.array(
        stored(opened, lambda opened: Image.fromarray(_levels(opened))))))
    height, width = levels.shape
    if (width, height) != image.size:
        raise ShapeError(
            f"{path}: found {width} x {height} pixels, expected the {image.width} x {image.height}"
            f" of {file}; give the mask that belongs to it"
        )
    if lossy and levels.max() > 2 * NOISE:
        levels[levels <= NOISE] = 0
    return levels


def _levels(image):
    """Return a mask of any mode as (H, W) uint8; what is not 0 in it stays so."""
    if image.mode[0] in "IF":                       # 16 and 32 bits
        levels = np.nan_to_num(np.asarray(image, np.float64)).clip(0)
        return np.ceil(levels / (257 if levels.max() > 255 else 1)).clip(0, 255).astype(np.uint8)
    # the brightest channel: the blue of a label may be no level of gray
    rgba = np.asarray(image.convert("RGBA"))
    levels = np.where(rgba[..., 3] > 0, rgba[..., :3].max(axis=-1), np.uint8(0))
    if image.mode == "P" and not levels.any():      # labels whose colors are not set
        levels = np.array(image)
    return levels


def _is_soft(levels):
    """Return whether a mask is an alpha with soft edges, not zeros and ones, or a few labels."""
    if levels.max() < 128:
        return False
    inside = cv2.erode((levels > 0).astype(np.uint8), np.ones((5, 5)),
                       borderType=cv2.BORDER_REPLICATE) > 0
    is_full = not inside.any() or (levels[inside] >= 240).mean() > 0.98
    return bool(is_full or len(np.unique(levels)) > LABELS)


def _shared(masks):
    """Return the masks, of all pictures' (paths or None), that are no picture's own.

    They are one file for several pictures, or large and equal: the circle that a lens sees. Equal
    small ones may be those of an object that is round.
    """
    given = [mask for mask in masks if mask is not None]
    shared = {mask for mask, count in Counter(given).items() if count > 1}
    try:
        content = {mask: hashlib.sha256(mask.read_bytes()).digest()
                   for mask in dict.fromkeys(given)}
    except OSError:
        return shared                                   # its own reader says what is wrong
    files = {}
    for mask, digest in content.items():
        files.setdefault(digest, []).append(mask)
    for equal in files.values():
        if len(equal) > 1 and (read_image(equal[0], _levels) > 0).mean() > LARGE:
            shared.update(equal)
    return shared


def _is_cut_out(levels, shared, method):
    """Return whether a mask shows the object of a picture without alpha, and nothing else.

    A mask that several pictures share, or that keeps the border, says what to ignore: the circle
    that a lens sees, a passer-by. So does one that keeps nothing: all of its picture.
    """
    border = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    cuts = levels.any() and (border > 0).mean() <= KEPT_BORDER
    return bool(method in ("auto", "alpha") and not shared and cuts)


def _has_white_border(rgba):
    """Return whether the border of a picture is white."""
    ring = np.concatenate(
        [
            rgba[:2].reshape(-1, 4),
            rgba[-2:].reshape(-1, 4),
            rgba[:, :2].reshape(-1, 4),
            rgba[:, -2:].reshape(-1, 4),
        ]
    )
    return (ring[:, :3].min(axis=-1) >= 250).mean() > 0.95
