"""What the benchmarks of views compare with: the nearest training object, and how far a view is from the input."""
import catalogue_views
import numpy as np
import sharpness

from sgm.views import metrics
from sgm.views.cameras import Orbit


def picture(rng):
    """A colored box on white, (64, 64, 3) uint8."""
    image = np.full((catalogue_views.SIDE, catalogue_views.SIDE, 3), 255, np.uint8)
    (y, x), (height, width) = rng.randint(5, 30, 2), rng.randint(10, 30, 2)
    image[y:y + height, x:x + width] = rng.randint(0, 200, 3)
    return image


def test_nearest_has_the_highest_foreground_psnr():
    rng = np.random.RandomState(0)
    bank = np.stack([[picture(rng) for _ in range(6)] for _ in range(5)])
    inputs = np.stack([picture(rng) for _ in range(4)] + [bank[3, 2]])
    found = catalogue_views.nearest(bank.reshape(5, 6, -1), inputs)
    assert found[-1].tolist() == [3, 2]
    for image, place in zip(inputs, found):
        scores = [[metrics.compare(view, image)["psnr_fg"] for view in views] for views in bank]
        assert tuple(place) == np.unravel_index(np.argmax(scores), (5, 6))


def test_means_are_of_objects():
    """An object counts once, whichever the number of its inputs."""
    def views(*values):
        return [{key: value for key in metrics.METRICS} for value in values]

    results = {"A-001-front": {"prediction": views(1, 3), "mean": views(0, 0)},
               "A-001-quarter": {"prediction": views(6, 6), "mean": views(1, 1)}}
    objects = catalogue_views.per_object(results)
    assert objects["A-001"]["prediction"]["psnr_fg"] == 4 and list(objects) == ["A-001"]
    assert catalogue_views.gain(objects, "mean").tolist() == [3.5]


def test_angles_from_the_input():
    orbit = Orbit.from_lists([0.0, 90.0, 180.0, 0.0], [40.0, 0.0, 10.0, 10.0])
    np.testing.assert_allclose(sharpness.from_input(orbit), [30, 90, 160, 0], atol=1e-4)
