"""Losses between pictures on several scales: VGG's features where its weights are given, or not.

The paper sums |VGG_i(D_l made) - VGG_i(D_l true)| over the levels l of a pyramid and layers i of
VGG-19 (Ntavelis et al. 2023, arXiv 2307.05445, section 3.2), a loss that comes from the First Order
Motion Model (Siarohin et al. 2019, arXiv 2003.00196): the levels 1, 1/2, 1/4, 1/8, the layers
relu1_1 to relu5_1, each with weight 10. The paper names neither, these are that model's.

Without VGG's weights `MultiScaleGradients` takes its place: colors and their differences between
neighbors, on the same levels, with the same weight, so that it has a like share beside the loss of
the opacity. It is a substitute, not the paper's loss.
"""
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError
from sgm.models.blocks import Conv

LEVELS = 4
WEIGHT = 10.0                                   # of each level, of VGG of each of its layers
LEAST_SIDE = {"gradients": 4, "vgg": 16}        # of a level's pictures; VGG halves them four times
# VGG-19 up to relu5_1, in torchvision's numbers of `features`: convolutions and their channels, the
# layers before which the picture is halved, and those whose ReLU is compared.
CONVOLUTIONS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 16: 256, 19: 512, 21: 512,
                23: 512, 25: 512, 28: 512}
HALVED, COMPARED = (5, 10, 19, 28), (0, 5, 10, 19, 28)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)        # ImageNet's


def halved(images):
    """Return pictures (N, C, H, W) of half the side, means of 2 x 2 pixels."""
    count, channels, height, width = images.shape
    images = images.reshape(count, channels, height // 2, 2, width // 2, 2)
    return (images[:, :, :, 0] + images[:, :, :, 1]).sum(-1) * 0.25


def largest(images):
    """Return pictures (N, C, H, W) of half the side, the largest of 2 x 2 pixels each.

    Made of operators that sgm/audit/operators.yaml has.
    """
    count, channels, height, width = images.shape
    images = images.reshape(count, channels, height // 2, 2, width)
    images = images[:, :, :, 0] + P.relu(images[:, :, :, 1] - images[:, :, :, 0])
    images = images.reshape(count, channels, height // 2, width // 2, 2)
    return images[..., 0] + P.relu(images[..., 1] - images[..., 0])


def levels_of(side, kind):
    """Return how many levels pictures of that side have: at most LEVELS, each half the one before.

    kind: "gradients" or "vgg".
    """
    count = 1
    while count < LEVELS and side % 2 == 0 and side // 2 >= LEAST_SIDE[kind]:
        side, count = side // 2, count + 1
    return count


class MultiScaleGradients(nn.Cell):
    """WEIGHT times the sum over levels of mean absolute differences, of colors and gradients."""

    def __init__(self, side):
        super().__init__(auto_prefix=False)
        self.levels = levels_of(side, "gradients")

    def construct(self, made, true):
        """Return the loss of pictures (N, C, H, W) in [0, 1], a scalar."""
        difference, loss = made - true, 0.0
        for level in range(self.levels):
            if level:
                difference = halved(difference)
            across = difference[:, :, :, 1:] - difference[:, :, :, :-1]
            down = difference[:, :, 1:] - difference[:, :, :-1]
            loss = loss + P.abs(difference).mean() + P.abs(across).mean() + P.abs(down).mean()
        return WEIGHT * loss


class VggPyramid(nn.Cell):
    """The pyramidal perceptual loss; its weights are not trained."""

    def __init__(self, side):
        super().__init__(auto_prefix=False)
        self.levels = levels_of(side, "vgg")
        self.features, width = nn.CellDict(), 3
        for number, out in CONVOLUTIONS.items():
            self.features[str(number)] = Conv(width, out, 3, 3)
            width = out
        for parameter in self.get_parameters():
            parameter.requires_grad = False
        self.mean, self.std = (Tensor(np.float32(values).reshape(1, 3, 1, 1))
                               for values in (MEAN, STD))

    def compared(self, images):
        """Return the features of pictures (N, 3, H, W) in [0, 1] that are compared."""
        x, found = (images - self.mean) / self.std, ()
        for number in CONVOLUTIONS:
            if number in HALVED:
                x = largest(x)
            layer = self.features[str(number)]
            x = P.relu(ops.conv2d(x, layer.weight, layer.bias))
            if number in COMPARED:
                found = found + (x,)
        return found

    def construct(self, made, true):
        """Return the loss of pictures (N, 3, H, W) in [0, 1], a scalar."""
        loss = 0.0
        for level in range(self.levels):
            if level:
                made, true = halved(made), halved(true)
            for ours, theirs in zip(self.compared(made), self.compared(true)):
                loss = loss + P.abs(ours - P.stop_gradient(theirs)).mean()
        return WEIGHT * loss


def load_vgg(path, side):
    """Return the VggPyramid for pictures of that side with the weights of a file.

    The file has the names of torchvision's vgg19 (`features.0.weight`, ...); what else it holds is
    not used. Raises CheckpointError.
    """
    checkpoint, cell = open_checkpoint(path), VggPyramid(side)
    for number, layer in cell.features.items():
        for leaf in ("weight", "bias"):
            key, parameter = f"features.{number}.{leaf}", getattr(layer, leaf)
            if key not in checkpoint or tuple(checkpoint.shape(key)) != tuple(parameter.shape):
                raise CheckpointError(f"vgg: {path}: found no {key} of shape {parameter.shape},"
                                      " expected the weights of torchvision's vgg19")
            parameter.set_data(Tensor(np.array(checkpoint.read(key), np.float32)))
    return cell


def perceptual_loss(side, vgg=""):
    """Return the loss for pictures of that side: VGG's with the weights of a file, or gradients."""
    return load_vgg(vgg, side) if vgg else MultiScaleGradients(side)
