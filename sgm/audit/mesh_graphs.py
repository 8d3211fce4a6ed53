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
from sgm.reconstruct.stages import field_settings

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

    The field is trained on views that agree, and on some that do not; the last stage of DMTet also
    with a goal, as distillation gives one.
    """
    yield nerf_step(spec.nerf)
    if spec.disagreement.grid:
        yield nerf_step(field_settings(spec, True), spec.disagreement.grid)
    yield evaluation(spec.nerf)
    stages = [stage for stage, steps in enumerate(spec.dmtet.steps) if steps]
    for stage in stages:
        yield dmtet_step(spec, stage)
    if stages:
        yield dmtet_step(spec, stages[-1], with_goal=True)


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


def dmtet_step(spec, stage, with_goal=False):
    """Return the GraphBuilder of the graph of `Refiner.step`, for a surface of usual size.

    A goal's pictures are taken to be as large and as many as the views.
    """
    settings, resolution = spec.dmtet, spec.depth.resolution
    lengths = pixel_batches.Lengths()
    edges = lengths.of("edges", EDGES * resolution ** 2)
    faces = lengths.of("faces", FACES * EDGES * resolution ** 2)
    outlines = lengths.of("outlines", OUTLINES * settings.sides[stage] * settings.views[stage])

    def make():
        field = training.make_field(spec.nerf)
        step = refinement.adam_step(field, settings)
        return refinement.adam_step(field, settings, step) if with_goal else step

    arguments = {
        "rates": floats(3),
        **{name: floats(edges) for name in pixel_batches.Edges._fields},
        **_pixels(spec.nerf, settings, faces, outlines),
    }
    if with_goal:
        goal = _pixels(spec.nerf, refinement.of_goal(settings), faces, outlines)
        arguments |= {f"goal's {name}": kind for name, kind in goal.items()}
    return GraphBuilder(
        f"DMTet training step{', with a goal' * with_goal}, {settings.views[stage]} x"
        f" {settings.sides[stage]}^2",
        make,
        arguments,
        tuple(arguments),
        True,
    )


def _pixels(nerf, settings, faces, outlines):
    """Return the types of `Batch.arrays` behind the edges."""
    colored, moving = settings.pixels, max(pixel_batches.geometry_rows(settings), 2)
    rows = colored + outlines
    return {
        **_encoded(nerf, colored),
        **_encoded(nerf, pixel_batches.geometry_rows(settings), "further "),
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
