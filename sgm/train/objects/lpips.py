"""LPIPS between pictures, by VGG-16, where somebody has its weights.

Source: Zhang et al. 2018 (arXiv 1801.03924) and its code, version 0.1: features of five layers, of
length 1 in each pixel, whose squared differences are weighted channel by channel.
"""
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.autodecoder.perceptual import largest
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError
from sgm.models.blocks import Conv, empty

# VGG-16 in torchvision's numbers of `features`: convolutions and their channels, the layers before
# which the picture is halved, and those whose ReLU is compared: relu1_2, 2_2, 3_3, 4_3, 5_3.
CONVOLUTIONS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512,
                24: 512, 26: 512, 28: 512}
HALVED, COMPARED = (5, 10, 17, 24), (2, 7, 14, 21, 28)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)      # of pictures in [-1, 1]
EPS = 1e-10
LEAST_SIDE = 16         # of pictures: they are halved four times


class Lpips(nn.Cell):
    """The mean LPIPS of pictures; its weights are not trained."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.features, width = nn.CellDict(), 3
        for number, out in CONVOLUTIONS.items():
            self.features[str(number)] = Conv(width, out, 3, 3)
            width = out
        self.weights = ParameterTuple([empty(CONVOLUTIONS[number]) for number in COMPARED])
        for parameter in self.get_parameters():
            parameter.requires_grad = False
        self.shift, self.scale = (Tensor(np.float32(values).reshape(1, 3, 1, 1))
                                  for values in (SHIFT, SCALE))

    def compared(self, images):
        """Return the features of pictures (N, 3, H, W) in [0, 1] that are compared, of length 1."""
        x, found = (2 * images - 1 - self.shift) / self.scale, ()
        for number in CONVOLUTIONS:
            if number in HALVED:
                x = largest(x)
            layer = self.features[str(number)]
            x = P.relu(ops.conv2d(x, layer.weight, layer.bias))
            if number in COMPARED:
                # where all are 0 the root would have no gradient
                length = P.sqrt((x * x).sum(1, keepdims=True) + EPS ** 2)
                found = found + (x / (length + EPS),)
        return found

    def construct(self, made, true):
        """Return the loss of pictures (N, 3, H, W) in [0, 1], a scalar."""
        loss = 0.0
        for place, (ours, theirs) in enumerate(zip(self.compared(made), self.compared(true))):
            difference = ours - P.stop_gradient(theirs)
            weight = self.weights[place].reshape(1, -1, 1, 1)
            loss = loss + (difference * difference * weight).sum(1).mean()
        return loss


def load_lpips(files):
    """Return the Lpips with the weights of two files.

    files: of torchvision's vgg16 (`features.0.weight`, ...), and of LPIPS's own layers
    (`lin0.model.1.weight`, ...); what else they hold is not used. Raises CheckpointError.
    """
    cell, (vgg, own) = Lpips(), map(open_checkpoint, files)
    wanted = [(vgg, f"features.{number}.{leaf}", getattr(layer, leaf), "torchvision's vgg16")
              for number, layer in cell.features.items() for leaf in ("weight", "bias")]
    wanted += [(own, f"lin{place}.model.1.weight", weight, "LPIPS 0.1 for VGG")
               for place, weight in enumerate(cell.weights)]
    for store, key, parameter, of in wanted:
        if key not in store or np.prod(store.shape(key)) != parameter.size:
            raise CheckpointError(f"lpips: {store.path}: found no {key} of {parameter.size} values,"
                                  f" expected the weights of {of}")
        value = np.array(store.read(key), np.float32).reshape(parameter.shape)
        parameter.set_data(Tensor(value))
    return cell
