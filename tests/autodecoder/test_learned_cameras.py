"""Corrections of cameras against scipy's rotations; they can start from nothing."""
import numpy as np
from mindspore import Tensor, value_and_grad
from scipy.spatial.transform import Rotation

from sgm.autodecoder.learned_cameras import LearnedCameras


def test_rotations_and_shifts(agree):
    rng = np.random.default_rng(0)
    cell, cameras = LearnedCameras(4), np.int32([2, 0, 2])
    vectors, shifts = (rng.normal(0, 1, (4, 3)).astype(np.float32) for _ in range(2))
    cell.rotation.set_data(Tensor(vectors))
    cell.shift.set_data(Tensor(shifts))
    origins, directions = (rng.normal(0, 1, (3, 15)).astype(np.float32) for _ in range(2))
    found = cell(Tensor(origins), Tensor(directions), Tensor(cameras))
    for k, camera in enumerate(cameras):
        turn, some = Rotation.from_rotvec(vectors[camera]), slice(5 * k, 5 * k + 5)
        agree("learned origins", found[0][:, some], turn.apply(origins[:, some].T).T + shifts[camera][:, None], 1e-5)
        agree("learned directions", found[1][:, some], turn.apply(directions[:, some].T).T, 1e-5)


def test_no_correction_has_a_gradient():
    """At the start rays are as given, and d(turn x) = axis x x, which a root or a quotient of 0 would make NaN."""
    cell = LearnedCameras(1)
    for parameter in cell.trainable_params():
        parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    origins, directions = np.float32([[1], [2], [3]]), np.float32([[0], [0], [1]])

    def total(origins, directions, cameras):
        moved, turned = cell(origins, directions, cameras)
        return moved[0].sum() + 10 * turned[1].sum()
    value, (rotation, shift) = value_and_grad(total, None, cell.trainable_params())(
        Tensor(origins), Tensor(directions), Tensor(np.int32([0])))
    assert float(value) == 1.0
    np.testing.assert_allclose(rotation.asnumpy(), [[-10.0, 3.0, -2.0]], atol=1e-4)
    assert shift.asnumpy().tolist() == [[1.0, 0.0, 0.0]]
