"""Appearance of single views: what each shows beyond the colors that all of them agree on.

A highlight of a light that moves with the camera is no color of the object, and a field of one
color for a point would bend the surface to show it. So each view has a coarse grid over its
picture, interpolated linearly, whose gray level is added to the rendered color. The grids are
learned along with the field and kept near 0 by an L1 penalty; the surface is then refined on views
without what they add. NeRF in the Wild (Martin-Brualla et al. 2021, arXiv 2008.02268) has a vector
for each picture, bilateral guided radiance fields (Wang et al. 2024, arXiv 2406.00448) a grid.
"""
from dataclasses import replace

import cv2
import numpy as np
from mindspore import Parameter, Tensor, nn

from sgm.reconstruct.nerf.field import Interpolate


class Appearance(nn.Cell):
    """Grids of `cells` x `cells` over the pictures of `count` views, gray levels at their corners.
    """

    def __init__(self, count, cells):
        super().__init__()
        self.count, self.cells = count, cells
        entries = count * (cells + 1) ** 2
        self.grid = Parameter(Tensor(np.zeros((entries, 1), np.float32)), name="appearance")
        self.interpolate = Interpolate(entries, 1)

    def construct(self, indices, weights):
        """Return (N, 1): the grids at the pixels that `encode` was given."""
        return self.interpolate(self.grid, indices, weights)

    def encode(self, view, row, column, height, width):
        """Return indices int32 (4, N) and weights float32 (4, N, 1) of pixels (N,) of the views.

        height, width: of the pictures, pixels.
        """
        n = self.cells
        x, y = (column + 0.5) / width * n, (row + 0.5) / height * n
        i, j = x.astype(np.int32), y.astype(np.int32)
        s, t = x - i, y - j
        first = (view * (n + 1) + j) * (n + 1) + i
        indices = np.stack([first, first + 1, first + n + 1, first + n + 2])
        weights = np.stack([(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t])
        return indices.astype(np.int32), weights[..., None].astype(np.float32)

    def removed(self, views):
        """Return PosedViews without what the grids add to them."""
        n, shown = self.cells, self.grids()
        x, y = np.meshgrid((np.arange(views.w, dtype=np.float32) + 0.5) / views.w * n,
                           (np.arange(views.h, dtype=np.float32) + 0.5) / views.h * n)
        added = np.stack([cv2.remap(grid, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
                          for grid in shown])[..., None]
        mask = views.mask[..., None]
        return replace(views, rgb=np.clip(views.rgb - mask * added, 0, mask))

    def grids(self):
        """Return the grids, (V, cells + 1, cells + 1) float32."""
        return self.grid.asnumpy().reshape(self.count, self.cells + 1, self.cells + 1)
