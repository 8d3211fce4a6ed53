"""Cameras and rays against the public PyTorch code, and against this project's own orbits."""
import numpy as np
from support.feedforward_goldens import golden_of

from sgm.feedforward import rays
from sgm.views.cameras import camera_to_world


def test_canonical_cameras():
    g = golden_of("cameras")
    assert np.array_equal(rays.canonical_camera("vfusion3d"), g["out/vf.canonical16"])
    assert np.array_equal(rays.canonical_camera("openlrm"), g["out/ol.canonical16"])
    assert rays.canonical_camera("triposr") is None


def test_our_orbit_is_that_of_vfusion3d():
    """The world is the same: z up, the input seen from azimuth 0, on the x axis."""
    g = golden_of("cameras")
    poses = camera_to_world(np.arange(8) * 45.0, 0, 1.5)
    g.agrees("out/vf.orbit.c2w", poses[:, :3])
    g.agrees("out/vf.orbit.principle16", rays.camera_vectors(poses, rays.INTRINSICS))
    canonical = camera_to_world(0.0, 0.0, 1.0)[:3]
    assert np.allclose(canonical, rays.CANONICAL["vfusion3d"])
    assert np.allclose(camera_to_world(-90.0, 0.0, 2.0)[:3], rays.CANONICAL["openlrm"])


def test_rays_of_triposr_are_those_of_our_cameras():
    """4 views of 4 x 4 pixels, 1.9 away, 40 degrees wide."""
    g = golden_of("cameras")
    focal = 0.5 / np.tan(np.deg2rad(20))
    origins, directions = rays.pixel_rays(camera_to_world(np.arange(4) * 90.0, 0, 1.9), (focal, focal, 0.5, 0.5), 4, 4)
    g.agrees("out/tsr.rays_d", directions)
    g.agrees("out/tsr.rays_o", origins)


def test_no_ray_meets_the_box():
    away = np.float32([[5, 0, 0]]), np.float32([[0, 0, 1]])
    found = rays.through_box(*away, "vfusion3d", 1.0)
    assert (found.near, found.far, found.valid) == (-1, -2, 0)
    assert rays.through_box(*away, "triposr", 0.87).valid == 0


def test_behind_the_camera():
    """VFusion3D and OpenLRM see what is behind the camera, TripoSR does not."""
    inside = np.float32([[0, 0, 0]]), np.float32([[1, 0, 0]])
    assert rays.through_box(*inside, "openlrm", 1.0).near == -1
    assert rays.through_box(*inside, "triposr", 0.87).near == 0
