"""The graphs of the feed-forward networks, in the shapes of a configuration of configs/lrm."""
from sgm.audit.diffusion_graphs import GraphBuilder, floats
from sgm.audit.mesh_graphs import integers
from sgm.feedforward import marching
from sgm.feedforward.layers import triplanes
from sgm.feedforward.networks import Encode, Planes, Table, build_network
from sgm.feedforward.reconstructor import POINTS

GRID = 256              # points along a side; the published grids take the same primitives

def graphs(spec):
    """Yield the `GraphBuilder`s of an `LrmSpec`: image to planes, grid, points and views."""
    side, triplane = spec.image_size, spec.triplane
    patches = (side // spec.encoder.patch_size) ** 2
    features, width = triplane.features_side, spec.decoder.width
    planes = floats(1, 3, triplane.channels, features, features)
    table = floats(3 * (features + 2) ** 2, width)
    projections = triplanes.PROJECTIONS[spec.family]
    tokens = {"tokens": floats(1, 1 + patches, spec.encoder.width)}
    if spec.family != "triposr":
        tokens["camera"] = floats(1, 16)

    def reader():
        return triplanes.PlaneReader(features, projections)

    def points():
        return build_network(spec).points

    yield GraphBuilder("encoder", lambda: Encode(build_network(spec)),
                       {"image": floats(1, 3, side, side)}, ("image",), True)
    yield GraphBuilder("triplane transformer", lambda: Planes(build_network(spec)), tokens,
                       tuple(tokens), True)
    if spec.elevation_width:
        yield GraphBuilder("estimator of the elevation",
                           lambda: build_network(spec).elevation_head,
                           {"tokens": tokens["tokens"]}, ("tokens",), True)
    yield GraphBuilder("table", lambda: Table(build_network(spec)), {"planes": planes}, ("planes",))
    given = {"table": table, "points": floats(1, POINTS, 3)}
    yield GraphBuilder(f"{POINTS} points", lambda: marching.Points(points(), reader()), given,
                       ("points",), True)
    yield GraphBuilder(f"grid of {GRID}^3, planes",
                       lambda: triplanes.GridRows(features, GRID, projections), {"table": table})
    rows = floats(GRID, GRID, width)
    yield GraphBuilder(f"grid of {GRID}^3, a slab", lambda: triplanes.GridSlab(points()),
                       {"first": rows, "second": rows, "third": rows, "x": integers(1)}, ("x",),
                       True)
    yield rendering(spec, points, reader, table)


def rendering(spec, points, reader, table):
    """Return the GraphBuilder of the rays of one call of `Reconstructor.render`."""
    samples, even = spec.volume.samples, spec.family == "triposr"
    each = samples if even else samples // 2
    rays = POINTS // each
    given = {"table": table, "origins": floats(rays, 3), "directions": floats(rays, 3),
             "near": floats(rays, 1), "far": floats(rays, 1)}
    if even:
        given["valid"] = floats(rays, 1)
    else:
        given |= {"jitter": floats(rays, each), "uniform": floats(rays, each)}

    def make():
        if even:
            return marching.EvenSamples(points(), reader(), samples, spec.volume.radius)
        return marching.TwoPasses(points(), reader(), each)

    return GraphBuilder(f"{rays} rays of {samples} samples", make, given, tuple(given)[1:], True)
