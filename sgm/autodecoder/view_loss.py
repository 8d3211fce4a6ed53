"""The loss of stage 1: objects as their volumes are seen, against their views."""
from mindspore import nn
from mindspore import ops as P

from sgm.autodecoder.ray_marching import RayMarcher


class ViewLoss(nn.Cell):
    """Perceptual loss of the colors plus `mask_weight` times the L1 loss of the opacity.

    Source: Ntavelis et al. 2023 (arXiv 2307.05445), section 3.2. model: an `ObjectModel`;
    perceptual: see `sgm.autodecoder.perceptual`; views: of each object at once, squares of `side`
    pixels; batch: objects. shared: all objects are seen by the same cameras. Colors are before
    black: with it, and no loss of the opacity, a black object would be transparent. color_weight:
    of the perceptual loss; with 0 there is none.
    """

    def __init__(self, model, perceptual, batch, views, side, mask_weight, shared,
                 color_weight=1.0):
        super().__init__(auto_prefix=False)
        self.model, self.perceptual = model, perceptual
        self.views, self.side, self.mask_weight = views, side, mask_weight
        self.color_weight = color_weight
        self.groups, self.members = (1, batch) if shared else (batch, 1)
        spec = model.spec
        self.march = RayMarcher(spec.volume.side, spec.samples, self.groups, self.members)

    def pictures(self, objects, origins, directions, jitter, cameras=None):
        """Return views (batch * views, 4, side, side): colors before black, and opacity.

        objects (batch,) int32; origins, directions (3, rays) and jitter (samples, rays): see
        `RayMarcher`, the rays of a view after those of the one before; cameras (rays / side^2,)
        int32: their learned poses.
        """
        if self.model.cameras is not None:
            origins, directions = self.model.cameras(origins, directions, cameras)
        made = self.march(self.model.volumes(objects), origins, directions, jitter)
        made = made.reshape(4, self.groups, self.views, self.side ** 2, self.members)
        return made.transpose(1, 4, 2, 0, 3).reshape(-1, 4, self.side, self.side)

    def construct(self, objects, origins, directions, jitter, target, cameras=None):
        """Return the loss, a scalar; target (batch * views, 4, side, side), see `pictures`."""
        made = self.pictures(objects, origins, directions, jitter, cameras)
        loss = self.mask_weight * P.abs(made[:, 3] - target[:, 3]).mean()
        if self.color_weight:
            loss = loss + self.color_weight * self.perceptual(made[:, :3], target[:, :3])
        return loss
