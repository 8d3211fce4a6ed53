"""From what a browser sends to the flags of a command: every value is checked, none is a path."""
import math

from sgm.common.cli import MAX_SEED
from sgm.common.errors import InputError
from sgm.config.model import MAX_NUMBER

ORBITS = ("default", "static", "sine", "dynamic")
MESHES = ("default", "fast", "fine", "sv3d")
LIGHTS = ("separate", "bake", "none")
ELEVATIONS = ("cameras", "auto", "given")
MOST_STEPS = 200        # of sampling: one user must not hold the device for days
LIGHT_FLAGS = {"separate": [], "bake": ["--bake-light"], "none": ["--no-light"]}


def views_argv(form, sampling):
    """Return the flags of the views. form: elevation, orbit, amplitude, steps, seed, guidance.

    sampling: the model's `SamplingSpec`. Raises InputError naming the field.
    """
    elevation = number(form, "elevation", -89, 89)
    argv = [f"--elevation={elevation:g}", f"--seeds={whole(form, 'seed', 0, MAX_SEED)}"]
    orbit = one_of(form, "orbit", ORBITS)
    if orbit == "sine":
        argv.append(f"--orbit=sine-{number(form, 'amplitude', 0, 89):g}")
    elif orbit != "default":
        argv.append(f"--orbit={orbit}")
    argv.append(f"--steps={whole(form, 'steps', 1, MOST_STEPS)}")
    guidance = number(form, "guidance", 0, MAX_NUMBER)
    return [*argv, "--guidance", str(sampling.min_scale), str(guidance)]


def mesh_argv(form, may_distill=True):
    """Return (flags, elevation) of a mesh. form: config, light, distill, resume, elevation...

    elevation: what `Reconstruction` takes. Raises InputError naming the field.
    """
    argv = [f"--mesh-config={one_of(form, 'config', MESHES)}",
            *LIGHT_FLAGS[one_of(form, "light", LIGHTS)]]
    if form.get("distill") is True:
        if not may_distill:
            raise InputError("distill: found yes, expected no: these views are of another model")
        argv.append("--distill")
    if form.get("resume") is True:
        argv.append("--resume")
    kind = one_of(form, "elevation_from", ELEVATIONS)
    elevation = {"cameras": None, "auto": "auto"}.get(kind)
    if kind == "given":
        elevation = number(form, "elevation", -89, 89)
    return argv, elevation


def one_of(form, name, expected):
    """Return a field that must be one of some texts."""
    value = form.get(name)
    if not isinstance(value, str) or value not in expected:
        raise InputError(f"{name}: found {str(value)[:80]!r}, expected one of"
                         f" {', '.join(expected)}")
    return value


def number(form, name, low, high):
    """Return a field that must be a number from low to high, as a float."""
    value = form.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{name}: found {str(value)[:80]!r}, expected a number from {low} to"
                         f" {high}")
    return float(value)


def whole(form, name, low, high):
    """Return a field that must be a whole number from low to high."""
    value = number(form, name, low, high)
    if value != int(value):
        raise InputError(f"{name}: found {value:g}, expected a whole number")
    return int(value)
