"""What a camera sees of a mesh."""
import numpy as np
from support.coloring import color_of, colored

from sgm.reconstruct.posed_views import PosedViews
from sgm.reconstruct.report import render_like
from sgm.reconstruct.texture import visibility
from sgm.views.cameras import camera_to_world


def test_sight_of_an_off_center_camera(ball):
    """Depth and place by the pinhole's own formula, for a picture that is neither square nor centerd."""
    c2w = camera_to_world(30.0, 20.0, 2.0)
    view = PosedViews(np.zeros((1, 40, 60, 3), np.float32), np.zeros((1, 40, 60), np.float32), c2w[None], 70.0, 90.0, 22.5, 25.0)
    sight = visibility.render_visibility(ball.vertices, ball.faces, view, 0)
    assert sight.face.shape == (40, 60)
    rows, columns = np.nonzero(sight.face >= 0)
    w = sight.weights[rows, columns]
    p = ball.vertices[ball.faces[sight.face[rows, columns]]]
    points = p[:, 0] * (1 - w.sum(1))[:, None] + p[:, 1] * w[:, :1] + p[:, 2] * w[:, 1:]
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    np.testing.assert_allclose(22.5 + 70 * local[:, 0] / -local[:, 2], columns + 0.5, atol=1e-3)
    np.testing.assert_allclose(25.0 - 90 * local[:, 1] / -local[:, 2], rows + 0.5, atol=1e-3)
    np.testing.assert_allclose(sight.depth[rows, columns], -local[:, 2], rtol=1e-5)
    assert (sight.nearest[rows, columns] <= sight.depth[rows, columns] + 1e-6).all()
    image = render_like(colored(ball), view)[0]
    assert image.shape == (40, 60, 4)
    sure = np.zeros((40, 60), bool)
    sure[rows, columns] = True
    assert ((image[..., 3] > 127) != sure).mean() < 0.02
    whole = image[rows, columns, 3] == 255
    error = np.abs(image[rows, columns, :3] / 255 - color_of(points))[whole]
    assert np.median(error) < 0.01 and error.max() < 0.1
