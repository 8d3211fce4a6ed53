"""The graphs that make a mesh of views: the radiance field's and DMTet's.

Their shapes are those of a mesh configuration. The texture has no graph: its least squares run on
the host (sgm/reconstruct/texture/least_squares.py, numpy and numba).
"""
from sgm.audit.diffusion_graphs import GraphBuilder, floats
from sgm.audit.graph import Type
from sgm.ops.adam import AdamStep
from sgm.reconstruct.dmtet import pixel_batches, refinement
from sgm.reconstruct.nerf import field, training
from sgm.reconstruct.nerf.appearance import Appearance

# What a run finds out from its object, here of usual size. Grid edges that the surface crosses,
# over the square of the cells per side (6.4 to 11.5 in three objects); its triangles per such edge
# (2.0); pairs of pixels that an outline passes, over views and the pixels of their side (3.1 to
# 4.1).
EDGES, FACES, OUTLINES = 11, 2, 4
VIEWS = 21              # each with its appearance, where views disagree


def integers(*shape):
    """Return the Type of an int32 tensor."""
    return Type("int32", shape)


def graphs(spec):
    """Yield the `GraphBuilder`s of a `MeshSpec`: the field, and every stage of DMTet.

    The field is trained on views that agree, and on some that do not.
    """
    yield nerf_step(spec.nerf)
    if spec.disagreement.grid:
        yield nerf_step(spec.nerf, spec.disagreement.grid)
    yield evaluation(spec.nerf)
    for stage in range(len(spec.dmtet.sides)):
        if spec.dmtet.steps[stage]:
            yield dmtet_step(spec, stage)


def _encoded(settings, points, prefix=""):
    """Return the types of what `Field.encode` makes of points."""
    levels = training.make_levels(settings)
    rows = points * len(levels)
    # one copy, for Ascend
    return {prefix + "indices": integers(8, rows), prefix + "weights": floats(8, rows, 1)}


def nerf_step(settings, cells=0):
    """Return the GraphBuilder of a training step of the field: the graph of `NerfTrainer.step`.

    cells: of the grids of an `Appearance`; 0 = there is none.
    """
    rays, samples = settings.rays, settings.samples

    def make():
        made = training.make_field(settings)
        added = Appearance(VIEWS, cells) if cells else None
        parameters = made.trainable_params() + (added.trainable_params() if cells else [])
        return AdamStep(training.Rendering(made, settings, added, 1.0), parameters)

    arguments = {
        "rates": floats(3),
        **_encoded(settings, rays * samples),
        "t": floats(rays, samples),
        "delta": floats(rays, samples),
        "rgb": floats(rays, 3),
        "alpha": floats(rays),
        "background": floats(rays, 3),
    }
    if settings.directional or settings.tv > 0 or cells:
        arguments["harmonics"] = (
            floats(rays * samples, field.SH_WIDTH) if settings.directional else floats(1)
        )
    if settings.tv > 0 or cells:
        arguments["pairs"] = integers(2 * training.TV_PAIRS if settings.tv > 0 else 1)
    if cells:
        arguments |= {"places": integers(4, rays), "place_weights": floats(4, rays, 1)}
    more = ", views that disagree" if cells else ""
    return GraphBuilder(
        f"NeRF training step, {settings.encoding}{more}", make, arguments, tuple(arguments), True
    )


def evaluation(settings):
    """Return the GraphBuilder of the field at points: the graph of `Field.evaluate`."""
    arguments = _encoded(settings, field.CHUNK)
    return GraphBuilder(
        f"NeRF evaluation, {settings.encoding}",
        lambda: field.Evaluator(training.make_field(settings)),
        arguments,
        tuple(arguments),
        True,
    )


def dmtet_step(spec, stage):
    """Return the GraphBuilder of the graph of `Refiner.step`, for a surface of usual size."""
    settings, resolution = spec.dmtet, spec.depth.resolution
    lengths = pixel_batches.Lengths()
    edges = lengths.of("edges", EDGES * resolution ** 2)
    faces = lengths.of("faces", FACES * EDGES * resolution ** 2)
    outlines = lengths.of("outlines", OUTLINES * settings.sides[stage] * settings.views[stage])
    colored, moving = settings.pixels, max(pixel_batches.geometry_rows(settings), 2)

    def make():
        return refinement.adam_step(training.make_field(spec.nerf), settings)

    rows = colored + outlines
    arguments = {
        "rates": floats(3),
        **{name: floats(edges) for name in pixel_batches.Edges._fields},
        **_encoded(spec.nerf, colored),
        **_encoded(spec.nerf, pixel_batches.geometry_rows(settings), "further "),
        **{f"faces {k}": integers(faces) for k in range(3)},
        **{name: integers(outlines) for name in ("near", "far", "receiver", "p", "q")},
        "across": floats(outlines),
        "functionals": floats(9, outlines),
        "outline_eyes": floats(3, outlines),
        "target": floats(rows, 3),
        "wanted": floats(rows),
        "shares": floats(rows),
        "backdrop": floats(outlines, 3),
        **{name: integers(moving) for name in "abc"},
        "directions": floats(3, moving),
        "eyes": floats(3, moving),
        "moves": floats(moving),
        "first": integers(moving),
        "second": integers(moving),
        "even": floats(moving),
    }
    return GraphBuilder(
        f"DMTet training step, {settings.views[stage]} x {settings.sides[stage]}^2",
        make,
        arguments,
        tuple(arguments),
        True,
    )
