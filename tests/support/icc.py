"""Small ICC profiles, and PNG files of every kind of pixel."""
import struct
import zlib

import numpy as np

# chromaticities of red, green, blue and white, and the gamma
DISPLAY_P3 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329), 2.2
ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.329), 563 / 256
PROPHOTO = (0.734699, 0.265301, 0.159597, 0.840403, 0.036598, 0.000105, 0.345704, 0.35854), 1.8
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.329), None
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1.0, 0.8249])


def profile(space):
    """Return the ICC profile of a color space (chromaticities, gamma); gamma None: sRGB's curve."""
    chromaticities, gamma = space
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in np.reshape(chromaticities, (4, 2))]).T
    primaries = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    adapted = np.linalg.solve(BRADFORD, np.diag(BRADFORD @ D50 / (BRADFORD @ xyz[:, 3])) @ BRADFORD @ primaries)
    curve = b"para" + bytes(4) + (_fixed("HH", 0, 0) + _numbers([gamma]) if gamma else _fixed("HH", 3, 0) + _numbers(
        [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]))
    tags = {name + b"XYZ": b"XYZ " + bytes(4) + _numbers(column) for name, column in zip((b"r", b"g", b"b"), adapted.T)}
    return _file(b"RGB ", tags | {name + b"TRC": curve for name in (b"r", b"g", b"b")})


def gray_profile(gamma):
    """Return the ICC profile of a gray scale."""
    return _file(b"GRAY", {b"kTRC": b"para" + bytes(4) + _fixed("HH", 0, 0) + _numbers([gamma])})


def cmyk_profile():
    """Return the ICC profile of four inks on two levels each; magenta and yellow are Lab (60, 60, 80)."""
    ink = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)
    c, m, y, k = ink.T
    lab = (1 - k) * np.stack([100 - 30 * c - 30 * m - 10 * y, 60 * m - 30 * c, 80 * y - 40 * c])
    grid = np.clip([lab[0] * 2.55, lab[1] + 128, lab[2] + 128], 0, 255).astype(np.uint8).T
    same = bytes(range(256))
    table = b"mft1" + bytes(4) + _fixed("BBBB", 4, 3, 2, 0) + _numbers([1, 0, 0, 0, 1, 0, 0, 0, 1]) + same * 4
    made = _file(b"CMYK", {b"A2B0": table + grid.tobytes() + same * 3})
    return made[:12] + b"prtr" + made[16:20] + b"Lab " + made[24:]


def _numbers(values):
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _fixed(kinds, *values):
    return struct.pack(">" + kinds, *values)


def _file(space, tags):
    tags = {b"wtpt": b"XYZ " + bytes(4) + _numbers(D50)} | tags
    table, body, at = _fixed("I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + _fixed("II", at + len(body), len(data))
        body += data
    head = _fixed("I", at + len(body)) + bytes(4) + _fixed("I", 0x04000000) + b"mntr" + space + b"XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + _numbers(D50)
    return head.ljust(128, b"\0") + table + body


def png(kind, depth, values, transparent=None):
    """Return a PNG file. kind: its color type; values: (H, W) or (H, W, C) ints; transparent: the tRNS chunk."""
    values = np.asarray(values)
    rows = b""
    for row in values.reshape(len(values), -1):
        bits = "".join(format(int(value), f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + bytes(int(bits[k:k + 8], 2) for k in range(0, len(bits), 8))
    chunks = [(b"IHDR", _fixed("IIBBBBB", values.shape[1], len(values), depth, kind, 0, 0, 0))]
    chunks += [(b"tRNS", transparent)] if transparent else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _fixed("I", len(data)) + name + data + _fixed("I", zlib.crc32(name + data)) for name, data in chunks)
