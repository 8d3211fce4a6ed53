"""The loss that trains a feed-forward network: views of the planes it makes of one view each."""
from mindspore import nn

from sgm.feedforward.layers.triplanes import PROJECTIONS, PlaneReader
from sgm.feedforward.marching import TwoPasses


def variation(planes):
    """Return the total variation of planes (B, 3, C, R, R): mean squares of neighbors' differences.
    """
    right = planes[:, :, :, :, 1:] - planes[:, :, :, :, :-1]
    down = planes[:, :, :, 1:] - planes[:, :, :, :-1]
    return (right * right).mean() + (down * down).mean()


class ReconstructionLoss(nn.Cell):
    """Mean squares of colors and of opacity, a perceptual term, the planes' total variation.

    Sources: Hong et al. 2024 (LRM, arXiv 2311.04400, section 3.4) and OpenLRM's code, the opacity
    of VFusion3D (Han et al. 2024, arXiv 2403.12034). network: of `build_network`, of a family with
    two passes of samples; perceptual: a Cell of pictures (N, 3, H, W) in [0, 1]; count: objects;
    views: of each object, squares of `side` pixels; samples: of a ray; weights: of opacity,
    perceptual term and total variation.
    """

    def __init__(self, network, spec, perceptual, count, views, side, samples, weights):
        super().__init__(auto_prefix=False)
        self.network, self.perceptual = network, perceptual
        self.shape = count * views, side, side
        self.opacity_weight, self.perceptual_weight, self.variation_weight = weights
        reader = PlaneReader(spec.triplane.features_side, PROJECTIONS[spec.family])
        self.march = TwoPasses(network.points, reader, samples // 2, count)

    def render(self, planes, background, rays):
        """Return views (count * views, 3, side, side) on backgrounds, and their opacity (..., 1).

        planes (count, 3, C, R, R); background (count * views, 1, 1, 1) in [0, 1]; rays: origins,
        directions, near, far, jitter, uniform as `TwoPasses` takes them, a view after the other.
        """
        color, opacity, _, _, _ = self.march(self.network.points.project(planes), *rays)
        color = color.reshape(*self.shape, 3).transpose(0, 3, 1, 2)
        opacity = opacity.reshape(*self.shape, 1).transpose(0, 3, 1, 2)
        return color + (1 - opacity) * background, opacity

    def construct(self, image, camera, target, background, share, *rays):
        """Return the loss, a scalar.

        image (count, 3, S, S) in [0, 1]; camera (count, 16); target (count * views, 4, side, side)
        premultiplied color and opacity; share: of the perceptual term's weight, a scalar;
        background, rays: see `render`.
        """
        planes = self.network.triplane(self.network.encode(image), camera)
        made, opacity = self.render(planes, background, rays)
        true = target[:, :3] + (1 - target[:, 3:]) * background
        error, uncovered = made - true, opacity - target[:, 3:]
        loss = (error * error).mean() + self.opacity_weight * (uncovered * uncovered).mean()
        loss = loss + share * self.perceptual_weight * self.perceptual(made, true)
        return loss + self.variation_weight * variation(planes)
