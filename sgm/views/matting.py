"""Cuts the object out: by an image's own alpha, by rembg, or by its border (no MindSpore).

The last of these needs no network. Walls, floors and soft shadows have no sharp edges, see
`outline`. A plain background (white, gray, a studio gradient) is also modeled by a smooth surface
and flooded from the border, so parts of the object that look like it stay opaque. Clutter goes to
GrabCut (Rother et al. 2004) seeded by the border. In any case the edge is then solved for alpha and
clean colors, and a doubt is said where the evidence for the outline is poor.
"""
from typing import NamedTuple, Optional

import cv2
import numpy as np
from PIL import Image

from sgm.config.reconstruction import MATTES
from sgm.views import outline
from sgm.views.images import ImageError, composite

MATTE_SIDE = 1024     # larger images are reduced to this side first: the network sees 576 pixels
GRABCUT_SIDE = 512
# Away from the object this is dust: alpha of so many levels, and parts of so small a share of a
# picture.
FAINT, SPECK = 12, 5e-5
HAZE = 48       # and so is alpha of so many levels that all of the border has
# An alpha that leaves out less than this share of a picture, and keeps more than this of its
# border, cuts nothing out.
CORNERS, OPAQUE_BORDER = 0.06, 0.6
# A mask is doubtful if its score is lower, or the share of it that differs from the ground; if
# another one, whose score is at least RIVAL of its own, has a lower IoU with it; or if it covers
# less or more of its picture, or more of its border. Chosen on composites of benchmarks/matting.py.
LEAST_SCORE, LEAST_DISTINCT, RIVAL, LEAST_AGREEMENT = 0.55, 0.85, 0.75, 0.8
AREAS, MOST_BORDER = (0.002, 0.8), 0.35
# A plain background fits if 98 % of the border are within so many levels of it. Then it is right by
# itself if less than MOST_DIM of what is cut out is within DIM levels of it; and masks are wrong
# that lack more than MOST_LOST of that in places brighter than the background, or tinted by so
# many levels. Chosen on composites as well.
FITTING, DIM, MOST_DIM, MOST_LOST, TINTED = 6, 32, 0.01, 0.05, 8
REMEDY = "give a PNG whose background is transparent, or install rembg"
# A matte drawn: the picture's longer side, and the color and strength of what is cut away.
SHOWN, RED, TINT = 512, np.array([230, 40, 40], np.float32), 0.65


class Cut(NamedTuple):
    """What `matte` made of a picture.

    image: PIL RGBA, straight alpha; how: what was done, as text; doubt: a sentence on why the
    object may be cut out badly, or None.
    """
    image: Image.Image
    how: str
    doubt: Optional[str] = None


def matte(image, method="auto"):
    """Return the object of a PIL image as a `Cut`.

    method: "alpha" uses the image's own alpha channel; "rembg" the rembg package and its network;
    "border" looks at the image's border, as this module says; "auto" takes the first that is
    possible, in this order. Images without alpha are reduced to MATTE_SIDE. The same image always
    gives the same result. Raises ImageError: unknown method, "alpha" without alpha, "rembg" that
    does not work, no object found.
    """
    if method not in MATTES:
        raise ImageError(f"matte: found {method!r}, expected one of {', '.join(MATTES)}")
    image = image.convert("RGBA")
    if method == "alpha" or method == "auto" and cuts_out(image):
        if image.getchannel("A").getextrema()[0] >= 128:
            raise ImageError("matte=alpha: the image has no transparent pixel; use matte=auto, or"
                             " cut the object out first")
        return Cut(without_dust(image), "alpha: the image's own")
    image, given = image.convert("RGB"), image.size
    image.thumbnail((MATTE_SIDE, MATTE_SIDE), Image.LANCZOS)
    if min(image.size) < 16:
        raise ImageError(f"the image is {given[0]} x {given[1]} pixels; cutting an object out needs"
                         f" 16 x 16 of them once the longer side is {MATTE_SIDE}: give a larger or"
                         " less narrow image")
    how, note = "rembg", ""
    if method in ("auto", "rembg"):
        rgba, note = _rembg(image)
        if rgba is None and method == "rembg":
            raise ImageError(f"matte=rembg: {note}; pip install rembg, or use matte=border")
    if method == "border" or rgba is None:
        how, rgba, doubt = _by_border(np.asarray(image))
    else:
        edges = outline.Edges(_reduced(np.asarray(image)))
        doubt = _doubt(edges, edges.outline(_reduced(rgba[..., 3]) > 127), (), how)
    how = f"{how} ({note})" if note else how
    if (rgba[..., 3] > 127).mean() < 0.001:
        raise ImageError(f"no object found by {how}; give a PNG whose background is transparent")
    return Cut(without_dust(Image.fromarray(rgba)), how, doubt)


def by_color(image, threshold):
    """Return the object of a PIL image in PIL RGBA: what is not within `threshold` of the ground.

    threshold: levels (0 to 255) by which the most different channel of what is cut away differs
    from the background: a smooth surface through the picture's border, or the border's median color
    where there is none. It is cut away where it is connected with the border, or plainly a hole.
    """
    rgb = np.asarray(image.convert("RGB"))
    background, noise, _ = _plain_background(rgb)
    if background is None:
        background = np.broadcast_to(np.median(_ring(rgb), axis=0), rgb.shape).astype(np.float32)
    return without_dust(Image.fromarray(_key(rgb, background, noise, threshold)))


def drawn(image, cut):
    """Return a picture of a matte, (h, w, 3) uint8: `image` with what is cut away in red.

    image: PIL, as given; cut: what `matte` made of it. The longer side is at most SHOWN pixels.
    """
    factor = min(1, SHOWN / max(image.size))
    size = tuple(max(1, round(length * factor)) for length in image.size)
    rgb = composite(image.convert("RGBA").resize(size, Image.LANCZOS)).astype(np.float32)
    alpha = np.asarray(cut.getchannel("A").resize(size, Image.BILINEAR), np.float32)[..., None]
    return np.round(rgb + (1 - alpha / 255) * TINT * (RED - rgb)).astype(np.uint8)


def alpha_from_white(frame):
    """Estimate the alpha of an object on a white background, e.g. of a generated frame.

    frame: uint8 (H, W, 3). Return uint8 RGBA (H, W, 4), straight alpha: the white is removed from
    colors, white where alpha is 0. White inside the object stays opaque; only an enclosed region
    that equals the background to within 2.5 levels, has a clear edge and covers at least 0.05 % of
    the frame is taken for a hole (the handle of a mug).
    """
    ring = _ring(frame).astype(np.float32)
    white = ring[ring.min(axis=-1) > 215]
    if len(white) < len(ring) // 4:     # the object covers the border: there is nothing to measure
        white = np.full((1, 3), 255, np.float32)
    center = np.median(white, axis=0)
    background = np.broadcast_to(center, frame.shape).astype(np.float32)
    # half of the noise may be clipped at 255, so its middle says nothing
    return _key(frame, background, float(np.percentile(np.abs(white - center), 80)))


def cuts_out(image):
    """Return whether the alpha of a PIL RGBA image cuts an object out.

    It does not where it leaves out next to nothing, and hardly anything at the border: dust, or the
    round corners of a screenshot.
    """
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] >= 128:
        return False
    empty = np.asarray(alpha) < 128
    return bool(empty.mean() >= CORNERS or _ring(empty).mean() > 1 - OPAQUE_BORDER)


def without_dust(image):
    """Return a PIL RGBA image whose dust is transparent; the image itself if it has none.

    Dust is what matting networks leave behind away from the object: faint alpha, and specks.
    """
    alpha = np.asarray(image.getchannel("A"))
    haze = np.percentile(_ring(alpha), 95)          # dust may be all over the picture
    limit = max(FAINT, 1.25 * haze) if haze <= HAZE else FAINT
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (alpha > limit).astype(np.uint8), connectivity=8)
    speck = stats[:, cv2.CC_STAT_AREA] <= max(2, SPECK * alpha.size)
    speck[0] = True                                 # what is faint
    if speck.all():
        return image
    reach = max(3, round(max(alpha.shape) / 64))    # wider than the edge of any cut-out
    body = (~speck).astype(np.uint8)[labels]
    dust = (alpha > 0) & (cv2.dilate(body, np.ones((2 * reach + 1,) * 2, np.uint8)) == 0)
    if not dust.any():
        return image
    # what lies away from the object is as faint at its edge
    faint = alpha[dust & (alpha <= limit)]
    dust |= alpha <= faint.max(initial=0)
    image = image.copy()
    image.putalpha(Image.fromarray(np.where(dust, 0, alpha).astype(np.uint8)))
    return image


def _rembg(image):
    """Return RGBA and "", or None and the reason."""
    try:
        import rembg
        return np.asarray(rembg.remove(image).convert("RGBA")), ""
    except ImportError:
        return None, "rembg is not installed"
    # rembg downloads its model on first use and leaves the process without an ONNX runtime:
    # anything can come out
    except (Exception, SystemExit) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        return None, f"rembg does not work here: {reason}"


def _by_border(rgb):
    """Return what was done, the RGBA array and a doubt or None.

    The plain background is taken, or one of the masks that the sharp edges suggest, whichever has
    the most evidence for it; or GrabCut, if the ground has sharp edges of its own or nothing was
    found. A plain background that fits has a say first: which masks lack parts of the object, and
    that it is right if all that it leaves stands out.
    """
    edges = outline.Edges(_reduced(rgb))
    found = []
    background, noise, fits = _plain_background(rgb)
    if background is not None:
        plain = _key(rgb, background, noise)
        found.append(edges.outline(_reduced(plain[..., 3]) > 127))
        difference, unlike = _unlike_ground(_reduced(rgb), _reduced(background))
        # clear of the ground all over: no shadow is in it, and its edges need not be sharp
        inside = difference[outline.eroded(found[0].mask, 3)]
        if fits and len(inside) and (inside < DIM).mean() < MOST_DIM:
            clear = found[0]._replace(recall=1.0, support=1.0)
            return "border: plain background", plain, _doubt(edges, clear, ())
    if not edges.are_everywhere:
        found += edges.outlines()
    if background is not None and fits:
        # a mask that lacks parts of the object is none
        found = [other for other in found
                 if (outline.eroded(found[0].mask & ~other.mask, 2) & unlike).sum()
                 <= MOST_LOST * found[0].mask.sum()]
    first = outline.best_of(found)
    if background is not None and first == 0:
        return "border: plain background", plain, _doubt(edges, found[0], found[1:])
    if edges.are_everywhere or not found[first].mask.any():
        solid, how = _grabcut(rgb), "GrabCut"
        best = edges.outline(_reduced(solid.astype(np.float32)) > 0.5)
    else:
        best, how = found.pop(first), "sharp edges"
        solid = cv2.resize(best.mask.astype(np.float32), rgb.shape[1::-1]) > 0.5
    rgba = _soften(rgb, solid, max(1, round(max(rgb.shape[:2]) / 256)))
    return f"border: {how}", rgba, _doubt(edges, best, found)


def _reduced(picture):
    """Return a picture (H, W) or (H, W, 3), its longer side at most outline.SIDE."""
    scale = min(1, outline.SIDE / max(picture.shape[:2]))
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _doubt(edges, best, others, how=""):
    """Return why a mask may be wrong, as the rest of a sentence, or None.

    edges: outline.Edges; best, others: `outline.Outline` of the mask and of what it was chosen
    from. how: what made the mask; a network is not misled by clutter, where edges tell nothing.
    """
    share = best.mask.mean()
    if not AREAS[0] < share < AREAS[1]:
        return f"it covers {share:.1%} of the picture"
    if _ring(best.mask).mean() > MOST_BORDER:
        return "it reaches far along the picture's border"
    if edges.are_everywhere:
        return None if how == "rembg" else "the background is cluttered"
    if best.distinct < LEAST_DISTINCT:
        return f"{1 - best.distinct:.0%} of it have the color of the background"
    if best.score < LEAST_SCORE and best.recall < best.support:
        return f"{1 - best.recall:.0%} of the picture's sharp edges are not in it"
    if best.score < LEAST_SCORE:
        return f"{1 - best.support:.0%} of its outline have no sharp edge"
    agreement = min((outline.iou(best.mask, other.mask) for other in others
                     if other.score > RIVAL * best.score), default=1)
    if agreement < LEAST_AGREEMENT:
        return f"another outline, nearly as good, has only {agreement:.0%} of its area in common"
    return None


def _ring(array):
    """Return the outer border of (H, W, ...), a 64th of the shorter side wide: (N, ...)."""
    w = max(1, round(min(array.shape[:2]) / 64))
    parts = array[:w], array[-w:], array[w:-w, :w], array[w:-w, -w:]
    return np.concatenate([part.reshape(-1, *array.shape[2:]) for part in parts])


def _plain_background(rgb):
    """Return a smooth surface through the border, (H, W, 3) float32, and the noise around it.

    None in its place if the border is not smooth. Third, whether hardly anything at the border
    differs from it.
    """
    height, width = rgb.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height, dtype=np.float32),
                       np.linspace(-1, 1, width, dtype=np.float32), indexing="ij")
    basis = cv2.merge([np.ones_like(x), x, y, x * y, x * x, y * y])
    rows, ring = _ring(basis), _ring(rgb).astype(np.float32)
    error = np.abs(ring - np.median(ring, axis=0)).max(axis=-1)
    # from the median color towards the surface, leaving out what does not belong
    for limit in (40, 20, 12):
        inside = error < limit
        # more of the border is object than that, or there is not one background
        if inside.mean() < 0.7:
            return None, 0.0, False
        surface = np.linalg.lstsq(rows[inside], ring[inside], rcond=None)[0]
        error = np.abs(ring - rows @ surface).max(axis=-1)
    noise = 1.4826 * float(np.median(np.abs(ring - rows @ surface)[inside]))
    fits = np.percentile(error, 98) < FITTING
    return (basis @ surface, noise, fits) if noise < 4 else (None, noise, False)


def _unlike_ground(rgb, background):
    """Return how far pixels (H, W, 3) are from a plain background, and where they are no shadow.

    A shadow darkens all channels by about the same share. Both are (H, W): levels, and bool.
    """
    calm = cv2.GaussianBlur(rgb.astype(np.float32), (3, 3), 0)
    difference = np.maximum.reduce(cv2.split(cv2.absdiff(calm, background)))
    light = sum(cv2.split(calm * background)) / np.maximum(outline.squared_length(background), 1)
    tint = np.maximum.reduce(cv2.split(cv2.absdiff(calm, background * cv2.merge([light] * 3))))
    return difference, (tint > TINTED) | (difference > TINTED) & (light > 1)


def _key(rgb, background, noise, limit=None):
    """Flood the known background (H, W, 3) from the border and return RGBA.

    noise: the background's standard deviation in levels; limit: levels within which a pixel is
    background, by default chosen by the noise.
    """
    pixels = rgb.shape[0] * rgb.shape[1]
    calm = rgb.astype(np.float32)
    # not for small images: their edges are too sharp to be blurred without need
    if pixels > 256 * 256 or noise > 4:
        calm, noise = cv2.GaussianBlur(calm, (3, 3), 0), 0.375 * noise
    difference = np.maximum.reduce(cv2.split(cv2.absdiff(calm, background)))
    limit = np.clip(4 * noise, 8, 14) if limit is None else limit
    alike = (difference < limit).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(alike, connectivity=4)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.zeros(count, bool)
    outside[border] = True
    outside[0] = False
    for k in np.flatnonzero((stats[:, cv2.CC_STAT_AREA] >= max(9, 0.0005 * pixels)) & ~outside):
        outside[k] = k > 0 and _is_hole(rgb, background, labels == k)
    solid = _without_specks(~outside[labels], 0.0002 * pixels)
    return _soften(rgb, solid, _edge_width(difference, solid), background)


def _is_hole(rgb, background, region):
    """Return whether an enclosed region is background: equal to it, with a clear step around."""
    inner = cv2.erode(region.astype(np.uint8), np.ones((5, 5))) > 0
    inner = inner if inner.any() else region
    around = cv2.dilate(region.astype(np.uint8), np.ones((7, 7))) > region
    offset = np.median(rgb[inner] - background[inner], axis=0)
    step = np.median(np.abs(rgb[around] - background[around]).max(axis=-1))
    return np.abs(offset).max() <= 2.5 and step > 24


def _grabcut(rgb):
    """Return the object's mask (H, W) bool by GrabCut in Lab, the border starting as outside."""
    scale = min(1, max(GRABCUT_SIDE / max(rgb.shape[:2]), 16 / min(rgb.shape[:2])))
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # texture is noise to a color model; edges are not
    small = cv2.bilateralFilter(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), 9, 30, 7)
    height, width = small.shape[:2]
    edge = max(1, round(0.02 * min(height, width)))
    for margin in (edge, max(edge, round(0.15 * min(height, width)))):
        labels = np.full((height, width), cv2.GC_BGD, np.uint8)
        labels[edge:-edge, edge:-edge] = cv2.GC_PR_BGD
        labels[margin:-margin, margin:-margin] = cv2.GC_PR_FGD
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        cv2.grabCut(small, labels, None, *models, 8, cv2.GC_INIT_WITH_MASK)
        # the colors are known now: an object that the frame cuts off may reach the border again
        labels[labels == cv2.GC_BGD] = cv2.GC_PR_BGD
        cv2.grabCut(small, labels, None, *models, 1, cv2.GC_EVAL)
        solid = (labels & 1) > 0
        middle = solid[height // 3:-(height // 3), width // 3:-(width // 3)]
        # if not, the two swapped roles: start with a smaller object
        if _ring(solid).mean() <= middle.mean():
            break
    else:
        solid[:] = False
    solid = _without_specks(solid, 0.02 * solid.sum()).astype(np.float32)
    # its outline follows the background's texture: close the notches, then round it off
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    solid = cv2.morphologyEx(solid, cv2.MORPH_CLOSE, ellipse)
    solid = cv2.GaussianBlur(solid, (0, 0), 1.75)
    return cv2.resize(solid, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def _without_specks(solid, smallest):
    """Drop the components of a mask below `smallest` pixels and fill its holes below that."""
    for value in (True, False):
        alike = (solid == value).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(alike, connectivity=8)
        is_small = (stats[:, cv2.CC_STAT_AREA] < smallest)[labels] & (labels > 0)
        solid = np.where(is_small, not value, solid)
    return solid


def _edge_width(difference, solid):
    """Return the width of the blurred edge: pixels inside it until the difference is constant."""
    inside = cv2.distanceTransform(solid.astype(np.uint8), cv2.DIST_L2, 3)
    next_one = cv2.dilate(difference, np.ones((3, 3)))
    largest = max(3, round(max(solid.shape) / 96))
    for r in range(1, largest):
        at = (inside > r) & (inside <= r + 1)
        if not at.any() or (next_one[at] < 1.25 * difference[at]).mean() > 0.5:
            return r
    return largest


def _soften(rgb, solid, r, background=None):
    """Solve the pixels within r of the mask's edge for alpha and color; return RGBA uint8.

    pixel = alpha object + (1 - alpha) background: the object's color is that of sure pixels
    nearby, so is the background's where it is not known. Where the two are too alike to tell, alpha
    is the blurred mask.
    """
    inside = cv2.distanceTransform(solid.astype(np.uint8), cv2.DIST_L2, 3)
    outside = cv2.distanceTransform((~solid).astype(np.uint8), cv2.DIST_L2, 3)
    edge = (inside <= r + 1) & (outside <= r + 1)
    # elsewhere the mask is right
    rgba = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)
    rgba[~solid] = 255, 255, 255, 0
    if not edge.any():
        return rgba
    # the edge, and what the blurs below see around it
    x, y, w, h = cv2.boundingRect(edge.astype(np.uint8))
    part = slice(max(0, y - 12 * r), y + h + 12 * r), slice(max(0, x - 12 * r), x + w + 12 * r)
    inside, outside, edge = inside[part], outside[part], edge[part]
    rgb = rgb[part].astype(np.float32)
    # variance of the background's texture per pixel: it adds to a difference without meaning
    spread = 0.0
    if background is None:
        sure = (outside > r) + 1e-4 * (outside > 0)
        background = _nearby(rgb, sure, r)
        spread = _nearby(np.square(rgb - background), sure, 2 * r)[edge].sum(axis=-1)
    else:
        background = background[part]
    strength = outline.squared_length((rgb - background) / 255)
    # thin parts have no sure pixel; there the purest ones, farthest from the background, stand in
    color = _nearby(rgb, (inside > r) + 1e-3 * (inside > 0) * strength, r)[edge]
    blurred = cv2.GaussianBlur(solid[part].astype(np.float32), (0, 0), 0.5 * r)[edge]
    rgb, background = rgb[edge], background[edge]               # (N, 3) from here on
    axis = color - background
    length = np.square(axis).sum(axis=-1)
    alpha = ((rgb - background) * axis).sum(axis=-1) / np.maximum(length, 1)
    trust = np.clip(np.sqrt(length / (256 + 16 * spread)) - 0.5, 0, 1)
    alpha = np.clip((trust * alpha + (1 - trust) * blurred - 0.05) / 0.9, 0, 1)
    alpha = (np.round(255 * alpha) / 255)[:, None]
    # the edge pixel's own color where it is mostly object, that of its neighbours where it is not
    own = (rgb - (1 - alpha) * background) / np.maximum(alpha, 0.1)
    share = np.clip(2 * alpha - 1, 0, 1)
    color = np.where(alpha > 0, share * own + (1 - share) * color, 255)
    found = np.concatenate([color, 255 * alpha], axis=-1)
    rgba[part][edge] = np.clip(found + 0.5, 0, 255).astype(np.uint8)
    return rgba


def _nearby(rgb, weight, r):
    """Return the weighted mean color around each pixel (H, W, 3)."""
    weight = weight.astype(np.float32)
    total = cv2.merge([cv2.GaussianBlur(weight, (0, 0), 0.8 * r)] * 3)
    mean = cv2.GaussianBlur(rgb * cv2.merge([weight] * 3), (0, 0), 0.8 * r)
    return np.where(total > 1e-9, mean / np.maximum(total, 1e-9), rgb)
