"""Points, grids and views of given planes against the public PyTorch code."""
import json

import numpy as np
import pytest
from support.feedforward_goldens import SPECS, golden_of, network, tensors

from sgm import ops
from sgm.feedforward import rays
from sgm.feedforward.layers.triplanes import PROJECTIONS, PlaneReader
from sgm.feedforward.marching import EvenSamples, Points, TwoPasses
from sgm.feedforward.networks import Table

LRM = [name for name in SPECS if name != "triposr"]
FIRST = {"mid": 0, "given": 1, "crop": 1}        # of vfusion3d's views; the cameras of a golden are those of all its renders


def run(cell, *given, compiled=False):
    """The result of a cell, without graphs or compiled."""
    return (ops.compiled(cell.construct) if compiled else cell)(*given)


def reader(name):
    return PlaneReader(8, PROJECTIONS[SPECS[name].family])


def planes_of(g):
    planes = g["in/planes"]
    return tensors(planes.reshape(-1, *planes.shape[-4:]))[0]


@pytest.mark.parametrize("name", SPECS)
def test_points(name):
    g, net = golden_of(f"{name}_render"), network(name)
    planes = planes_of(g)
    points = (g["in/points"].reshape(len(planes), -1, 3) / np.float32(SPECS[name].volume.radius))
    raw, color = run(Points(net.points, reader(name)), run(Table(net), planes), *tensors(points))
    g.agrees("out/points.density_raw", raw)
    g.agrees("out/points.density_act", net.points.density(raw))
    g.agrees("out/points.rgb" if "out/points.rgb" in g else "out/points.color", color)


@pytest.mark.parametrize("name", SPECS)
def test_features_of_a_point(name):
    """Each plane by itself, read at the projection of the point: [scene, plane, point, channel]."""
    g = golden_of(f"{name}_render")
    planes = planes_of(g).asnumpy()
    scenes, _, channels, side, _ = planes.shape
    rows = np.pad(planes, [(0, 0)] * 3 + [(1, 1)] * 2).transpose(1, 0, 3, 4, 2).reshape(-1, channels)
    points = (g["in/points"].reshape(scenes, -1, 3) / np.float32(SPECS[name].volume.radius))
    index, weight = (x.asnumpy() for x in reader(name).corners(*tensors(points)))
    found = (rows[index] * weight[..., None]).reshape(scenes, -1, 3, 4, channels).sum(3)
    if name == "triposr":
        g.agrees("act/features", found)
    else:
        g.agrees("act/features", found.transpose(0, 2, 1, 3))


def windows(g, name, tag):
    """The rays of a golden's views: origins, directions (N, 3)."""
    shape = g[f"out/{tag}.images_rgb"].shape
    count, side = shape[1], shape[-1]
    first = FIRST[tag] if name == "vfusion3d" else 0
    cameras = g["in/render_cameras"][:, first:first + count].reshape(-1, 25)
    if name != "vfusion3d":
        places, sizes = g["in/anchors"].reshape(-1, 2), g["in/resolutions"].reshape(-1)
    else:       # start_x 3, start_y 6 of 12 pixels
        places, sizes = [(6, 3) if tag == "crop" else (0, 0)] * len(cameras), [12 if tag == "crop" else side] * len(cameras)
    found = []
    for camera, (row, column), size in zip(cameras, np.int64(places), np.int64(sizes)):
        whole = rays.pixel_rays(camera[None, :16].reshape(1, 4, 4), camera[[16, 20, 18, 21]], size, size)
        found.append([x.reshape(size, size, 3)[row:row + side, column:column + side].reshape(-1, 3) for x in whole])
    return [np.concatenate(x) for x in zip(*found)]


@pytest.mark.parametrize("name, tag, compiled", [(name, tag, False) for name in LRM for tag in ("mid", "given")] + [
    ("vfusion3d", "crop", False), *[
        pytest.param(name, tag, True, marks=pytest.mark.slow)
        for name, tag in [*((name, "mid") for name in LRM), ("openlrm_kvsame", "given")]]])
def test_views(name, tag, compiled):
    """Samples in the middle, at given jitter and fractions, and a crop; cameras outside, inside, and rays that miss."""
    g, net = golden_of(f"{name}_render"), network(name)
    images = g[f"out/{tag}.images_rgb"]
    scenes, views, _, side, _ = images.shape
    found = rays.through_box(*windows(g, name, tag), SPECS[name].family, 1.0)
    g.agrees(f"act/{tag}/ray_start", found.near)
    g.agrees(f"act/{tag}/ray_end", found.far)
    samples, count = SPECS[name].volume.samples // 2, len(found.origins)
    jitter, uniform = np.full((count, samples), 0.5), np.tile(np.linspace(0, 1, samples), (count, 1))
    if tag == "given":      # its order does not matter: samples are sorted in the end
        jitter, uniform = g["in/given.jitter"].reshape(count, samples), np.sort(g["in/given.u"], 1)
    renderer = TwoPasses(net.points, reader(name), samples, scenes)
    results = run(renderer, run(Table(net), planes_of(g)), *tensors(*found[:4], jitter, uniform), compiled=compiled)
    color, opacity, depth, first, last = (x.asnumpy() for x in results)
    background = 1.0 if name == "vfusion3d" else np.repeat(g["in/bg_colors"].reshape(-1), side * side)[:, None]
    color = color + (1 - opacity) * background
    g.agrees(f"out/{tag}.images_rgb", color.reshape(scenes, views, side, side, 3).transpose(0, 1, 4, 2, 3))
    g.agrees(f"out/{tag}.images_weight", opacity)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.nan_to_num(depth / opacity, nan=np.inf).clip(first.min(), last.max())
    g.agrees(f"out/{tag}.images_depth", depth)


@pytest.mark.parametrize("case, compiled", [("A", False), ("B", False), ("C", False), ("B", True)])
def test_views_of_triposr(case, compiled):
    """From outside, with rays that miss, and from inside the box."""
    g, net = golden_of("triposr_render"), network("triposr")
    settings = json.loads(g.metadata["views"])[case]
    origins, directions = g[f"act/{case}.rays_o"].reshape(-1, 3), g[f"act/{case}.rays_d"].reshape(-1, 3)
    found = rays.through_box(origins, directions, "triposr", 0.87)
    assert np.array_equal(found.valid.ravel(), g[f"act/{case}.valid"].ravel()) and settings["n_views"] in (2, 4)
    renderer = EvenSamples(net.points, reader("triposr"), 16, 0.87)
    results = run(renderer, run(Table(net), planes_of(g)), *tensors(*found), compiled=compiled)
    color, opacity, *_ = (x.asnumpy() for x in results)
    g.agrees(f"out/{case}.rgb", color + 1 - opacity)
    g.agrees(f"out/{case}.opacity", opacity)
