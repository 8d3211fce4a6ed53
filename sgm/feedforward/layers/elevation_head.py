"""The elevation that an image was taken from, by its tokens.

VFusion3D (Han et al. 2024, arXiv 2403.12034) tells it by a small network on DINOv2's features; this
one reads those of the network's own encoder.
"""
from mindspore import nn
from mindspore import ops as P

from sgm import ops
from sgm.models.blocks import Linear

MIDDLE, HALF = 22.5, 22.5       # degrees: inputs are mostly from 0 to 45; the head is not bounded


class ElevationHead(nn.Cell):
    """Two linear layers on the class token and the mean of the others.

    The last one starts at zero, so an estimator that nobody has trained is known by it.
    """

    def __init__(self, width, inner):
        super().__init__()
        self.mlp = nn.CellList([Linear(2 * width, inner), nn.Identity(), Linear(inner, 1)])

    def construct(self, tokens):
        """Map tokens (B, 1 + N, width) to degrees (B,)."""
        features = P.concat((tokens[:, 0], tokens[:, 1:].mean(1)), 1)
        out = self.mlp[2](ops.silu(self.mlp[0](features)))
        return MIDDLE + HALF * out.reshape(-1)

    def is_trained(self):
        """Return whether it was trained."""
        return bool(self.mlp[2].weight.asnumpy().any())


class ElevationLoss(nn.Cell):
    """The mean absolute error in degrees of what the head says of images; only the head learns."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, image, elevation):
        """Return the loss, a scalar: image (B, 3, S, S) in [0, 1], elevation (B,) in degrees."""
        tokens = P.stop_gradient(self.network.encode(image))
        return P.abs(self.network.elevation_head(tokens) - elevation).mean()
