"""The public face of the feed-forward networks: image to tokens to planes to a field of density.

Points are in the field's own box, [-radius, radius]^3 of the `LrmSpec`; cameras as in
`sgm.feedforward.rays`. Arrays are numpy float32.
"""
import logging
from contextlib import nullcontext

import mindspore as ms
import numpy as np
from mindspore import Tensor

from sgm import ops
from sgm.common.errors import InputError, argument
from sgm.config.lrm import load_lrm_spec
from sgm.config.yaml_reader import DATA, ConfigError, find_config
from sgm.feedforward import rays
from sgm.feedforward.layers.triplanes import PROJECTIONS, GridRows, GridSlab, PlaneReader
from sgm.feedforward.marching import EvenSamples, Points, TwoPasses
from sgm.feedforward.meshes import Scene
from sgm.feedforward.networks import Encode, Planes, Table, build_network
from sgm.feedforward.preparation import network_image
from sgm.feedforward.published import load_published
from sgm.models.initialization import initialize
from sgm.reconstruct.dmtet import marching_tets, tet_grid
from sgm.views.preprocessing import cut_object

log = logging.getLogger("sgm")
EMBEDDED = ("lrm_small", DATA / "assets" / "lrm_small.safetensors")
RANDOM = "random"               # in place of a file: weights are drawn
ELEVATION = 10.0                # of a picture of which nobody says, as of the orbit models
POINTS = 65536                  # points of the field in one call, all in one static shape


def load_lrm(name=EMBEDDED[0], ckpt=None, overrides=()):
    """Return the `Reconstructor` of a feed-forward network with its weights.

    name: lrm_small, vfusion3d, openlrm_small, openlrm_base, openlrm_large, triposr, or one of our
    YAML files. ckpt: the published file, .safetensors or PyTorch's .bin, .ckpt or .pt; None: those
    of lrm_small that are in assets, if any; "random" draws weights, for tests. overrides:
    ["key=value", ...]. Raises ConfigError, CheckpointError.
    """
    spec = load_lrm_spec(name, overrides)
    is_embedded = find_config(name, "lrm") == find_config(EMBEDDED[0], "lrm")
    if ckpt is None and is_embedded and EMBEDDED[1].is_file():
        ckpt = EMBEDDED[1]
    if ckpt == RANDOM:
        log.warning("%s has random weights, as %s %s asks for: it makes noise", spec.name,
                    argument("ckpt"), RANDOM)
    return load_lrm_of(spec, ckpt)


def load_lrm_of(spec, ckpt, seed=0):
    """Return the `Reconstructor` of an LrmSpec; see `load_lrm`. seed: of weights that are drawn."""
    if ckpt is None:
        raise ConfigError(f"{argument('ckpt')}: found none for {spec.name}, expected its weights,"
                          f" since none are embedded; {RANDOM} draws some that make noise")
    network = build_network(spec)
    if ckpt == RANDOM:
        initialize(network, seed)
    else:
        load_published(network, spec, ckpt)
    return Reconstructor(spec, network)


class Reconstructor:
    """A feed-forward network that is ready for use: what `load_lrm` returns.

    Its steps are compiled when they are first used, and kept; `release` forgets them.
    """

    def __init__(self, spec, network):
        self.spec, self.network = spec, network
        self._graphs, self._estimator = {}, None

    def __repr__(self):
        size = sum(p.size for p in self.network.get_parameters())
        return f"<Reconstructor {self.spec.name}: {size / 1e6:.0f} M parameters>"

    def parameters_dict(self):
        """Return {published key: Parameter}."""
        return self.network.parameters_dict()

    def prepare(self, picture):
        """Return the network's input (1, 3, S, S) of a cut-out object.

        picture (H, W, 4) uint8, straight alpha, or PIL RGBA. Raises ImageError.
        """
        return network_image(np.asarray(picture), self.spec)

    def encode(self, images):
        """Return tokens (B, N, C) of images (B, 3, H, W) in [0, 1], of the spec's `image_size`."""
        side = self.spec.image_size
        images = np.asarray(images, np.float32)
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise ValueError(f"images: found shape {images.shape}, expected (B, 3, {side}, {side})")
        return ops.fetch(self._graph("encode", Encode)(Tensor(images)))

    def planes(self, tokens, cameras=None):
        """Return planes (B, 3, C, R, R) of tokens (B, N, C).

        cameras (B, 16): what the network is told of the camera of its input; None: the canonical
        one, as the published programs have it. triposr is told none; an upright network must be
        told: see `rays.upright_cameras`.
        """
        given = [Tensor(np.asarray(tokens, np.float32))]
        if self.spec.family == "triposr":
            if cameras is not None:
                raise ValueError("cameras: found some, expected None: triposr is told no camera")
        else:
            if cameras is None and self.spec.upright:
                raise ValueError(f"cameras: found None, expected (B, 16): {self.spec.name} is told"
                                 " the elevation of its input; give rays.upright_cameras")
            if cameras is None:
                camera = rays.canonical_camera(self.spec.family)
                cameras = np.repeat(camera, len(tokens), axis=0)
            given.append(Tensor(np.asarray(cameras, np.float32)))
        return ops.fetch(self._graph("planes", Planes)(*given))

    def elevation(self, tokens):
        """Return the elevations (B,) of images, in degrees above the horizon, of tokens (B, N, C).

        Raises InputError if the network has no estimator, or one that was not trained.
        """
        head = getattr(self.network, "elevation_head", None)
        if head is None or not head.is_trained():
            why = "has none" if head is None else "has one that was not trained"
            raise InputError(f"{argument('elevation')}: found auto, which takes an estimator, and"
                             f" {self.spec.name} {why}; give degrees above the horizon")
        return ops.fetch(self._graph("elevation", lambda network: head)(
            Tensor(np.asarray(tokens, np.float32))))

    def elevation_of(self, picture):
        """Return the elevation of the camera of a cut-out object, in degrees above the horizon.

        picture: as `prepare` takes it. A network without an estimator asks that of the embedded
        lrm_small. At most 89, as cameras do not look straight down. Raises as `prepare` and
        `elevation` do, and ConfigError if nothing is embedded.
        """
        return self._estimate(picture)

    def _estimate(self, picture, tokens=None):
        """See `elevation_of`; tokens (1, N, C): of the picture, if they are there already."""
        if getattr(self.network, "elevation_head", None) is None:
            if self._estimator is None:
                try:
                    self._estimator = load_lrm()
                except ConfigError as error:
                    raise ConfigError(f"{argument('elevation')} auto: {self.spec.name} has no"
                                      f" estimator, and {error}; or give degrees") from None
            return self._estimator.elevation_of(picture)
        if tokens is None:
            tokens = self.encode(self.prepare(picture))
        return float(self.elevation(tokens)[0].clip(-89, 89))

    def field(self, planes, points):
        """Return raw density (B, P, 1), before activation, and color (B, P, 3) at points (B, P, 3).

        Color is sRGB in [0, 1], give or take 0.001. Beyond the box the planes are zero, which is no
        empty space. `density` activates.
        """
        graph = self._graph("field", lambda network: Points(network.points, self._reader()))
        count = points.shape[1]
        raw = np.empty((len(planes), count, 1), np.float32)
        color = np.empty((len(planes), count, 3), np.float32)
        size = min(POINTS, count)
        for scene in range(len(planes)):
            table = self._table(planes[scene:scene + 1])
            scaled = np.float32(points[scene]) / np.float32(self.spec.volume.radius)
            for start in range(0, count, size):
                part = _padded(scaled[start:start + size], size)
                found = _arrays(graph(table, Tensor(part[None])))
                end = min(start + size, count)
                raw[scene, start:end] = found[0][:end - start]
                color[scene, start:end] = found[1][:end - start]
        return raw, color

    def density(self, raw):
        """Return the activated density of raw density of any shape."""
        if self.spec.family == "triposr":
            return np.exp(raw - 1)
        return np.logaddexp(0, raw - 1).astype(np.float32)

    def grid(self, planes, resolution, on_slab=None):
        """Return the activated density (G, G, G) of one scene's planes (1, 3, C, R, R).

        Its points are at equal steps from edge to edge of the box, in the order x, y, z.
        on_slab(done, all) is called after each x.
        """
        rows = self._graph(f"rows {resolution}", lambda network: GridRows(
            self.spec.triplane.features_side, resolution, PROJECTIONS[self.spec.family]))
        slab = self._graph("slab", lambda network: GridSlab(network.points))
        table = self._table(planes)
        first, second, third = rows(table)
        density = np.empty((resolution,) * 3, np.float32)
        for x in range(resolution):
            density[x] = ops.fetch(slab(first, second, third, Tensor([x], ms.int32)))
            if on_slab is not None:
                on_slab(x + 1, resolution)
        return density

    def surface(self, planes, resolution=None, on_slab=None):
        """Return where the density of one scene's planes passes the spec's threshold.

        It is a closed mesh in the field's box: vertices (V, 3) float32 and faces (F, 3) int32,
        counter-clockwise seen from outside. `field` has their colors. resolution, on_slab: see
        `grid`; None: the spec's. Raises InputError if no density is above the threshold.
        """
        volume = self.spec.volume
        resolution = volume.grid if resolution is None else resolution
        density = self.grid(planes, resolution, on_slab)
        if not density.max() > volume.threshold:
            raise InputError(f"found densities up to {density.max():.3g}, expected some above"
                             f" volume.threshold {volume.threshold:g}; give a picture of an object,"
                             " or lower it")
        outside = tet_grid.sealed(volume.threshold - density, volume.radius)
        edges, faces = marching_tets.march(outside)
        values = outside.reshape(-1)[edges.T]
        ends = [tet_grid.positions(resolution - 1, volume.radius, end) for end in edges.T]
        return marching_tets.crossings(*values, *ends).astype(np.float32), faces

    def render(self, planes, poses, intrinsics, size, background=1.0, on_chunk=None):
        """Return images (V, H, W, 3), opacity and depth (V, H, W) of one scene's planes.

        planes (1, 3, C, R, R); poses (V, 3 or 4, 4) and intrinsics: see `rays.pixel_rays`; size:
        (H, W) pixels. background: a number in [0, 1], or a color (3,). Depth is a distance from the
        camera; where nothing is met it is the largest of the call. Samples are in the middle of
        their stretches. on_chunk(done, all) is called after each part of the rays.
        """
        spec, (height, width) = self.spec, size
        found = rays.through_box(*rays.pixel_rays(poses, intrinsics, height, width), spec.family,
                                 spec.volume.radius)
        samples = self._samples()
        graph = self._graph("render", self._renderer)
        chunk, count = POINTS // samples, len(found.origins)
        fixed = []
        if spec.family != "triposr":
            found = found[:4]
            even = np.linspace(0, 1, samples, dtype=np.float32)
            fixed = [Tensor(np.full((chunk, samples), 0.5, np.float32)),
                     Tensor(np.tile(even, (chunk, 1)))]
        table, parts = self._table(planes), []
        for start in range(0, count, chunk):
            given = [Tensor(_padded(x[start:start + chunk], chunk)) for x in found]
            results = _arrays(graph(table, *given, *fixed))
            parts.append([x[:count - start] for x in results])
            if on_chunk is not None:
                on_chunk(min(start + chunk, count), count)
        color, opacity, depth, first, last = (np.concatenate(x) for x in zip(*parts))
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.nan_to_num(depth / opacity, nan=np.inf).clip(first.min(), last.max())
        image = color + (1 - opacity) * np.float32(background)
        shape = len(poses), height, width
        return image.reshape(*shape, 3), opacity.reshape(shape), depth.reshape(shape)

    def scene(self, picture, elevation=ELEVATION, stage=nullcontext):
        """Return the `sgm.feedforward.meshes.Scene` of a picture: its `mesh()` and `views()`.

        picture: PIL, cut out or to be (`sgm.views.matting`); elevation: of its camera, in degrees,
        or "auto": see `elevation_of`. stage(name) is a context manager around each step. Raises
        InputError.
        """
        cut = cut_object(picture).image
        with stage("encode"):
            image = self.prepare(cut)
            tokens = self.encode(image)
            if elevation == "auto":
                elevation = self._estimate(cut, tokens)
        cameras = rays.upright_cameras([elevation]) if self.spec.upright else None
        with stage("planes"):
            planes = self.planes(tokens, cameras)
        return Scene(self, image, planes, elevation)

    def mesh(self, picture, elevation=ELEVATION, **options):
        """Return the mesh of a picture, upright in our world; see `scene` and `Scene.mesh`."""
        return self.scene(picture, elevation).mesh(**options)

    def views(self, picture, orbit=None, elevation=ELEVATION, **options):
        """Return the `Views` of a picture's object; see `scene` and `Scene.views`."""
        return self.scene(picture, elevation).views(orbit, **options)

    def release(self):
        """Give back the memory of compiled graphs."""
        self._graphs.clear()
        self._estimator = None
        ops.release()

    def _graph(self, name, make):
        """Return a compiled step, which make(network) returns as a Cell the first time."""
        if name not in self._graphs:
            self._graphs[name] = ops.compiled(make(self.network).construct)
        return self._graphs[name]

    def _table(self, planes):
        """Return what points read, of the planes (1, 3, C, R, R) of one scene."""
        triplane = self.spec.triplane
        expected = (1, 3, triplane.channels, triplane.features_side, triplane.features_side)
        if np.shape(planes) != expected:
            raise ValueError(f"planes: found shape {np.shape(planes)}, expected {expected}: one"
                             " scene at a time")
        return self._graph("table", Table)(Tensor(np.asarray(planes, np.float32)))

    def _reader(self):
        return PlaneReader(self.spec.triplane.features_side, PROJECTIONS[self.spec.family])

    def _samples(self):
        """Return the samples of a ray that are evaluated together: all, or one of two passes."""
        samples = self.spec.volume.samples
        return samples if self.spec.family == "triposr" else samples // 2

    def _renderer(self, network):
        if self.spec.family == "triposr":
            return EvenSamples(network.points, self._reader(), self._samples(),
                               self.spec.volume.radius)
        return TwoPasses(network.points, self._reader(), self._samples())


def _arrays(tensors):
    """Return the numpy values of several tensors, after one wait for all."""
    ops.wait()
    return [x.asnumpy() for x in tensors]


def _padded(rows, count):
    """Return an array with its last row repeated until it has `count`."""
    return np.ascontiguousarray(np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1),
                                       mode="edge"))
