"""Camera poses that are learned along with the objects, as corrections of given ones."""
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from sgm.models.blocks import empty
from sgm.ops import scatter

_CROSS = np.zeros((3, 3, 3), np.float32)        # _CROSS[k] = the cross product with axis k
for _k in range(3):
    _CROSS[_k, (_k + 2) % 3, (_k + 1) % 3], _CROSS[_k, (_k + 1) % 3, (_k + 2) % 3] = 1, -1
EPS = 1e-12


class LearnedCameras(nn.Cell):
    """A rotation of each camera about the middle of the scene, and a shift of it.

    Of an orbit that is known roughly, azimuth and elevation are what is wrong most, and both are
    rotations about the middle. All of them start as nothing. A rotation or a shift of all cameras
    together is free: the objects follow it.
    """

    def __init__(self, poses):
        super().__init__()
        self.rotation = empty(poses, 3)         # axis times angle, radians
        self.shift = empty(poses, 3)            # in box units
        self.cross = Tensor(_CROSS.reshape(3, 9))
        self.identity = Tensor(np.eye(3, dtype=np.float32))

    def rotations(self, cameras):
        """Return the rotations (K, 3, 3) of cameras (K,) int32, Rodrigues' formula."""
        vectors = scatter.take(self.rotation, cameras)
        square = (vectors * vectors).sum(1) + EPS       # its root has no gradient at 0
        angle = P.sqrt(square)
        cross = P.matmul(vectors, self.cross).reshape(-1, 3, 3)
        first = (P.sin(angle) / angle).reshape(-1, 1, 1)
        second = ((1 - P.cos(angle)) / square).reshape(-1, 1, 1)
        return self.identity + first * cross + second * P.bmm(cross, cross)

    def construct(self, origins, directions, cameras):
        """Return the corrected origins and directions (3, K * rays).

        cameras (K,) int32: which pose each K-th of the rays belongs to.
        """
        count = cameras.shape[0]
        rotations = self.rotations(cameras)

        def rotated(values):
            values = values.reshape(3, count, -1).transpose(1, 0, 2)
            return P.bmm(rotations, values)

        shift = scatter.take(self.shift, cameras).reshape(count, 3, 1)
        origins = rotated(origins) + shift
        return (origins.transpose(1, 0, 2).reshape(3, -1),
                rotated(directions).transpose(1, 0, 2).reshape(3, -1))
