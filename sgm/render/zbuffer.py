"""A z-buffer triangle renderer with exact pinhole cameras, for training and evaluation orbits.

Rasterization is by homogeneous edge functions (Olano and Greer, "Triangle scan conversion using 2D
homogeneous coordinates", 1997). For a pixel ray d = (x, y, -1) and camera-space corners v0, v1, v2,
e_i = (v_j x v_k) . d is proportional to the barycentric weight of corner i in SPACE: interpolation
is perspective-correct without a division per attribute, and a triangle that crosses the camera
plane needs no clipping.

Colors are given sRGB-coded, shaded and averaged over the supersamples in linear light, and written
sRGB-coded.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from sgm.geometry.mesh import Mesh, linear_from_srgb

NEAR = 1e-3          # nearest visible z-depth, world units
# textures are halved (box filter) while they have more texels per side than this times samples
TEXELS_PER_SAMPLE = 3
STRIP = 512          # rows, an even number


@dataclass(frozen=True)
class Lighting:
    """Lambert lights fixed in the world, and highlights of one that moves with the camera.

    The sum of the former is the factor on the (linear) surface color; a white highlight is added to
    their product (Blinn, "Models of light reflection for computer synthesized pictures", 1977); all
    is clipped at 1. Directions point from the object to the light and are normalized here;
    strengths are factors.
    """
    ambient: float = 0.42
    key: float = 0.46
    key_direction: tuple[float, float, float] = (0.55, -0.45, 0.70)
    fill: float = 0.18
    fill_direction: tuple[float, float, float] = (-0.65, 0.55, 0.25)
    sky: float = 0.10      # times (1 + n_z) / 2
    gloss: float = 0.0     # linear light at the middle of a highlight
    sharpness: float = 20.0         # power of the cosine that it falls off with
    # in the camera's axes: x right, y up, z towards the camera
    gloss_direction: tuple[float, float, float] = (0.4, 0.5, 0.8)

    def packed(self) -> np.ndarray:
        """Return (10,) float64: ambient, sky, key, its unit direction, fill, its unit direction."""
        key, fill = (np.asarray(d, np.float64) / np.linalg.norm(d)
                     for d in (self.key_direction, self.fill_direction))
        return np.concatenate([[self.ambient, self.sky, self.key], key, [self.fill], fill])

    def highlight(self, camera_to_world: np.ndarray) -> np.ndarray:
        """Return (5,) float64: gloss, sharpness, and their light's unit direction in the world."""
        direction = np.asarray(camera_to_world, np.float64)[:3, :3] @ self.gloss_direction
        return np.array([self.gloss, self.sharpness, *direction / np.linalg.norm(direction)])


STUDIO = Lighting()
# Mild shading: the procedural family is unchanged by half a turn, and the light must not hide that.
SOFT = Lighting(ambient=0.62, key=0.26, key_direction=(0.45, -0.40, 0.80), fill=0.08, sky=0.10)


@dataclass(frozen=True)
class Packed:
    """A mesh in the flat arrays that the kernels read, made by `pack` for many cameras."""
    vertices: np.ndarray      # (V, 3) float64, world
    faces: np.ndarray         # (F, 3) int32
    normals: np.ndarray       # (V, 3) float32, unit
    colors: np.ndarray        # (V, 3) float32, linear
    uv: np.ndarray            # (V, 2) float32, v up
    face_material: np.ndarray  # (F,) int32
    factor: np.ndarray        # (M, 4) float32, linear RGB and alpha
    # (M, 3) int64: first texel in `texels`, width, height; width 0 = no texture
    texture: np.ndarray
    cutoff: np.ndarray        # (M,) float32: samples of less alpha are holes; 0 = opaque
    texels: np.ndarray        # (N, 4) float32, linear RGB and alpha


def pack(mesh: Mesh, samples: int) -> Packed:
    """Flatten a mesh for rendering at `samples` image samples per side (size x supersample)."""
    count = len(mesh.vertices)
    colors = np.ones((count, 3), np.float32)
    if mesh.colors is not None:
        colors = linear_from_srgb(mesh.colors)
    uv = np.zeros((count, 2), np.float32) if mesh.uv is None else mesh.uv
    table = np.zeros((len(mesh.materials), 3), np.int64)
    parts, first, packed = [np.zeros((1, 4), np.float32)], 1, {}
    for row, material in zip(table, mesh.materials):
        if material.texture is None or mesh.uv is None:
            continue
        if id(material.texture) not in packed:      # several materials may share one
            texels = _texels(material.texture, TEXELS_PER_SAMPLE * samples)
            packed[id(material.texture)] = first, texels.shape[1], texels.shape[0]
            parts.append(texels.reshape(-1, 4))
            first += len(parts[-1])
        row[:] = packed[id(material.texture)]
    factor = np.array([[*linear_from_srgb(np.asarray(m.color[:3], np.float32)), m.color[3]]
                       for m in mesh.materials], np.float32)
    cutoff = np.array([m.alpha_cutoff for m in mesh.materials], np.float32)
    return Packed(np.ascontiguousarray(mesh.vertices, np.float64),
                  np.ascontiguousarray(mesh.faces, np.int32),
                  np.ascontiguousarray(mesh.normals, np.float32),
                  np.ascontiguousarray(colors, np.float32), np.ascontiguousarray(uv, np.float32),
                  np.ascontiguousarray(mesh.face_material, np.int32), factor, table, cutoff,
                  np.concatenate(parts))


def _texels(texture: np.ndarray, most: int) -> np.ndarray:
    """Return a texture as linear floats, halved while it has more than `most` texels per side."""
    def linear(part):
        return np.concatenate([linear_from_srgb(part[..., :3] / np.float32(255)),
                               part[..., 3:] / np.float32(255)], -1).astype(np.float32)

    def halved(part):
        part = part[:part.shape[0] // 2 * 2, :part.shape[1] // 2 * 2]
        return (part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2]) / 4

    def is_above(part):
        return max(part.shape[:2]) > most and min(part.shape[:2]) > 1

    if not is_above(texture):
        return linear(texture)
    # in strips: as floats at once a large one takes gigabytes
    texels = np.concatenate([halved(linear(texture[top:top + STRIP]))
                             for top in range(0, len(texture) // 2 * 2, STRIP)])
    while is_above(texels):
        texels = halved(texels)
    return texels


@njit(cache=True, inline="always")
def _texel(texels, first, width, height, u, v):
    """Return a bilinear, repeating texture sample: linear RGB and alpha.

    Image rows run down, v runs up.
    """
    x, y = u * width - 0.5, (1.0 - v) * height - 0.5
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - x0, y - y0
    xa, xb, ya, yb = x0 % width, (x0 + 1) % width, y0 % height, (y0 + 1) % height
    a, b = texels[first + ya * width + xa], texels[first + ya * width + xb]
    c, d = texels[first + yb * width + xa], texels[first + yb * width + xb]
    w00, w01, w10, w11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    return (w00 * a[0] + w01 * b[0] + w10 * c[0] + w11 * d[0],
            w00 * a[1] + w01 * b[1] + w10 * c[1] + w11 * d[1],
            w00 * a[2] + w01 * b[2] + w10 * c[2] + w11 * d[2],
            w00 * a[3] + w01 * b[3] + w10 * c[3] + w11 * d[3])


@njit(cache=True)
def rasterize(view, faces, uv, face_material, factor, texture, cutoff, texels, samples, focal,
              near):
    """Return the nearest triangle per sample: z-depth, face, weights of corners 1 and 2.

    Where nothing is seen z-depth is inf and face -1.
    """
    depth = np.full((samples, samples), np.inf)
    face = np.full((samples, samples), -1, np.int32)
    weights = np.zeros((samples, samples, 2), np.float32)
    center = samples / 2.0
    for f in range(faces.shape[0]):
        i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = view[i0, 0], view[i0, 1], view[i0, 2]
        bx, by, bz = view[i1, 0], view[i1, 1], view[i1, 2]
        cx, cy, cz = view[i2, 0], view[i2, 1], view[i2, 2]
        if az > -near and bz > -near and cz > -near:
            continue
        # The part of the image to search: all of it for a triangle that crosses the near plane.
        x_low, x_high, y_low, y_high = 0, samples - 1, 0, samples - 1
        if az < -near and bz < -near and cz < -near:
            pa, pb, pc = -ax / az, -bx / bz, -cx / cz
            qa, qb, qc = ay / az, by / bz, cy / cz
            x_low = max(0, int(np.floor(focal * min(pa, pb, pc) + center - 0.5)))
            x_high = min(samples - 1, int(np.ceil(focal * max(pa, pb, pc) + center - 0.5)))
            y_low = max(0, int(np.floor(focal * min(qa, qb, qc) + center - 0.5)))
            y_high = min(samples - 1, int(np.ceil(focal * max(qa, qb, qc) + center - 0.5)))
        # Edge functions. Shared edges give exactly opposite products in both triangles, and the
        # test is inclusive: no cracks.
        ux, uy, uz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
        vx, vy, vz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
        wx, wy, wz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        volume = ax * ux + ay * uy + az * uz
        if volume == 0.0:                               # seen edge-on, or degenerate
            continue
        if volume < 0.0:                                # back face: double-sided, so turn it round
            volume = -volume
            ux, uy, uz, vx, vy, vz, wx, wy, wz = -ux, -uy, -uz, -vx, -vy, -vz, -wx, -wy, -wz
        # Samples inside all edges, nearer than what was there, and not in a hole of the texture.
        material = face_material[f]
        for row in range(y_low, y_high + 1):
            y = (center - row - 0.5) / focal
            for col in range(x_low, x_high + 1):
                x = (col + 0.5 - center) / focal
                e0 = ux * x + uy * y - uz
                e1 = vx * x + vy * y - vz
                e2 = wx * x + wy * y - wz
                if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                    continue
                total = e0 + e1 + e2
                if total <= 0.0:
                    continue
                z = volume / total
                if z < near or z >= depth[row, col]:
                    continue
                s, t = e1 / total, e2 / total
                if cutoff[material] > 0.0 and texture[material, 1] > 0:
                    r = 1.0 - s - t
                    u = r * uv[i0, 0] + s * uv[i1, 0] + t * uv[i2, 0]
                    v = r * uv[i0, 1] + s * uv[i1, 1] + t * uv[i2, 1]
                    alpha = _texel(texels, texture[material, 0], texture[material, 1],
                                   texture[material, 2], u, v)[3]
                    if alpha * factor[material, 3] < cutoff[material]:
                        continue
                depth[row, col] = z
                face[row, col] = f
                weights[row, col, 0] = s
                weights[row, col, 1] = t
    return depth, face, weights


@njit(cache=True, inline="always")
def _facing_normal(normals, vertices, eye, i0, i1, i2, r, s, t):
    """Return the interpolated unit normal, turned to the side that the camera sees."""
    x = r * normals[i0, 0] + s * normals[i1, 0] + t * normals[i2, 0]
    y = r * normals[i0, 1] + s * normals[i1, 1] + t * normals[i2, 1]
    z = r * normals[i0, 2] + s * normals[i1, 2] + t * normals[i2, 2]
    # Which side is seen is the flat triangle's business: an interpolated normal may lean past the
    # horizon.
    ox, oy, oz = vertices[i0, 0], vertices[i0, 1], vertices[i0, 2]
    px, py, pz = vertices[i1, 0] - ox, vertices[i1, 1] - oy, vertices[i1, 2] - oz
    qx, qy, qz = vertices[i2, 0] - ox, vertices[i2, 1] - oy, vertices[i2, 2] - oz
    gx, gy, gz = py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx
    seen = gx * (eye[0] - ox) + gy * (eye[1] - oy) + gz * (eye[2] - oz)
    along = gx * x + gy * y + gz * z
    scale = 1.0 / max(np.sqrt(x * x + y * y + z * z), 1e-12)
    if seen * along < 0.0:
        scale = -scale
    return x * scale, y * scale, z * scale


@njit(cache=True, inline="always")
def _glow(highlight, eye, px, py, pz, nx, ny, nz):
    """Return the linear light of the highlight at a point with a unit normal that faces the eye."""
    vx, vy, vz = eye[0] - px, eye[1] - py, eye[2] - pz
    scale = 1.0 / max(np.sqrt(vx * vx + vy * vy + vz * vz), 1e-12)
    hx, hy, hz = vx * scale + highlight[2], vy * scale + highlight[3], vz * scale + highlight[4]
    cosine = (nx * hx + ny * hy + nz * hz) / max(np.sqrt(hx * hx + hy * hy + hz * hz), 1e-12)
    return highlight[0] * max(cosine, 0.0) ** highlight[1]


@njit(cache=True)
def _shade(face, weights, vertices, faces, normals, colors, uv, face_material, factor, texture,
           texels, light, highlight, eye, supersample, out):
    """Fill `out` (H, W, 4) uint8 from the sample buffers.

    It has straight alpha, and RGB 255 where nothing is seen.
    """
    size = out.shape[0]
    for row in range(size):
        for col in range(size):
            # Sum of the shaded samples, in linear light.
            red, green, blue, hits = 0.0, 0.0, 0.0, 0
            for dy in range(supersample):
                for dx in range(supersample):
                    i, j = row * supersample + dy, col * supersample + dx
                    f = face[i, j]
                    if f < 0:
                        continue
                    hits += 1
                    i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
                    s, t = weights[i, j, 0], weights[i, j, 1]
                    r = 1.0 - s - t
                    nx, ny, nz = _facing_normal(normals, vertices, eye, i0, i1, i2, r, s, t)
                    shade = light[0] + light[1] * (0.5 + 0.5 * nz)
                    shade += light[2] * max(0.0, nx * light[3] + ny * light[4] + nz * light[5])
                    shade += light[6] * max(0.0, nx * light[7] + ny * light[8] + nz * light[9])
                    m = face_material[f]
                    cr, cg, cb = factor[m, 0] * shade, factor[m, 1] * shade, factor[m, 2] * shade
                    cr *= r * colors[i0, 0] + s * colors[i1, 0] + t * colors[i2, 0]
                    cg *= r * colors[i0, 1] + s * colors[i1, 1] + t * colors[i2, 1]
                    cb *= r * colors[i0, 2] + s * colors[i1, 2] + t * colors[i2, 2]
                    if texture[m, 1] > 0:
                        u = r * uv[i0, 0] + s * uv[i1, 0] + t * uv[i2, 0]
                        v = r * uv[i0, 1] + s * uv[i1, 1] + t * uv[i2, 1]
                        tr, tg, tb, _ = _texel(texels, texture[m, 0], texture[m, 1], texture[m, 2],
                                               u, v)
                        cr, cg, cb = cr * tr, cg * tg, cb * tb
                    if highlight[0] > 0.0:
                        glow = _glow(
                            highlight, eye,
                            r * vertices[i0, 0] + s * vertices[i1, 0] + t * vertices[i2, 0],
                            r * vertices[i0, 1] + s * vertices[i1, 1] + t * vertices[i2, 1],
                            r * vertices[i0, 2] + s * vertices[i1, 2] + t * vertices[i2, 2],
                            nx, ny, nz)
                        cr, cg, cb = cr + glow, cg + glow, cb + glow
                    red += min(cr, 1.0)
                    green += min(cg, 1.0)
                    blue += min(cb, 1.0)
            # Their mean, sRGB-coded, and the share of samples that hit as alpha.
            if hits == 0:
                out[row, col, 0] = out[row, col, 1] = out[row, col, 2] = 255
                out[row, col, 3] = 0
                continue
            for channel, value in enumerate((red / hits, green / hits, blue / hits)):
                coded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
                out[row, col, channel] = int(min(max(coded, 0.0), 1.0) * 255.0 + 0.5)
            out[row, col, 3] = int(255.0 * hits / (supersample * supersample) + 0.5)


def _buffers(packed: Packed, camera_to_world: np.ndarray, samples: int, fov_deg: float):
    """Return z-depth, face and weights of every sample, and the eye point."""
    rotation, eye = np.asarray(camera_to_world,
                               np.float64)[:3, :3], np.asarray(camera_to_world, np.float64)[:3, 3]
    view = np.ascontiguousarray((packed.vertices - eye) @ rotation)
    focal = 0.5 * samples / np.tan(np.radians(fov_deg) / 2)
    buffers = rasterize(view, packed.faces, packed.uv, packed.face_material, packed.factor,
                        packed.texture, packed.cutoff, packed.texels, samples, focal, NEAR)
    return *buffers, np.ascontiguousarray(eye)


def render_views(mesh: Mesh, cameras: np.ndarray, size: int, fov_deg: float, *,
                 supersample: int = 2, lighting: Lighting = STUDIO) -> np.ndarray:
    """Return renders of a mesh from several cameras, (T, size, size, 4) uint8.

    They are sRGB with straight alpha. cameras: (T, 4, 4) OpenGL camera-to-world (x right, y up,
    looks along -z), world units of the mesh; the principal point is the image center and pixel
    centers lie at +0.5. Where alpha is 0, RGB is 255.
    """
    packed = pack(mesh, size * supersample)
    light = lighting.packed()
    out = np.empty((len(cameras), size, size, 4), np.uint8)
    for image, camera in zip(out, cameras):
        _, face, weights, eye = _buffers(packed, camera, size * supersample, fov_deg)
        _shade(face, weights, packed.vertices, packed.faces, packed.normals, packed.colors,
               packed.uv, packed.face_material, packed.factor, packed.texture, packed.texels, light,
               lighting.highlight(camera), eye, supersample, image)
    return out


def render_depths(mesh: Mesh, cameras: np.ndarray, size: int, fov_deg: float) -> np.ndarray:
    """Return z-depths (T, size, size) float32 from cameras (T, 4, 4); inf where nothing is.

    One ray goes through the center of each pixel; depth is along the optical axis in world units.
    """
    packed = pack(mesh, size)
    return np.stack([_buffers(packed, camera, size, fov_deg)[0].astype(np.float32)
                     for camera in cameras])


def render_geometry(mesh: Mesh, camera_to_world: np.ndarray, size: int,
                    fov_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Return z-depth (size, size) float32 and world normals (size, size, 3) float32.

    One ray goes through the center of each pixel. Depth is along the optical axis in world units;
    normals are unit and face the camera; both are 0 where nothing is.
    """
    packed = pack(mesh, size)
    depth, face, weights, eye = _buffers(packed, camera_to_world, size, fov_deg)
    hit = face >= 0
    corners = packed.faces[face[hit]]
    w = weights[hit].astype(np.float64)
    w = np.concatenate([1 - w.sum(1, keepdims=True), w], 1)
    normal = (packed.normals[corners] * w[..., None]).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    p = packed.vertices[corners]
    flat = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    turned = np.einsum("ij,ij->i", flat, eye - p[:, 0]) * np.einsum("ij,ij->i", flat, normal) < 0
    normals = np.zeros((size, size, 3), np.float32)
    normals[hit] = np.where(turned[:, None], -normal, normal)
    return np.where(hit, depth, 0).astype(np.float32), normals
