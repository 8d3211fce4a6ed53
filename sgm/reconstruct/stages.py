"""The stages from views to a mesh as functions: each takes what it needs and returns its result.

views, hull, exposure, field, distance, surface, mesh: the field is trained by `NerfTrainer` and
the surface refined by `Refiner`, both run by `optimization.optimize`. `pipeline.Reconstruction`
puts the stages in sequence and keeps their results.
"""
import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgm.common.errors import argument
from sgm.geometry import cleaning
from sgm.reconstruct import exposure, light
from sgm.reconstruct.dmtet import pixel_batches, rasterizer, tet_grid
from sgm.reconstruct.hull import capture, flat_base, scene_box, sdf_grid, visual_hull
from sgm.reconstruct.hull import elevation as outlines
from sgm.reconstruct.nerf import depth_fusion
from sgm.reconstruct.posed_views import HALF, MIN_VIEWS, PosedViews, ShapeError
from sgm.reconstruct.texture import baking
from sgm.reconstruct.upright import turned_upright
from sgm.reconstruct.views_reader import read_views
from sgm.views.folder import elevation_estimate, is_elevation_unknown

log = logging.getLogger("sgm")


class Hull(NamedTuple):
    """The visual hull of views.

    closed (R + 1,) * 3: its signed distance at hull.resolution, cut by the box and at its base;
    open: the one on the grid of the mesh, not cut, and smooth: the blur of that grid, cells, see
    `_open`. base: height of the flat underside, or None. allowed_outliers: number of views allowed
    to contradict a voxel. coverage: share of the masks that the hull covers.
    """
    closed: np.ndarray
    open: np.ndarray
    smooth: float
    base: float | None
    allowed_outliers: int
    coverage: float
    agreeing: PosedViews | None = None


def read(source, spec, azimuth_sign=1, progress=False, up="auto", elevation=None):
    """Return the views of a folder or transforms.json, in the box |x| <= HALF, and held-out ones.

    Third, the `elevation.Elevation` that the outlines tell, or None if that was not looked for.
    spec: a `MeshSpec`. azimuth_sign: -1 counts the cameras' azimuths the other way. up: which axis
    of their world is up, see `upright.turned_upright`; in the box it is z. elevation: degrees,
    "auto" or None, see `elevation.settled`. Held-out views are neither asked for it nor turned:
    their cameras are the given ones at that elevation. Raises ShapeError and the like.
    """
    views = read_views(source, spec.side, spec.views, spec.matte, progress)
    views = turned_upright(views, up, source)
    if azimuth_sign == -1:
        views = scene_box.mirrored(views, np.zeros(3))
    kept = np.arange(len(views))
    if spec.hold_out:
        kept = kept[kept % spec.hold_out != spec.hold_out // 2]
        if len(kept) < MIN_VIEWS:
            raise ShapeError(
                f"hold_out={spec.hold_out} leaves {len(kept)} of {len(views)} views, expected at"
                f" least {MIN_VIEWS}; hold fewer out"
            )
    views, told = outlines.settled(views, elevation, is_elevation_unknown(source), source, kept,
                                   elevation_estimate(source))
    used = scene_box.framed(capture.settled(views.subset(kept), source), source)
    held_out = views.subset(np.setdiff1d(np.arange(len(views)), kept)).moved(
        used.scale / views.scale, (used.center - views.center) * views.scale)
    return used, held_out, told


def carve(views, spec, source="the views"):
    """Return the Hull of views.

    source: what errors call them. Raises ShapeError if the object is too thin for the grid; warns
    if a part of it is.
    """
    allowed_outliers = scene_box.allowed_outliers(views)
    closed = visual_hull.closed(
        visual_hull.hull_sdf(views, spec.hull.resolution, HALF, allowed_outliers), HALF
    )
    base = flat_base.base_height(closed, HALF, views) if spec.hull.base else None
    covered = scene_box.coverage(closed, views.resized(144))
    # of views that agree, whatever a grid loses is lost for its coarseness
    most = covered if allowed_outliers == 0 else min(scene_box.POOR, covered)
    enough = most - scene_box.ADVANTAGE
    outside, smooth, kept = _open(views, spec.depth, base, allowed_outliers, enough)
    finest = max(spec.depth.finest, spec.depth.resolution)
    setting = f"depth.finest={128 if kept < scene_box.HOPELESS else finest}"
    if kept < scene_box.HOPELESS:
        finer = f"try {argument('overrides', '--set')} {setting}, or " if finest < 128 else ""
        raise scene_box.too_thin(source, kept, finer)
    if kept < enough:
        log.warning("%s: %.0f%% of the object are thinner than a cell of %s and will be lost%s",
                    source, 100 * (1 - kept), setting,
                    "; a higher one (at most 128) keeps more" if finest < 128 else "")
    elif len(outside) > spec.depth.resolution + 1:
        log.info("%s: parts are thin, so the grid has %d cells per side", source, len(outside) - 1)
    return Hull(closed if base is None else flat_base.cut_below(closed, HALF, base), outside,
                smooth, base, allowed_outliers, covered,
                views.resized(scene_box.LOW) if allowed_outliers == 0 else None)


def _open(views, settings, base, allowed_outliers, enough):
    """Return the signed distance of the hull on the grid of the mesh, not cut, and the grid's blur.

    Third, the share of the masks that is kept. Where that is less than `enough`, the grid of
    settings.resolution is not blurred, or has settings.finest cells: whatever is enough first, or
    else keeps most.
    """
    found, low = [], views.resized(scene_box.LOW)
    for resolution in sorted({settings.resolution, max(settings.finest, settings.resolution)}):
        outside = visual_hull.hull_sdf(views, resolution, HALF, allowed_outliers)
        for smooth in (settings.smooth, 0.0):
            alone, kept = _hull_alone(outside, base, smooth), 0.0
            if (alone < 0).any():
                kept = scene_box.coverage(sdf_grid.one_piece(alone), low)
            found.append((outside, smooth, kept))
            if kept >= enough:
                return found[-1]
    return max(found, key=lambda one: one[2])


def _hull_alone(outside, base, smooth):
    """Return the signed distance of an open hull, without any depth, closed and blurred."""
    outside = outside if base is None else flat_base.cut_below(outside, HALF, base)
    return visual_hull.closed(sdf_grid.blurred(outside, smooth), HALF)


def even(views, hull, settings):
    """Return views brought to one exposure, the spread of those they had, and if they disagree.

    settings: a `DisagreementSpec`. Views that agree, or are to be taken as they are, come back
    unchanged. The spread is None if they are not looked at, or no two show the same places.
    """
    if settings.cure == "never":
        return views, None, False
    factors = exposure.factors(views, hull.closed)
    spread = None if factors is None else float(np.log(factors).std())
    disagree = settings.cure == "always" or spread is not None and spread > exposure.AGREEING
    if disagree and settings.exposure and factors is not None:
        views = exposure.evened(views, factors)
    return views, spread, disagree


def field_settings(spec, disagree):
    """Return the `NerfSpec` for views that agree, or that disagree, of a `MeshSpec`."""
    nerf, most = spec.nerf, spec.disagreement
    if not disagree:
        return nerf
    return replace(nerf, resolutions=sorted({min(r, most.finest) for r in nerf.resolutions}),
                   hash_finest=max(nerf.hash_coarsest, min(nerf.hash_finest, most.finest)),
                   side=min(nerf.side, most.side), steps=min(nerf.steps, most.steps))


def depth_settings(spec, disagree, hull):
    """Return the `DepthSpec` for views that agree, or that disagree, of a `MeshSpec`.

    Its resolution and smooth are those of the hull, which may have thin parts. Outlines may
    disagree, too: then the hull is not exact, and depth does not count near it.
    """
    most = spec.disagreement
    depth = replace(spec.depth, resolution=len(hull.open) - 1, smooth=hull.smooth)
    if disagree or hull.agreeing is None:
        depth = replace(depth, deep=max(depth.deep, most.deep))
    if not disagree or not most.blur:
        return depth
    return replace(depth, truncation=most.truncation, blur=most.blur)


def distance(trainer, hull, settings, progress=False):
    """Return the signed distance that the mesh starts from, and a dict of how it was found.

    It is a grid of (settings.resolution + 1)^3. trainer: a `NerfTrainer` whose depths are fused
    with the hull; with None, or before its first step, the distance is that of the hull alone.
    settings: a `DepthSpec`, see `depth_settings`.
    """
    if trainer is not None and trainer.done:
        return depth_fusion.surface(trainer, hull, settings, progress)
    alone = _hull_alone(hull.open, hull.base, settings.smooth)
    return sdf_grid.one_piece(alone, hull.agreeing), {
        "fusion": "hull",
        "candidates": {},
    }


def surface(sdf):
    """Return the `pixel_batches.Surface` of a signed distance as it is, without refinement."""
    return pixel_batches.surface_of(tet_grid.sealed(sdf, HALF), HALF)


def flattened(surface, hull):
    """Return vertices (N, 3) and faces (M, 3) of a surface, flat below where the hull has a base.
    """
    if hull.base is None:
        return surface.vertices, surface.faces
    return flat_base.flattened(
        surface.vertices, surface.faces, hull.base, hull.open, HALF
    ), surface.faces


def needed_by(views):
    """Return a function as `cleaning.clean` takes it: which parts of a mesh `views` need."""
    def needed(vertices, faces, label, parts):
        def hits(part, pixels):
            ours = faces[label == part]
            return np.stack([
                rasterizer.face_ids(vertices, ours, c2w, views.intrinsics, views.w, views.h)[0] >= 0
                for c2w in views.c2w])[pixels]
        return sdf_grid.needed(parts, views, hits)
    return needed


def texture(vertices, faces, views, spec, stopped=(), imagined=None, agreeing=None):
    """Return the TexturedMesh of a surface, cleaned, in the box of the views.

    Then the `light.Light` of the views and a dict of what report.json says of it; None and None if
    that is not asked for. stopped, imagined: see `baking.bake`. agreeing: see `Hull`.
    """
    vertices, faces = cleaning.clean(vertices, faces, spec.clean,
                                     needed_by(agreeing) if agreeing is not None else None)
    if not spec.light.use:
        mesh = baking.bake(vertices, faces, views, spec.texture, stopped, imagined)
        return mesh, None, None
    found, facts = light.estimate(vertices, faces, views)
    views, imagined = (light.removed(some, vertices, faces, found) if some is not None else None
                       for some in (views, imagined))
    mesh = baking.bake(vertices, faces, views, spec.texture, stopped, imagined)
    return light.lit(mesh, found), found, facts
