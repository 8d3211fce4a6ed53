"""The public face: shapes, parts of one static size, files, and what is said of them."""
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import save_file
from support.badfiles import torch_zip
from support.feedforward_goldens import SPECS, golden_of, network
from support.torch_pickles import dict_of, tensor_of

import sgm
from sgm import ops
from sgm.common.errors import InputError
from sgm.config.lrm import DecoderSpec, EncoderSpec, LrmSpec, TriplaneSpec, VolumeSpec
from sgm.feedforward import reconstructor
from sgm.feedforward.networks import build_network
from sgm.feedforward.published import load_published
from sgm.ops import device
from sgm.views.cameras import camera_to_world


@pytest.fixture(autouse=True)
def pynative(monkeypatch):
    """A small static size, without graphs: results are there at once, and nothing has to be waited for."""
    monkeypatch.setattr(reconstructor, "POINTS", 512)
    for module in (device, ops):
        monkeypatch.setattr(module, "wait", lambda: None)
    ops.set_jit(False)
    yield
    ops.set_jit(True)


@pytest.mark.parametrize("name", ["vfusion3d", "triposr"])
def test_from_an_image_to_planes_grid_and_views(name):
    lrm = reconstructor.Reconstructor(SPECS[name], network(name))
    picture = golden_of("triposr_preprocess")["in/big.rgba_u8"]
    tokens = lrm.encode(lrm.prepare(picture))
    planes = lrm.planes(tokens)
    assert tokens.shape == (1, 17, 32) and planes.shape == (1, 3, 8, 8, 8)
    # the grid by its planes, and the field at its points, 512 at a time
    radius, done = lrm.spec.volume.radius, []
    grid = lrm.grid(planes, 9, lambda *state: done.append(state))
    axis = np.linspace(-radius, radius, 9)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
    raw, color = lrm.field(planes, points)
    assert raw.shape == (1, 729, 1) and color.shape == (1, 729, 3) and done[-1] == (9, 9)
    np.testing.assert_allclose(lrm.density(raw).reshape(grid.shape), grid, rtol=1e-4, atol=1e-5)
    # a view in parts, and the same view by itself; it is of the field
    poses = camera_to_world([0, 120], [0, 20], 1.9)
    image, opacity, depth = lrm.render(planes, poses, (0.75, 0.75, 0.5, 0.5), (9, 8))
    assert image.shape == (2, 9, 8, 3) and opacity.shape == depth.shape == (2, 9, 8)
    assert 0 <= opacity.min() < opacity.max() <= 1.0001 and np.isfinite(depth).all()
    alone, *_ = lrm.render(planes, poses[1:], (0.75, 0.75, 0.5, 0.5), (9, 8))
    np.testing.assert_allclose(alone[0], image[1], atol=1e-5)
    black, *_ = lrm.render(planes, poses[1:], (0.75, 0.75, 0.5, 0.5), (9, 8), background=0.0)
    np.testing.assert_allclose(image[1] - black[0], (1 - opacity[1])[..., None].repeat(3, -1), atol=1e-5)
    with pytest.raises(ValueError, match=r"images: found shape \(1, 3, 5, 5\), expected"):
        lrm.encode(np.zeros((1, 3, 5, 5)))
    with pytest.raises(ValueError, match=r"planes: found shape \(2, 3, 8, 8, 8\), expected \(1, 3, 8, 8, 8\): one scene"):
        lrm.grid(np.repeat(planes, 2, 0), 5)


def test_surface_of_a_ball(monkeypatch):
    """Radius 0.4, closed and facing outwards, in the box of the network; none where nothing is dense enough."""
    lrm = reconstructor.Reconstructor(SPECS["triposr"], None)
    axis = np.linspace(-0.87, 0.87, 40)
    distance = np.sqrt(sum(x ** 2 for x in np.meshgrid(axis, axis, axis, indexing="ij")))
    monkeypatch.setattr(lrm, "grid", lambda planes, resolution, on_slab: 25 + 100 * (0.4 - distance).astype(np.float32))
    vertices, faces = lrm.surface(None, 40)
    a, b, c = vertices[faces].astype(np.float64).transpose(1, 0, 2)
    assert abs((np.cross(a, b) * c).sum() / 6 / (4 / 3 * np.pi * 0.4 ** 3) - 1) < 0.01
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.4, atol=2e-3)
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    monkeypatch.setattr(lrm, "grid", lambda planes, resolution, on_slab: np.full((9, 9, 9), 3, np.float32))
    with pytest.raises(InputError, match="found densities up to 3, expected some above volume.threshold 25"):
        lrm.surface(None)


@pytest.mark.parametrize("family, radius", [("vfusion3d", 1.0), ("triposr", 0.87)])
def test_an_ellipsoid_in_its_place(family, radius, monkeypatch):
    """Planes and weights by hand: the field, its surface, and where a camera of ours sees it and how far away."""
    monkeypatch.setattr(reconstructor, "POINTS", 1 << 14)
    triplane, decoder = TriplaneSpec(width=32, layers=1, heads=1, side=16, channels=1), DecoderSpec(width=4, layers=2)
    spec = LrmSpec(family=family, encoder=EncoderSpec(width=8, layers=1, heads=1), triplane=triplane, decoder=decoder,
                   volume=VolumeSpec(radius=radius, samples=64))
    net = build_network(spec)
    first, last = (net.points.net if family == "vfusion3d" else net.points.layers)[0::2]
    center, axes = np.float32([0.3, -0.1, 0.2]), np.float32([0.3, 0.2, 0.4])
    place = ((np.arange(32) + 0.5) / 16 - 1) * radius
    x, y, z = (((place - c) / a) ** 2 for c, a in zip(center, axes))
    passed = 1 if family == "vfusion3d" else 1 / (1 + np.exp(-1))      # what the activation makes of 1
    # 1 on the ellipsoid: its x and y are columns and rows of the first plane, z rows of the second
    planes = np.zeros((1, 3, 1, 32, 32), np.float32)
    planes[0, 0, 0], planes[0, 1, 0] = x[None] + y[:, None], z[:, None]
    for weight, value in ((first.weight, [[1, 1, 0]] + [[0, 0, 0]] * 3), (first.bias, np.zeros(4)),
                          (last.weight, [[-60 / passed, 0, 0, 0]] + [[0] * 4] * 3), (last.bias, [60 + 1.5, 0, 0, 0])):
        weight.set_data(Tensor(np.float32(value)))
    lrm = reconstructor.Reconstructor(spec, net)
    vertices, _ = lrm.surface(planes, 24)
    np.testing.assert_allclose([vertices.min(0), vertices.max(0)], [center - axes, center + axes], atol=0.06)
    # from +x: y to the right, z up
    image, opacity, depth = lrm.render(planes, camera_to_world([0, 90], [0, 0], 2.0), (1, 1, 0.5, 0.5), (40, 40))
    for view, (right, away) in enumerate(((center[1], 2 - center[0]), (-center[0], 2 - center[1]))):
        row, column = (np.average(grid, weights=opacity[view]) for grid in np.mgrid[:40, :40] + 0.5)
        np.testing.assert_allclose([column, row], [20 + 40 * right / away, 20 - 40 * center[2] / away], atol=0.5)
        assert abs(depth[view, int(row), int(column)] - np.linalg.norm([away, right, center[2]]) + axes[view]) < 0.08
    assert image.shape == (2, 40, 40, 3)


def weights_of(name, prefix=""):
    return {prefix + key: p.asnumpy() for key, p in network(name).parameters_dict().items()}


def load_into(name, path):
    net = build_network(SPECS[name])
    return net, load_published(net, SPECS[name], path)


def test_published_files_in_both_forms(tmp_path, caplog):
    """safetensors, and a pickle of a training's state with the weights under a name; keys that nothing uses."""
    caplog.set_level(logging.INFO)
    weights = weights_of("triposr") | {"image_tokenizer.model.pooler.dense.weight": np.ones((32, 32), np.float32)}
    save_file(weights, tmp_path / "a.safetensors")
    net, report = load_into("triposr", tmp_path / "a.safetensors")
    assert len(report.unused) == 1 and "1 unused keys passed over; weights of triposr: CC-BY-NC 4.0" in caplog.text
    assert all(np.array_equal(p.asnumpy(), weights[key]) for key, p in net.parameters_dict().items())

    weights = weights_of("vfusion3d")
    model = {key: tensor_of(i, value) for i, (key, value) in enumerate(weights.items())}
    index = dict_of({"model_state_dict": dict_of(model), "optimizer": dict_of({"exp_avg": model["transformer.norm.bias"]})})
    (tmp_path / "model.ckpt").write_bytes(torch_zip(b"\x80\x02" + index + b".", [x.tobytes() for x in weights.values()]))
    net, report = load_into("vfusion3d", tmp_path / "model.ckpt")
    assert report.format == "pytorch" and "uses the tensors under model_state_dict., not 1 others" in caplog.text
    assert all(np.array_equal(p.asnumpy(), weights[key]) for key, p in net.parameters_dict().items())


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "a.safetensors"
    weights = weights_of("openlrm_kvdiff")
    first = "camera_embedder.mlp.0.bias"
    for changed, said in (({}, "1 keys missing: " + first), ({first: np.zeros(3, np.float32)}, f"misshapen: {first} (found (3,)"),
                          ({first: weights[first], "more.weight": np.zeros(3, np.float32)}, "1 left over: more.weight")):
        save_file({**{key: value for key, value in weights.items() if key != first}, **changed}, path)
        with pytest.raises(sgm.CheckpointError) as error:
            load_into("openlrm_kvdiff", path)
        assert str(error.value).startswith(f"{path}: does not fit openlrm_kvdiff: ") and said in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(sgm.ConfigError, match="ckpt: found none for triposr, expected its weights"):
        sgm.load_lrm("triposr")
    with pytest.raises(sgm.ConfigError, match="nearest name is triposr"):
        sgm.load_lrm("tripo")


def test_a_file_of_another_network_is_named(tmp_path):
    save_file({"upsampler.weight": np.zeros((512, 32, 2, 2), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(sgm.CheckpointError, match="upsampler.weight: found the weights of openlrm_small, expected those of"):
        load_into("vfusion3d", tmp_path / "a.safetensors")


def test_networks_without_an_estimator_ask_the_embedded_one(monkeypatch):
    """Of the same cut-out picture, within 89 degrees; where nothing is embedded that is said."""
    lrm, picture, asked = reconstructor.Reconstructor(SPECS["triposr"], network("triposr")), golden_of("triposr_preprocess")["in/big.rgba_u8"], []
    with monkeypatch.context() as patch:
        patch.setattr(reconstructor, "load_lrm", lambda: Embedded())

        class Embedded:
            def elevation_of(self, picture):
                asked.append(picture)
                return 33.0

        assert lrm.elevation_of(picture) == 33 and lrm.elevation_of(picture) == 33
        assert len(asked) == 2 and (np.asarray(asked[0]) == picture).all()
    lrm.release()
    monkeypatch.setattr(reconstructor, "EMBEDDED", ("lrm_small", reconstructor.DATA / "none"))
    with pytest.raises(InputError, match="elevation auto: .* has no estimator, and .*ckpt: found none for lrm_small.*; or give degrees"):
        lrm.elevation_of(picture)


def test_estimates_are_of_cameras(monkeypatch):
    lrm = reconstructor.Reconstructor(SPECS["triposr"], SimpleNamespace(elevation_head=True))
    for name in ("prepare", "encode"):
        monkeypatch.setattr(lrm, name, lambda given: given)
    monkeypatch.setattr(lrm, "elevation", lambda tokens: np.float32([95]))
    assert lrm.elevation_of("a picture") == 89
