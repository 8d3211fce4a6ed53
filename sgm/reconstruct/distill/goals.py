"""The goals of a `Refiner` that a diffusion model of orbits sets: mask, cameras, schedule.

The model is a function `denoise(clip, orbit, sigma, rng)`: a clip (T, 3, H, W) in [-1, 1] of an
`Orbit` is made into what the model thinks it should be. `denoise.latent(clip, mask, ...)` returns
the clip less the gradient of the latent form; mask (T, H, W). Its attributes are name, num_frames,
size (H, W), is_posed (whether it knows an orbit's angles) and frees_graphs (whether it frees all
that was compiled).
"""
import logging
import time

import cv2
import numpy as np

from sgm.common.errors import argument
from sgm.geometry.topology import vertex_normals
from sgm.reconstruct.dmtet import rasterizer
from sgm.reconstruct.dmtet.refinement import Goal
from sgm.reconstruct.posed_views import PosedViews, ShapeError
from sgm.views.cameras import Orbit

FINE = 2            # samples per pixel and side of what the model is shown
IMAGINED = 3        # orbits from which the texture of what no view sees is taken,
IMAGINED_SIDE = 288         # in pictures of this many pixels per side
# A step takes so many pictures of a clip that they have about this many times the pixels it colors,
# since about a third show the object; at least FEWEST
PIXELS, FEWEST = 3, 4
log = logging.getLogger("sgm")


def soft_mask(vertices, normals, eyes, edges, floor):
    """Return how little the cameras see of vertices, (N,) float32 in [floor, 1].

    It is clip(1 - smoothstep(edges, c), floor, 1), c the largest cosine of the normal with the
    direction to a camera (SV3D, section 4.1, with the authors' edges and floor). What hides a
    vertex from a camera is not looked at. vertices, normals (N, 3), eyes (V, 3).
    """
    best = np.full(len(vertices), -1.0)
    for eye in eyes:
        to_eye = eye - vertices
        to_eye /= np.maximum(np.linalg.norm(to_eye, axis=1, keepdims=True), 1e-12)
        best = np.maximum(best, (to_eye * normals).sum(1))
    low, high = edges
    x = np.clip((best - low) / max(high - low, 1e-9), 0, 1)
    return np.clip(1 - x * x * (3 - 2 * x), floor, 1).astype(np.float32)


def render(surface, field, mask, c2w, intrinsics, size):
    """Return pictures of a surface from cameras c2w (T, 4, 4), without gradient.

    rgb (T, h, w, 3) on white, alpha (T, h, w) and the mask (N,) of the vertices as the pictures
    show it (T, h, w), 1 in the background; float32. size: (h, w).
    """
    h, w = size
    points, found = [], []
    for pose in c2w:
        ids, depth = rasterizer.face_ids(surface.vertices, surface.faces, pose, intrinsics * FINE,
                                         w * FINE, h * FINE)
        pixels = np.flatnonzero(ids.reshape(-1) >= 0)
        rays = rasterizer.pixel_rays(pixels, w * FINE, pose, intrinsics * FINE)
        place = (pose[:3, 3] + depth.reshape(-1, 1)[pixels] * rays).astype(np.float32)
        faces = surface.faces[ids.reshape(-1)[pixels]]
        found.append((pixels, _interpolated(mask, surface.vertices, faces, place)))
        points.append(place)
    colors = field.evaluate(np.concatenate(points))[1]
    out = np.empty((len(c2w), h, w, 5), np.float32)
    for k, (pixels, weights) in enumerate(found):
        fine = np.tile(np.float32([1, 1, 1, 0, 1]), (h * FINE * w * FINE, 1))
        fine[pixels, :3], colors = colors[:len(pixels)], colors[len(pixels):]
        fine[pixels, 3], fine[pixels, 4] = 1, weights
        out[k] = cv2.resize(fine.reshape(h * FINE, w * FINE, 5), (w, h),
                            interpolation=cv2.INTER_AREA)
    return out[..., :3], out[..., 3], out[..., 4]


def _interpolated(values, vertices, faces, points):
    """Return values (N,) of vertices at points (P, 3) of faces (P, 3)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    square = np.maximum((normal * normal).sum(1), 1e-30)
    of_b = (np.cross(points - a, c - a) * normal).sum(1) / square
    of_c = (np.cross(b - a, points - a) * normal).sum(1) / square
    return (1 - of_b - of_c) * values[faces[:, 0]] + of_b * values[faces[:, 1]] + (
        of_c * values[faces[:, 2]])


class Cameras:
    """The cameras of a model's orbits in the box of views whose last one is the model's input.

    views: PosedViews. size: (h, w) of the model's pictures. Raises ShapeError.
    """

    def __init__(self, views, size):
        if abs(views.w * size[0] - views.h * size[1]) > size[0]:
            raise ShapeError(f"{argument('distill')}: the views have {views.w} x {views.h} pixels,"
                             f" the model's {size[1]} x {size[0]}; give the views of that model")
        self.size = size
        self.intrinsics = views.intrinsics * (size[1] / views.w)
        self.origin = -views.center * views.scale           # of the world
        away = views.c2w[:, :3, 3] - self.origin
        self.distance = np.linalg.norm(away[-1])
        azimuths = np.degrees(np.arctan2(away[:, 1], away[:, 0]))
        self.azimuth = azimuths[-1]
        self.elevation = float(np.degrees(np.arcsin(away[-1, 2] / self.distance)))
        steps = (np.diff(azimuths) + 180) % 360 - 180
        self.sign = 1 if np.median(steps) >= 0 else -1

    def orbit(self, seed, num_frames, is_posed):
        """Return a random `Orbit`, or the static one of a model that knows no angles."""
        if is_posed:
            orbit = Orbit.dynamic(seed, self.elevation, num_frames)
        else:
            orbit = Orbit.static(self.elevation, num_frames)
        return orbit.with_sign(self.sign)

    def poses(self, orbit):
        """Return the camera-to-world matrices (T, 4, 4) of an orbit."""
        turn, angle = np.eye(4), np.radians(self.azimuth)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn[:3, 3] = self.origin
        return turn @ orbit.poses(self.distance)


class Distiller:
    """The goals of a `Refiner`, from a model: see this file's head for `denoise`.

    settings: a `DistillSpec`. file: the model's input, if the views have files. `begin` tells the
    views. `report` is what report.json says of it.
    """

    def __init__(self, denoise, settings, file=None):
        self.denoise, self.settings, self.file = denoise, settings, file
        self.report = {"model": denoise.name, "weight": settings.weight, "seconds_per_clip": []}

    def begin(self, views, dmtet, seed):
        """Set out for a refinement.

        views: PosedViews, the last one the model's input. dmtet: its `DMTetSpec`. Raises ShapeError
        if the views are of another shape than the model's, or without its input.
        """
        if self.file and views.files[-1] != self.file:
            raise ShapeError(f"{self.file}: found it left out of the views, expected it among them:"
                             " it is the model's input; use another hold_out, or correct its"
                             " cut-out")
        settings, total = self.settings, sum(dmtet.steps)
        self.seed, self.eyes = seed, views.c2w[:, :3, 3]
        self.cameras = Cameras(views, self.denoise.size)
        self.steps = round(settings.share * total)
        self.first, self.clips = total - self.steps, settings.count(dmtet.steps)
        h, w = self.denoise.size
        self.count = int(np.clip(PIXELS * dmtet.pixels // (h * w), FEWEST,
                                 self.denoise.num_frames))
        self.clip, self.views, self.importance = None, None, None

    def __call__(self, surface, field, done, forget):
        """Return the `Goal` of the step after `done` ones, or None before the last `share`."""
        step = done - self.first
        if step < 0:
            return None
        clip = step * self.clips // self.steps
        if clip != self.clip:
            self.clip = clip
            self._ask(surface, field, clip, forget)
        weight = self.settings.weight * (step + 1) / self.steps
        return Goal(self.views, self.importance, weight, self.count)

    def sigma(self, clip):
        """Return the noise level of a clip: log-uniform between bounds that fall clip by clip."""
        part = clip / max(self.clips - 1, 1)
        low, high = (np.log(first) * (1 - part) + np.log(last) * part for first, last in zip(
            self.settings.sigma_first, self.settings.sigma_last))
        return float(np.exp(np.random.RandomState([self.seed, 1, clip]).uniform(low, high)))

    def orbit(self, clip):
        """Return the `Orbit` of a clip."""
        seed = np.random.RandomState([self.seed, 2, clip]).randint(1 << 31)
        return self.cameras.orbit(seed, self.denoise.num_frames, self.denoise.is_posed)

    def _ask(self, surface, field, clip, forget):
        """Make the goal of a clip."""
        start = time.perf_counter()
        normals = vertex_normals(surface.vertices, surface.faces)
        mask = soft_mask(surface.vertices, normals, self.eyes, self.settings.edges,
                         self.settings.floor)
        orbit, sigma = self.orbit(clip), self.sigma(clip)
        poses = self.cameras.poses(orbit)
        rgb, alpha, shown = render(surface, field, mask, poses, self.cameras.intrinsics,
                                   self.cameras.size)
        if self.denoise.frees_graphs:
            forget()
        made = np.ascontiguousarray(rgb.transpose(0, 3, 1, 2)) * 2 - 1
        rng = np.random.RandomState([self.seed, 3, clip])
        if self.settings.form == "latent":
            pictures, self.importance = (self.denoise.latent(made, shown, orbit, sigma, rng),
                                         np.ones_like(shown))
        else:
            pictures = np.clip(self.denoise(made, orbit, sigma, rng), -1, 1)
            self.importance = shown * shown                 # the mask is within the square
        self.views = self.posed(pictures.transpose(0, 2, 3, 1) / 2 + 0.5, alpha, poses,
                                self.cameras.intrinsics)
        seconds = time.perf_counter() - start
        log.debug("distill: clip %d of %d, sigma %.3g, %.1f s", clip + 1, self.clips, sigma,
                  seconds)
        self.report["seconds_per_clip"].append(round(seconds, 2))

    @staticmethod
    def posed(on_white, alpha, poses, intrinsics):
        """Return pictures on white as PosedViews, which are premultiplied."""
        rgb = (on_white - (1 - alpha[..., None])).astype(np.float32)
        return PosedViews(np.ascontiguousarray(rgb), np.ascontiguousarray(alpha), poses,
                          *intrinsics)

    def imagined(self, surface, field):
        """Return PosedViews of a surface in a field's colors, from the last clips' orbits."""
        poses = np.concatenate([self.cameras.poses(self.orbit(clip))
                                for clip in range(max(self.clips - IMAGINED, 0), self.clips)])
        h, w = self.cameras.size
        factor = IMAGINED_SIDE / max(h, w)
        size = round(h * factor), round(w * factor)
        intrinsics = self.cameras.intrinsics * (size[1] / w)
        nothing = np.zeros(len(surface.vertices), np.float32)
        rgb, alpha, _ = render(surface, field, nothing, poses, intrinsics, size)
        return self.posed(rgb, alpha, poses, intrinsics)
