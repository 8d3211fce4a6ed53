"""Cameras, written down once: orbits, poses and rays (numpy only).

Their file, transforms.json, is in transforms.py.

World: right-handed, z up, the object inside [-0.5, 0.5]^3. Azimuth 0 is the +x axis,
counter-clockwise seen from above; elevation is absolute (0 = horizon, 90 = zenith). A camera stands
at r (cos el cos az, cos el sin az, sin el) and looks at the origin. Poses are OpenGL
camera-to-world: x right, y up, looking along -z. Pixel centers are at +0.5, x to the right,
y downwards.

SV3D: the input view is the LAST frame, at azimuth 0; the network is fed the polar angle 90 -
elevation and the azimuth relative to the last frame, in radians (Stability-AI/generative-models,
simple_video_sample.py).
"""
from dataclasses import dataclass, replace

import numpy as np

from sgm.common.errors import InputError, argument

FOV_DEG = 33.8     # SV3D paper, appendix B; horizontal = vertical
MAX_VALUE = 1e9    # largest length or angle in degrees; a larger one means a damaged file
DISTANCE = 2.0     # generative-models issue 342: "our default radius is 2"
EVALUATION = slice(0, None, 3)  # the views of `Orbit.rings` that are not to train on


class CameraError(InputError):
    """An orbit or a transforms.json that cannot be used; one line that says what to do."""


def focal_length(size, fov_deg=FOV_DEG):
    """Return the focal length in pixels of an image `size` pixels wide that sees `fov_deg` degrees.

    947.92 for 576 pixels and 33.8 degrees.
    """
    return size / (2 * np.tan(np.deg2rad(fov_deg) / 2))


def wrap_degrees(degrees):
    """Return degrees in [0, 360); just below 360 is rounding and becomes 0 (as -0.0 does)."""
    wrapped = np.mod(degrees, 360.0)
    return np.where(360 - wrapped < 1e-9, 0.0, wrapped) + 0.0


def angle_list(values, name):
    """Return a list of degrees as (T,) float64, T >= 1. Raises CameraError, calling it `name`."""
    try:
        # numpy would take them for numbers
        if any(isinstance(value, (bool, str)) for value in values):
            raise TypeError
        values = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise CameraError(f"{name} is not a list of numbers; expected degrees, one per"
                          " view") from None
    if values.ndim != 1 or not len(values):
        raise CameraError(f"{name} has shape {values.shape}; expected a list of degrees, at least"
                          " one view")
    bad = np.flatnonzero(~(np.abs(values) <= MAX_VALUE))
    if len(bad):
        raise CameraError(f"{name}: view {bad[0]} has {values[bad[0]]:g}; expected degrees")
    return values


# Does the published models' azimuth grow counter-clockwise (1) or clockwise (-1) seen from above?
# Not proven without their weights, hence this one constant and the flag --azimuth-sign.
AZIMUTH_SIGN = 1


@dataclass(frozen=True, eq=False)
class Orbit:
    """T camera directions around the object, the input view last.

    azimuths_deg (T,): the azimuths that the network is conditioned on, relative to the last view;
        ascending in [0, 360), last = 0. A common offset is accepted and removed.
    elevations_deg (T,): absolute, within (-90, 90).
    sign: 1 or -1: where these azimuths are in the world, `camera_azimuths_deg` = sign *
        azimuths_deg. The network is always conditioned on the ascending azimuths it was trained on;
        the sign moves the cameras, so it applies to sv3d_u as well, which has no azimuth input.
    Both arrays are float64 and read-only. Raises CameraError.
    """
    azimuths_deg: np.ndarray
    elevations_deg: np.ndarray
    sign: int = AZIMUTH_SIGN

    def __post_init__(self):
        names = [argument(f"{name}_deg", f"--{name}") for name in ("azimuths", "elevations")]
        azimuths = angle_list(self.azimuths_deg, names[0])
        elevations = angle_list(self.elevations_deg, names[1])
        if len(azimuths) != len(elevations):
            raise CameraError(f"{names[0]} has {len(azimuths)} values and {names[1]}"
                              f" {len(elevations)}; give one of each per view")
        if np.abs(elevations).max() >= 90:
            k = int(np.abs(elevations).argmax())
            raise CameraError(f"{names[1]}: view {k} has {elevations[k]:g}; every elevation must"
                              " be above -90 and below 90 degrees (the azimuth is undefined at the"
                              " poles)")
        if self.sign not in (1, -1):
            raise CameraError(f"{argument('sign', '--azimuth-sign')} is {self.sign!r}; expected 1"
                              " or -1")
        relative = wrap_degrees(azimuths - azimuths[-1])
        steps = np.diff(relative[:-1])
        if (steps < 0).any():
            k = int(np.flatnonzero(steps < 0)[0]) + 1
            raise CameraError(f"{names[0]}: view {k} ({azimuths[k]:g}) comes before view {k - 1}"
                              f" ({azimuths[k - 1]:g}) going round from the last view; sort the"
                              " azimuths in ascending order, input view last")
        relative.setflags(write=False)
        elevations.setflags(write=False)
        object.__setattr__(self, "azimuths_deg", relative)
        object.__setattr__(self, "elevations_deg", elevations)

    @classmethod
    def static(cls, elevation=10.0, num_frames=21):
        """Return one turn in equal steps at a constant elevation.

        View k is at azimuth 360 (k + 1) / T mod 360.
        """
        return cls(_turn(num_frames), np.full(num_frames, float(elevation)))

    @classmethod
    def sine(cls, amplitude=30.0, elevation=10.0, num_frames=21):
        """Return one turn whose elevation is elevation + amplitude sin(azimuth).

        It is the SV3D paper's orbit for 3D ("sine-30").
        """
        azimuths = _turn(num_frames)
        return cls(azimuths, elevation + amplitude * np.sin(np.deg2rad(azimuths)))

    @classmethod
    def dynamic(cls, seed=0, elevation=10.0, num_frames=21):
        """Return a random orbit as in the SV3D paper, appendix B.

        It closes on the input view (elevation, azimuth 0).

        On 4 T points (84 for 21 views): the elevation is a sum of five sinusoids, one for each
        integer period 1..5, with amplitudes in [0.5, 10] degrees and random phases, smoothed by a
        circular box filter and clamped to 89 degrees; the azimuth steps are regular within 50 %.
        Every fourth point is a view. The paper gives no number of sinusoids and no size of the
        noise: those two are ours.
        """
        # this stream is frozen: a seed means the same orbit with every numpy
        rng = np.random.RandomState(seed)
        count = 4 * num_frames
        t = 2 * np.pi * np.arange(1, count + 1) / count
        amplitudes, phases = rng.uniform(0.5, 10, 5), rng.uniform(0, 2 * np.pi, 5)
        offset = np.sin(np.outer(t, np.arange(1, 6)) + phases) @ amplitudes
        offset = np.mean([np.roll(offset, k) for k in range(-2, 3)], axis=0)
        elevations = np.clip(elevation + offset - offset[-1], -89, 89)
        elevations[-1] = elevation
        azimuths = np.cumsum(rng.uniform(0.5, 1.5, count))
        azimuths *= 360 / azimuths[-1]
        return cls(azimuths[3::4], elevations[3::4])

    @classmethod
    def rings(cls):
        """Return 36 fixed cameras on three rings, at elevations 0, 20 and 40.

        24 are to train on, eight a ring; the others, `EVALUATION` of them, stand on each ring
        midway between two of these.
        """
        k = np.arange(12)
        azimuths = [30 * k + 7.5, 30 * k + 15, 30 * k + 30]
        rings = [2 * k + 2, 2 * k + 1, 2 * k + 2]
        # the last, the input view, is at elevation 20
        return cls(np.stack(azimuths, 1).ravel(), 20 * ((np.stack(rings, 1).ravel() + 1) % 3))

    @classmethod
    def from_lists(cls, azimuths_deg, elevations_deg):
        """Return an orbit of equally long lists of degrees, input view last."""
        return cls(azimuths_deg, elevations_deg)

    def with_sign(self, sign):
        """Return the same network input with world azimuths counted by `sign`, 1 or -1."""
        return replace(self, sign=sign)

    def __len__(self):
        return len(self.azimuths_deg)

    @property
    def polars_rad(self):
        """Return the input of SV3D_p, rad(90 - elevation): (T,) float64."""
        return np.deg2rad(90 - self.elevations_deg)

    @property
    def azimuths_rad(self):
        """Return the input of SV3D_p in [0, 2 pi), the last one 0: (T,) float64."""
        return np.deg2rad(self.azimuths_deg)

    @property
    def camera_azimuths_deg(self):
        """Return the cameras' world azimuths, sign * azimuths_deg: (T,) float64 in [0, 360)."""
        return wrap_degrees(self.sign * self.azimuths_deg)

    def poses(self, distance=DISTANCE):
        """Return OpenGL camera-to-world matrices at `distance` from the origin: (T, 4, 4)."""
        return camera_to_world(self.camera_azimuths_deg, self.elevations_deg, distance)


def position(azimuth_deg, elevation_deg, distance=DISTANCE):
    """Return camera positions (..., 3) for azimuth and elevation in degrees, which broadcast."""
    az, el = np.broadcast_arrays(np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg))
    unit = np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)], axis=-1)
    return np.asarray(distance, float)[..., None] * unit


def camera_to_world(azimuth_deg, elevation_deg, distance=DISTANCE):
    """Return OpenGL camera-to-world (..., 4, 4) of cameras that look at the origin, image up = +z.

    Angles are in degrees and broadcast.
    """
    az, el = np.broadcast_arrays(np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg))
    right = np.stack([-np.sin(az), np.cos(az), np.zeros_like(az)], axis=-1)
    # the camera looks along its own -z, towards the origin
    backward = position(azimuth_deg, elevation_deg, 1.0)
    pose = np.zeros(az.shape + (4, 4))
    pose[..., :3, 0] = right
    pose[..., :3, 1] = np.cross(backward, right)
    pose[..., :3, 2] = backward
    pose[..., :3, 3] = np.asarray(distance, float)[..., None] * backward
    pose[..., 3, 3] = 1
    return pose


def rays(c2w, width, height, fl, cx=None, cy=None):
    """Return the rays through all pixel centers for c2w (..., 4, 4): origins and unit directions.

    Both are (..., H, W, 3). fl, cx, cy are in pixels; the principal point is the image center
    unless given.
    """
    cx, cy = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    x, y = np.meshgrid((np.arange(width) + 0.5 - cx) / fl, (cy - np.arange(height) - 0.5) / fl)
    local = np.stack([x, y, -np.ones_like(x)], axis=-1)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    directions = np.einsum("...ij,hwj->...hwi", c2w[..., :3, :3], local)
    origins = np.broadcast_to(c2w[..., None, None, :3, 3], directions.shape)
    return origins, directions


def project(points, c2w, fl, cx, cy):
    """Return where ONE camera c2w (4, 4) sees world points (..., 3), and their depth.

    fl: focal length in pixels, or the two of x and y. Pixels are (..., 2) as (x, y); depth (...) is
    along the camera's axis, positive in front of it; elsewhere the pixels have no meaning.
    """
    fl_x, fl_y = np.broadcast_to(fl, 2)
    local = (np.asarray(points, float) - c2w[:3, 3]) @ c2w[:3, :3]
    depth = -local[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = np.stack([cx + fl_x * local[..., 0] / depth,
                           cy - fl_y * local[..., 1] / depth], axis=-1)
    return pixels, depth


def _turn(num_frames):
    return 360.0 * np.arange(1, num_frames + 1) / max(num_frames, 1) % 360
