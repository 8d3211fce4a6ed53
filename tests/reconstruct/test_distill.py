"""Distillation: the mask on a ball, cameras of orbits, goals and their gradient, what a model is asked for."""
import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from support.surfaces import ball

from sgm.config.model_files import load_spec
from sgm.config.reconstruction import DistillSpec, DMTetSpec, load_mesh_spec
from sgm.config.yaml_reader import ConfigError
from sgm.diffusion.engine import Engine
from sgm.diffusion.pipeline import load_model
from sgm.geometry.topology import vertex_normals
from sgm.reconstruct.distill import goals, orbit_model
from sgm.reconstruct.dmtet import pixel_batches, refinement
from sgm.reconstruct.nerf import encoding
from sgm.reconstruct.nerf.field import Field
from sgm.reconstruct.optimization import optimize
from sgm.reconstruct.posed_views import HALF, PosedViews, ShapeError
from sgm.views.cameras import Orbit, camera_to_world, focal_length
from sgm.views.images import write_png
from sgm.views.transforms import write_transforms

SIZE, RADIUS = 48, 0.4
FAR = np.array([[1e6, 0, 0]])
SMALL = DMTetSpec(sides=[SIZE], views=[2], steps=[10], lr=[1e-3], field_lr=2e-2, pixels=1024, save_every=0, preview_every=0)


def views_of(poses, size=SIZE):
    """Empty views from cameras."""
    count, focal = len(poses), focal_length(size)
    return PosedViews(np.zeros((count, size, size, 3), np.float32), np.zeros((count, size, size), np.float32), poses, focal,
                      focal, size / 2, size / 2)


def surface():
    return pixel_batches.surface_of(ball(RADIUS), HALF)


class OneColor:
    """A field of one color."""

    def __init__(self, *color):
        self.color = np.float32(color)

    def evaluate(self, points):
        return None, np.broadcast_to(self.color, (len(points), 3))


class Echo:
    """A model whose pictures are those that it is given, in another color; it notes what it is asked."""
    name, num_frames, size, is_posed, frees_graphs = "echo", 6, (SIZE, SIZE), True, False

    def __init__(self, color=(1, 1, 1)):
        self.asked, self.color = [], np.float32(color).reshape(3, 1, 1)

    def __call__(self, clip, orbit, sigma, rng):
        self.asked.append((clip, orbit, sigma, rng.random_sample()))
        return np.where((clip == 1).all(1, keepdims=True), clip, 2 * self.color - 1).astype(np.float32)


@pytest.mark.parametrize("cosine, floor, wanted", [(1, 0.2, 0.2), (0.5, 0.2, 0.2), (0.4, 0.0, 0.15625), (0.3, 0.2, 0.5),
                                                   (0.2, 0.2, 0.84375), (0.1, 0.2, 1), (-1, 0.2, 1), (0.3, 1.0, 1)])
def test_mask_by_hand(cosine, floor, wanted):
    """x = (cosine - .1) / .4, and the mask is 1 - x^2 (3 - 2x), at least the floor."""
    normal = np.array([[cosine, np.sqrt(1 - cosine ** 2), 0]])
    assert goals.soft_mask(np.zeros((1, 3)), normal, FAR, [0.1, 0.5], floor) == pytest.approx(wanted, abs=1e-5)
    # the best camera counts: one that looks from behind changes nothing
    assert goals.soft_mask(np.zeros((1, 3)), normal, np.concatenate([FAR, -normal]), [0.1, 0.5], floor) == pytest.approx(
        wanted, abs=1e-5)


def test_hard_mask_is_a_step():
    normals = np.array([[c, np.sqrt(1 - c * c), 0] for c in (0.29, 0.31)])
    np.testing.assert_allclose(goals.soft_mask(np.zeros((2, 3)), normals, FAR, [0.3, 0.3], 0), [1, 0], atol=1e-6)


def test_mask_of_a_ball_in_a_picture():
    """A camera at a right angle to the one that has seen a ball: from x = 1 down to the middle, as by hand."""
    shape = surface()
    mask = goals.soft_mask(shape.vertices, vertex_normals(shape.vertices, shape.faces), FAR, [0.1, 0.5], 0.2)
    views = views_of(camera_to_world(np.array([90.0]), 0, 4.0), 96)
    rgb, alpha, shown = goals.render(shape, OneColor(0.2, 0.4, 0.6), mask, views.c2w, views.intrinsics * [2, 2, 1, 1],
                                       (96, 96))
    assert rgb.shape == (1, 96, 96, 3) and (shown[0, 0] == 1).all() and (rgb[0, 0] == 1).all() and (alpha[0, 0] == 0).all()
    np.testing.assert_allclose(rgb[0, 48, 48], [0.2, 0.4, 0.6], atol=1e-6)
    focal = focal_length(96) * 2
    # from azimuth 90 the axis x points to the left; a ray's point at the height of the axis: |eye + t d| = RADIUS
    for column in (20, 30, 36, 40, 44, 60):
        d = np.array([(48 - column - 0.5) / focal, -1])
        b, c = (4 * d[1]) / (d @ d), (16 - RADIUS ** 2) / (d @ d)
        x = (-b - np.sqrt(b * b - c)) * d[0] / RADIUS
        s = np.clip((x - 0.1) / 0.4, 0, 1)
        assert shown[0, 47:49, column].mean() == pytest.approx(max(1 - s * s * (3 - 2 * s), 0.2), abs=0.05), column


@pytest.mark.parametrize("sign", [1, -1])
def test_orbits_end_on_the_input_view_wherever_the_box_is(sign):
    """The cameras of an orbit are those of its own world, moved as the views were."""
    given = Orbit.static(15, 8).with_sign(sign)
    views = views_of(given.poses(2.0)).moved(1.3, np.array([0.1, -0.05, 0.02]))
    cameras = goals.Cameras(views, (24, 24))
    orbit = cameras.orbit(7, 6, is_posed=True)
    assert orbit.sign == sign and orbit.elevations_deg[-1] == pytest.approx(15)
    np.testing.assert_allclose(cameras.poses(orbit)[-1], views.c2w[-1], atol=1e-9)
    true = views_of(orbit.poses(2.0)).moved(1.3, np.array([0.1, -0.05, 0.02])).c2w
    np.testing.assert_allclose(cameras.poses(orbit), true, atol=1e-9)
    np.testing.assert_allclose(cameras.intrinsics, views.intrinsics / 2)
    # a model that knows no angles only makes static orbits
    np.testing.assert_array_equal(cameras.orbit(7, 6, is_posed=False).azimuths_deg, Orbit.static(15, 6).azimuths_deg)
    with pytest.raises(ShapeError, match="48 x 48 pixels, the model's 32 x 24"):
        goals.Cameras(views, (24, 32))


def test_without_its_input_no_model_is_asked():
    views = replace(views_of(Orbit.static(10, 4).poses(2.0)), files=("000.png", "001.png", "002.png", "003.png"))
    distiller = goals.Distiller(Echo(), DistillSpec(), "004.png")
    with pytest.raises(ShapeError, match="004.png: found it left out"):
        distiller.begin(views, SMALL, 0)


def test_schedule():
    """Nothing before the last fifth; then the weight grows linearly, one clip serves several steps, noise falls."""
    spec, model = DistillSpec(share=0.2, clips=5, weight=8.0, sigma_first=[10, 40], sigma_last=[1, 2]), Echo((0.9, 0.2, 0.1))
    distiller = goals.Distiller(model, spec)
    distiller.begin(views_of(Orbit.static(10, 4).poses(2.0)), replace(SMALL, steps=[30, 20]), 3)
    field, shape = OneColor(0.3, 0.3, 0.3), surface()

    def never():
        raise AssertionError("no graph was freed")

    made = [distiller(shape, field, done, never) for done in range(50)]
    assert made[:40] == [None] * 40 and [goal.weight for goal in made[40:]] == pytest.approx(np.arange(1, 11) * 0.8)
    assert len(model.asked) == 5 and made[40].views is made[41].views is not made[42].views
    sigmas = [sigma for _, _, sigma, _ in model.asked]
    assert 10 <= sigmas[0] <= 40 and 1 <= sigmas[-1] <= 2 and len({luck for *_, luck in model.asked}) == 5
    assert len({tuple(orbit.elevations_deg) for _, orbit, _, _ in model.asked}) == 5
    # what was shown to it, and what became of its pictures
    clip, orbit, _, _ = model.asked[-1]
    assert clip.shape == (6, 3, SIZE, SIZE) and clip.min() == pytest.approx(-0.4) and clip.max() == 1
    views = made[49].views
    on_white = views.rgb + 1 - views.mask[..., None]
    np.testing.assert_allclose(on_white, np.where((clip == 1).all(1)[..., None], 1, [0.9, 0.2, 0.1]), atol=1e-6)
    # of the input's camera the middle is seen: the floor, squared; background counts in full
    assert made[49].importance[-1, SIZE // 2, SIZE // 2] == pytest.approx(0.04) and made[49].importance[-1, 0, 0] == 1
    assert made[49].count == goals.FEWEST            # 1024 pixels a step are less than one of these pictures has


def test_graphs_are_forgotten_before_a_model_frees_them():
    """After the surface is rendered, and once for each clip."""
    events, field, model = [], OneColor(0.3, 0.3, 0.3), Echo()
    model.frees_graphs = True
    field.evaluate = lambda points, color=field.evaluate: events.append("rendered") or color(points)
    model.asked = type("Asked", (), {"append": lambda self, row: events.append("asked")})()
    distiller = goals.Distiller(model, DistillSpec(share=1.0, clips=2))
    distiller.begin(views_of(Orbit.static(10, 4).poses(2.0)), replace(SMALL, steps=[4]), 0)
    for done in range(4):
        assert distiller(surface(), field, done, lambda: events.append("forgotten"))
    assert events == ["rendered", "forgotten", "asked"] * 2


class Rows(nn.Cell):
    """A field whose colors, one a row, are its parameters."""

    def __init__(self, colors):
        super().__init__()
        self.colors = Parameter(Tensor(colors), name="colors")

    def encode(self, points, out=None):
        return np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32)

    def construct(self, indices, weights):
        return 0.0, self.colors + 0.0

    def evaluate(self, points):
        return None, np.full((len(points), 3), 0.4, np.float32)


def test_gradient_by_the_colors():
    """m^2 (render - picture) of every pixel inside, times 2 weight / pixels of the object; the picture is a constant."""
    settings = replace(SMALL, geometry=0.0, pixels=4096)
    colors = np.random.RandomState(0).random_sample((4096, 3)).astype(np.float32)
    field, shape = Rows(colors), surface()
    distiller = goals.Distiller(Echo((0.9, 0.2, 0.1)), DistillSpec(weight=7.0, share=1.0))
    distiller.begin(views_of(Orbit.static(10, 4).poses(2.0)), settings, 0)
    goal = distiller(shape, field, 9, None)
    assert goal.weight == 7 and isinstance(goal.views.rgb, np.ndarray)
    batcher = pixel_batches.PixelBatcher(goal.views, HALF, 20, refinement.of_goal(settings), pixel_batches.Lengths(),
                                         goal.importance)
    chosen = np.array([1, 4])
    batch = batcher.batch(shape, chosen, lambda a, b: [*field.encode(a), *field.encode(b)], np.random.RandomState(0))
    inner = batch.pixels.shares[:4096] > 0
    at_outline = np.unique(np.concatenate([batch.outlines.near, batch.outlines.far]))
    inner[at_outline[at_outline < 4096]] = False
    loss = refinement.Loss(field, refinement.of_goal(settings))
    arrays = [Tensor(np.ascontiguousarray(x)) for x in batch.arrays()]
    (_, _, _), gradient = ms.value_and_grad(loss, None, [field.colors], has_aux=True)(*arrays)
    gradient = gradient[0].asnumpy()[inner]
    on_white = (goal.views.rgb + 1 - goal.views.mask[..., None])[chosen].reshape(-1, 3)
    area = goal.views.mask[chosen].sum()
    squares = np.unique(goal.importance[chosen].reshape(-1))
    m2 = batch.pixels.shares[:4096][inner] * area
    assert inner.sum() > 500 and np.isin(np.round(m2, 5), np.round(squares, 5)).all() and 0 < m2.min() < m2.max()
    target = batch.pixels.target[:4096][inner]
    assert np.isin(np.round(target, 5), np.round(on_white, 5)).all()
    np.testing.assert_allclose(gradient * area / 2, m2[:, None] * (colors[inner] - target), atol=1e-6)


def test_only_the_field_is_trained():
    """The step's parameters are the field's, besides the surface: no gradient goes through a model."""
    field = Field(encoding.dense_levels([4], 2), HALF, width=8)
    step = refinement.adam_step(field, SMALL)
    guided = refinement.adam_step(field, SMALL, step)
    assert list(guided.parameters_) == list(step.parameters_) == field.trainable_params()
    assert guided.m is step.m and guided.v is step.v


@pytest.mark.slow
def test_an_unseen_back_takes_the_models_color():
    """A gray ball that is seen from the front only; the model says it is orange all around."""
    front = camera_to_world(np.array([-30.0, 30, 0]), 10, 2.0)
    _, alpha, _ = goals.render(surface(), OneColor(0, 0, 0), np.zeros(len(surface().vertices)), front,
                                 views_of(front).intrinsics, (SIZE, SIZE))
    views = replace(views_of(front), rgb=np.repeat(0.3 * alpha[..., None], 3, -1).astype(np.float32), mask=alpha)
    found = {}
    for weight in (0.0, 20.0):
        distiller = goals.Distiller(Echo((0.9, 0.5, 0.1)), DistillSpec(weight=weight, share=0.8))
        settings = replace(SMALL, steps=[40])
        distiller.begin(views, settings, 0)
        field = Field(encoding.dense_levels([4, 12], 2), HALF, width=16)
        refiner = refinement.Refiner(views, ball(RADIUS), field, settings, goals=distiller)
        assert optimize(refiner)
        found[weight] = field.evaluate(np.float32([[-RADIUS, 0, 0], [RADIUS, 0, 0]]))[1]
        imagined = distiller.imagined(refiner.surface(), field)
        assert imagined.rgb.shape == (18, 288, 288, 3)
    wanted = np.array([0.9, 0.5, 0.1])
    assert np.abs(found[20.0][0] - wanted).max() < 0.15 < np.abs(found[0.0][0] - wanted).max()
    assert np.abs(found[20.0][1] - 0.3).max() < 0.12


def test_time_of_a_clip():
    run = {"steps": 50, "stages": {"sample": {"seconds": 200.0}, "decode": {"seconds": 10.0}}}
    assert orbit_model.seconds_per_clip(run) == 4 + 20
    assert orbit_model.seconds_per_clip({}) is orbit_model.seconds_per_clip({**run, "steps": 0}) is None
    assert DistillSpec(share=0.2, clips=12).count([30, 20]) == 10


@pytest.mark.parametrize("text, said", [("distill.share=1.5", "a number from 0 to 1"), ("distill.sigma_last=[5,1]", "smaller one first"),
                                        ("distill.edges=[0.1]", "two numbers")])
def test_settings_are_checked(text, said):
    with pytest.raises(ConfigError, match=said):
        load_mesh_spec("default", [text])


@pytest.fixture
def folder(tmp_path):
    """A views folder of the embedded model, by its run.json, with an input of another size."""
    orbit = Orbit.static(10, 2)
    for k in range(2):
        write_png(tmp_path / f"{k:03d}.png", np.full((96, 96, 4), 100 * k, np.uint8))
    write_transforms(tmp_path, orbit, 96)
    (tmp_path / "run.json").write_text(json.dumps({"model": "sv3d_tiny", "checkpoint": {"hash": "sha256:0"}}))
    return tmp_path


def test_the_model_of_the_views(folder, caplog):
    """Its last view is the input, on white; a line warns of other weights."""
    distiller = orbit_model.of_views(folder, orbit_model.load(folder), DistillSpec(guidance=2.0))
    assert distiller.file == folder / "001.png"
    model = distiller.denoise
    assert model.size == (64, 64) and model.num_frames == 21 and model.is_posed and not model.frees_graphs
    assert (model.guidance == 2).all() and model.name.startswith("sv3d_tiny sha256:")
    gray = (100 * 100 + 155 * 255) / 255 / 255 * 2 - 1          # level 100 with alpha 100 on white
    np.testing.assert_allclose(model.image, gray, atol=0.01)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "made by other weights" in caplog.text
    (folder / "run.json").unlink()
    with pytest.raises(ShapeError, match="model: found none, and no run.json in"):
        orbit_model.load(folder)


def test_a_model_of_videos_is_refused():
    with pytest.raises(ShapeError, match="svd_tiny, a model of videos"):
        orbit_model.ModelDenoiser(Engine(load_spec("svd_tiny")), np.zeros((1, 3, 8, 8), np.float32), 3.0)


@pytest.fixture
def model(pynative):
    """A ModelDenoiser of the embedded weights, with three frames of 32 x 32 pixels and without graphs."""
    engine = load_model(overrides=["num_frames=3", "height=32", "width=32"])
    image = np.random.RandomState(5).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    yield orbit_model.ModelDenoiser(engine, image, 3.0)
    engine.release()


@pytest.mark.slow
def test_a_model_is_asked_once(model):
    """Encode, noise, one guided evaluation for the orbit's angles, decode, each as the engine does it."""
    engine, count = model.engine, model.num_frames
    orbit, sigma = Orbit.dynamic(1, 10, count), 5.0
    clip = np.random.RandomState(6).uniform(-1, 1, (count, 3, *model.size)).astype(np.float32)
    found = model(clip, orbit, sigma, np.random.RandomState(7))
    z = engine.encode(clip)
    noise = np.random.RandomState(0).standard_normal(model.image.shape)
    c, uc = engine.condition(model.image, noise, num_frames=count, polars_rad=orbit.polars_rad,
                             azimuths_rad=orbit.azimuths_rad)
    noisy = z + 5 * np.random.RandomState(7).standard_normal(z.shape).astype(np.float32)
    estimate = engine.denoiser(c, uc, np.full(count, 3.0))(Tensor(noisy), sigma)
    np.testing.assert_allclose(found, engine.decode(estimate), atol=1e-5)
    # another orbit around the same image has other angles, and another result
    other = model(clip, Orbit.dynamic(2, 40, count), sigma, np.random.RandomState(7))
    assert np.abs(other - found).max() > 1e-3 and found.shape == clip.shape


@pytest.mark.slow
def test_latent_form_by_differences(model):
    """The clip less the gradient of half the masked squared distance of its latents from the estimate."""
    count = model.num_frames
    rng = np.random.RandomState(8)
    clip = rng.uniform(-0.5, 0.5, (count, 3, *model.size)).astype(np.float32)
    mask = np.ones((count, *model.size), np.float32)
    mask[1:] = 0
    orbit = Orbit.dynamic(1, 10, count)
    z, estimate = model._estimate(clip, orbit, 5.0, np.random.RandomState(9))
    pulled = clip - model.latent(clip, mask, orbit, 5.0, np.random.RandomState(9))
    assert (pulled[1:] == 0).all() and np.abs(pulled[0]).max() > 0
    way = rng.standard_normal(clip[:1].shape).astype(np.float32)

    def loss(step):
        return np.square(model.engine.encode(clip[:1] + step * way) - estimate[:1]).astype(np.float64).sum() / 2

    assert (pulled[0] * way[0]).sum() == pytest.approx((loss(1e-2) - loss(-1e-2)) / 2e-2, rel=0.02)
