"""Building blocks of procedural objects.

Lofts and boxes have painted cells and are unchanged by half a turn about z. Hulls and tubes need
not be; their colors change along them.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sgm.geometry.mesh import Mesh

SIDE, END = 0, 1


@dataclass(frozen=True)
class Paint:
    """Colors (side, end, top, accent) and the pattern they form.

    pattern: plain, bands, two_tone, stripes, checker, halves or panel. columns: cells along a long
    side. Cells are counted counterclockwise, so half a turn keeps any pattern.
    """
    colors: dict[str, np.ndarray]
    pattern: str = "plain"
    columns: int = 4

    @property
    def cells(self) -> int:
        """Return the number of cells along one long side."""
        return {"stripes": self.columns, "checker": self.columns, "halves": 2,
                "panel": 3}.get(self.pattern, 1)

    @property
    def rows(self) -> int:
        """Return the number of cells in height."""
        return {"bands": 3, "two_tone": 2, "checker": 2, "panel": 3}.get(self.pattern, 1)

    def color(self, face: int, cell: int, row: int) -> np.ndarray:
        """Return the color of one cell: face SIDE or END, cell counted along it, row from below."""
        accent = {
            "bands": row == 1, "two_tone": row == 0, "stripes": face == SIDE and cell % 2 == 1,
            "checker": (cell + row) % 2 == 1, "halves": face == SIDE and cell == 1,
            "panel": face == SIDE and cell == 1 and row == 1
        }.get(self.pattern, False)
        return self.colors["accent" if accent else "side" if face == SIDE else "end"]


def plain(color: np.ndarray) -> Paint:
    """Return the paint of one color."""
    return Paint(dict.fromkeys(("side", "end", "top", "accent"), color))


@dataclass(frozen=True)
class Section:
    """A closed outline in [-1, 1]^2, counterclockwise.

    points: (N, 2); per edge its face (SIDE, END) and cell.
    """
    points: np.ndarray
    face: np.ndarray
    cell: np.ndarray


def section(kind: str, paint: Paint) -> Section:
    """Return the outline 'box', 'ellipse' or 'squircle', cut at the paint's cells."""
    points, face, cell = [], [], []
    if kind == "box":
        corners = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)], float)
        for k in range(4):
            count = paint.cells if k % 2 else 1  # edge 0 is the +x end, edge 1 the +y side, ...
            for c in range(count):
                points.append(corners[k] + (corners[(k + 1) % 4] - corners[k]) * c / count)
                face.append(SIDE if k % 2 else END)
                cell.append(c)
        return Section(np.array(points), np.array(face), np.array(cell))
    end = np.radians(42)  # an end covers this much to either side of the x axis
    for k in range(4):
        count = paint.cells if k % 2 else 1
        first, last = ((-end, end), (end, np.pi - end))[k % 2]
        steps = count * int(np.ceil(10 / count)) if k % 2 else 8
        for c in range(steps):
            angle = np.pi * (k // 2) + first + (last - first) * c / steps
            point = np.array([np.cos(angle), np.sin(angle)])
            if kind == "squircle":
                point /= (np.abs(point) ** 4).sum() ** 0.25
            points.append(point)
            face.append(SIDE if k % 2 else END)
            cell.append(c * count // steps)
    return Section(np.array(points), np.array(face), np.array(cell))


def loft(outline: Section, rings: list[tuple[float, float, float]], paint: Paint) -> Mesh:
    """Return the outline drawn through rings from below, closed with caps in the top color.

    rings: (z, scale x, scale y).
    """
    z = np.array([r[0] for r in rings], float)
    # Rings are added at the row borders, so that a row ends where it should.
    cuts = z[0] + (z[-1] - z[0]) * np.arange(1, paint.rows) / paint.rows
    every = np.unique(np.concatenate([z, cuts]).round(9))
    sx, sy = (np.interp(every, z, [r[k] for r in rings]) for k in (1, 2))
    n = len(outline.points)
    grid = np.empty((len(every), n, 3))
    grid[..., :2] = outline.points * np.stack([sx, sy], -1)[:, None]
    grid[..., 2] = every[:, None]
    vertices, colors = [], []
    for j in range(len(every) - 1):
        row = min(int((0.5 * (every[j] + every[j + 1]) - z[0]) / (z[-1] - z[0]) * paint.rows),
                  paint.rows - 1)
        for i in range(n):
            k = (i + 1) % n
            a, b, c, d = grid[j, i], grid[j, k], grid[j + 1, k], grid[j + 1, i]
            vertices += [a, b, c, a, c, d]
            colors += [paint.color(outline.face[i], outline.cell[i], row)] * 6
    for j, turn in ((0, -1), (len(every) - 1, 1)):
        center = np.array([0, 0, every[j]])
        for i in range(n):
            a, b = (grid[j, i], grid[j, (i + 1) % n])[::turn]
            vertices += [center, a, b]
            colors += [paint.colors["top"]] * 3
    return _mesh(np.array(vertices), np.array(colors, np.float32))


def _mesh(corners, colors):
    """Return the mesh of triangles (3 corners each, (3 F, 3)), without those of no area."""
    faces = np.arange(len(corners)).reshape(-1, 3)
    p = corners[faces]
    keep = np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1) > 1e-9
    return Mesh(corners, faces[keep], colors=colors)


def box(x: float, y: float, height: float, paint: Paint, *, top=(1.0, 1.0),
        bottom=(1.0, 1.0)) -> Mesh:
    """Return a box of half sizes x, y standing on z = 0, tapered.

    top, bottom: factors on the half sizes there.
    """
    rings = [(0, x * bottom[0], y * bottom[1]), (height, x * top[0], y * top[1])]
    return loft(section("box", paint), rings, paint)


def hull(stations, colors, *, axis: int = 0, sides: int | None = None, caps=None) -> Mesh:
    """Return a closed body of cross sections along a coordinate axis (0 x, 1 y, 2 z).

    stations: rows (place on the axis, low and high end along the next axis, low and high end along
    the one after it; x follows z). They may go back, into a hollow. sides: corners of the ellipses
    that the sections are, or None: rectangles. colors: (3,), or one for each part between two
    stations. caps: colors of the two ends, if others.
    """
    stations = np.asarray(stations, float)
    circle = _outline(sides)
    rings = np.empty((len(stations), len(circle), 3))
    rings[..., axis] = stations[:, :1]
    for k in (1, 2):
        low, high = stations[:, 2 * k - 1:2 * k + 1].T[..., None]
        rings[..., (axis + k) % 3] = (low + high) / 2 + (high - low) / 2 * circle[:, k - 1]
    return _skin(rings, colors, caps)


def lathe(profile, colors, *, x: float = 0.0, y: float = 0.0, sides: int = 14, caps=None) -> Mesh:
    """Return a body turned about a vertical axis at x, y; profile: rows (z, radius)."""
    rows = [(z, x - r, x + r, y - r, y + r) for z, r in profile]
    return hull(rows, colors, axis=2, sides=sides, caps=caps)


def tube(path, radii, colors, *, across=(0, 1, 0), sides: int | None = 12, caps=None) -> Mesh:
    """Return a closed tube along a path (N, 3).

    radii: half its thickness, a number, one for each point of the path, or two: along `across`,
    which must not be the path's direction, and at right angles to that. sides, colors, caps: see
    `hull`.
    """
    path = np.asarray(path, float)
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    first = across - ahead * (ahead @ np.asarray(across, float))[:, None]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(ahead, first)
    radii = np.asarray(radii, float)
    radii = np.broadcast_to(radii[:, None] if radii.ndim == 1 else radii, (len(path), 2))
    scaled = _outline(sides) * radii[:, None]
    rings = (path[:, None] + scaled[..., :1] * first[:, None] + scaled[..., 1:] * second[:, None])
    return _skin(rings, colors, caps)


def _outline(sides):
    """Return the corners, counterclockwise, of a regular polygon of radius 1, or a square."""
    if sides is None:
        return np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)], float)
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def _skin(rings, colors, caps):
    """Return the closed surface of rings (N, M, 3), counterclockwise seen from beyond the last."""
    colors = np.broadcast_to(np.asarray(colors, np.float32), (len(rings) - 1, 3))
    after = np.roll(rings, -1, axis=1)
    a, b, c, d = rings[:-1], after[:-1], after[1:], rings[1:]
    walls = np.stack([a, b, c, a, c, d], 2)
    painted = np.broadcast_to(colors[:, None, None], walls.shape)
    ends = []
    for ring, following in ((after[0], rings[0]), (rings[-1], after[-1])):
        ends.append(np.stack([np.broadcast_to(ring.mean(0), ring.shape), ring, following], 1))
    caps = colors[[0, -1]] if caps is None else np.asarray(caps, np.float32)
    end_colors = np.broadcast_to(caps[:, None, None], np.shape(ends))
    return _mesh(np.concatenate([part.reshape(-1, 3) for part in (walls, *ends)]),
                 np.concatenate([part.reshape(-1, 3) for part in (painted, end_colors)]))


def rotated(mesh: Mesh, degrees: float, axis: int = 2) -> Mesh:
    """Return the mesh turned about a coordinate axis (0 x, 1 y, 2 z).

    The turn is counterclockwise seen from the axis' positive end.
    """
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(4)
    matrix[a, a] = matrix[b, b] = np.cos(np.radians(degrees))
    matrix[b, a] = np.sin(np.radians(degrees))
    matrix[a, b] = -matrix[b, a]
    return mesh.transformed(matrix)


def shifted(mesh: Mesh, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
    """Return the mesh moved by (x, y, z)."""
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return mesh.transformed(matrix)


def with_half_turn(mesh: Mesh) -> list[Mesh]:
    """Return the part and its copy half a turn about z away."""
    return [mesh, rotated(mesh, 180)]
