"""The networks of the three families under their published names.

Each has `encode` (image to tokens), `triplane` (tokens to planes) and `points`, its `PointDecoder`.
`Encode`, `Planes` and `Table` are these steps as graphs.
"""
from mindspore import nn

from sgm import ops
from sgm.feedforward.layers.backbone import Backbone
from sgm.feedforward.layers.elevation_head import ElevationHead
from sgm.feedforward.layers.encoders import Holder, OriginalDinov2, TransformersVit
from sgm.feedforward.layers.modulated import CameraEmbedder, ModulatedBlock
from sgm.feedforward.layers.triplanes import PlaneUpsampling, ReluDecoder, SiluDecoder
from sgm.models.blocks import LayerNorm, empty


def build_network(spec):
    """Return the network of an LrmSpec; its parameters take no memory until they are loaded."""
    network = {"vfusion3d": VFusion3D, "openlrm": OpenLRM, "triposr": TripoSR}[spec.family](spec)
    for name, parameter in network.parameters_and_names():
        parameter.name = name
    return network


def triplane_of(blocks, norm, start, tokens, camera):
    """Return the tokens (rows, C) of the planes: learned ones (1, N, C) through modulated blocks.

    tokens (B, M, context): of the image; camera (B, D): embedded.
    """
    count, _, context = tokens.shape
    _, length, width = start.shape
    x = start.broadcast_to((count, length, width)).reshape(count * length, width)
    tokens, camera = tokens.reshape(-1, context), ops.silu(camera)
    for block in blocks:
        x = block(x, tokens, camera, count)
    return norm(x)


def planes_of(spec):
    """Return the layer from tokens to planes of a `TriplaneSpec`."""
    return PlaneUpsampling(spec.width, spec.channels, spec.upsampling)


class ModulatedNetwork(nn.Cell):
    """What the two networks that are told a camera have in common."""

    @property
    def points(self):
        """Return the network of points."""
        return self.synthesizer.decoder

    def encode(self, image):
        """Map images (B, 3, H, W) in [0, 1] to tokens (B, N, context)."""
        return self.encoder.model(image)


class VFusion3D(ModulatedNetwork):
    """VFusion3D (Han et al. 2024, arXiv 2403.12034)."""

    def __init__(self, spec):
        super().__init__()
        size, triplane = (spec.image_size, spec.image_size), spec.triplane
        self.side = triplane.side
        self.encoder = Holder(model=TransformersVit(spec.encoder, spec.family, size))
        self.camera_embedder = CameraEmbedder(triplane.camera_width)
        self.transformer = Holder(
            pos_embed=empty(1, 3 * triplane.side ** 2, triplane.width),
            layers=nn.CellList([ModulatedBlock(triplane, spec.encoder.width)
                                for _ in range(triplane.layers)]),
            norm=LayerNorm(triplane.width, 1e-6),
            deconv=planes_of(triplane))
        self.synthesizer = Holder(decoder=ReluDecoder(spec.decoder, triplane.channels))

    def triplane(self, tokens, camera):
        """Map tokens (B, N, context) and cameras (B, 16) to planes (B, 3, C, R, R)."""
        parts = self.transformer
        x = triplane_of(parts.layers, parts.norm, parts.pos_embed, tokens,
                        self.camera_embedder(camera))
        return parts.deconv(x, tokens.shape[0], self.side)


class OpenLRM(ModulatedNetwork):
    """OpenLRM 1.1 (He and Wang 2023, after LRM)."""

    def __init__(self, spec):
        super().__init__()
        size, triplane = (spec.image_size, spec.image_size), spec.triplane
        self.side = triplane.side
        # An encoder that is trained from the start sees little but white in images from 0 to 1.
        self.encoder = Holder(model=OriginalDinov2(spec.encoder, spec.family, size,
                                                   normalize=spec.upright))
        self.camera_embedder = CameraEmbedder(triplane.camera_width)
        self.pos_embed = empty(1, 3 * triplane.side ** 2, triplane.width)
        self.transformer = Holder(
            layers=nn.CellList([ModulatedBlock(triplane, spec.encoder.width)
                                for _ in range(triplane.layers)]),
            norm=LayerNorm(triplane.width, 1e-6))
        self.upsampler = planes_of(triplane)
        self.synthesizer = Holder(decoder=ReluDecoder(spec.decoder, triplane.channels))
        self.elevation_head = None
        if spec.elevation_width:
            self.elevation_head = ElevationHead(spec.encoder.width, spec.elevation_width)

    def triplane(self, tokens, camera):
        """Map tokens (B, N, context) and cameras (B, 16) to planes (B, 3, C, R, R)."""
        x = triplane_of(self.transformer.layers, self.transformer.norm, self.pos_embed, tokens,
                        self.camera_embedder(camera))
        return self.upsampler(x, tokens.shape[0], self.side)


class TripoSR(nn.Cell):
    """TripoSR (Tochilkin et al. 2024, arXiv 2403.02151)."""

    def __init__(self, spec):
        super().__init__()
        size, triplane = (spec.image_size, spec.image_size), spec.triplane
        self.image_tokenizer = Holder(model=TransformersVit(spec.encoder, spec.family, size))
        self.tokenizer = Holder(
            embeddings=empty(3, triplane.width, triplane.side, triplane.side))
        self.backbone = Backbone(triplane, spec.encoder.width)
        self.post_processor = Holder(upsample=planes_of(triplane))
        self.decoder = SiluDecoder(spec.decoder, triplane.channels)

    @property
    def points(self):
        """Return the network of points."""
        return self.decoder

    def encode(self, image):
        """Map images (B, 3, H, W) in [0, 1] to tokens (B, N, context)."""
        return self.image_tokenizer.model(image)

    def triplane(self, tokens):
        """Map tokens (B, N, context) to planes (B, 3, C, R, R)."""
        start = self.tokenizer.embeddings
        planes, width, side, _ = start.shape
        count, _, context = tokens.shape
        length = planes * side * side
        x = start.reshape(planes, width, side * side).transpose(0, 2, 1).reshape(1, length, width)
        x = x.broadcast_to((count, length, width)).reshape(count * length, width)
        x = self.backbone(x, tokens.reshape(-1, context), count)
        return self.post_processor.upsample(x, count, side)


class Encode(nn.Cell):
    """The step from images to tokens."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, image):
        """Map images (B, 3, H, W) in [0, 1] to tokens (B, N, context)."""
        return self.network.encode(image)


class Planes(nn.Cell):
    """The step from tokens to planes."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, *given):
        """Map tokens (B, N, context), and cameras (B, 16) if it is told them, to planes."""
        return self.network.triplane(*given)


class Table(nn.Cell):
    """The step from planes to the table that points read: see `PointDecoder.project`."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.decoder = network.points

    def construct(self, planes):
        """Map planes (B, 3, C, R, R) to rows (3 B (R + 2)^2, width)."""
        return self.decoder.project(planes)
