"""What fuzzing found, for good: each of these once came out as another error than ours, or as no error."""
import json

import numpy as np
import pytest
from support.badfiles import field, safetensors

from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.common.errors import InputError
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError
from sgm.views.transforms import read_orbit, read_transforms


def entry(shape, end=4):
    """A safetensors file of one tensor, its shape as JSON text."""
    return safetensors(b'{"a": {"dtype": "F32", "shape": %s, "data_offsets": [0, %d]}}' % (shape, end), bytes(end))


def transforms(**changes):
    frame = {"file_path": "x", "transform_matrix": np.eye(4).tolist(), "azimuth_deg": 0, "elevation_deg": 0}
    whole = {"w": 64, "h": 64, "fl_x": 100.0, "frames": [frame]}
    for key, value in changes.items():
        (whole if key in whole else frame)[key] = value
    return json.dumps(whole)


HUGE = 10 ** 400
FAR = [[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
FOUND = [
    (open_checkpoint, "x.safetensors", entry(b"[1" + b"0" * 4000 + b", 1" + b"0" * 4000 + b"]"), "found shape [1000"),
    (open_checkpoint, "x.safetensors", entry(b"[1" + b", 1" * 40 + b"]"), "at most 32 sizes"),
    (open_checkpoint, "x.safetensors", entry(b"[0, 4611686018427387904]", 0), "together below 2^63 bytes"),
    (open_checkpoint, "x.ckpt", field(1, field(1, b"a") + field(2, 5)), "its messages do not add up"),
    (open_checkpoint, "x.ckpt", field(1, field(1, b"a") + field(2, field(2, b"Float32") + field(3, 3))), "do not add up"),
    (open_checkpoint, "x.ckpt", field(1, field(1, b"a") + field(2, field(1, 1) * 40 + field(2, b"Float32")
                                                                + field(3, bytes(4)))), "expected at most 32 sizes"),
    (read_orbit, "x.json", f'{{"azimuths_deg": [{HUGE}], "elevations_deg": [0]}}', "is not a list of numbers"),
    (read_orbit, "x.json", '{"azimuths_deg": [true], "elevations_deg": [0]}', "is not a list of numbers"),
    (read_orbit, "x.json", '{"frames": [1, {"azimuth_deg": 0, "elevation_deg": 0}]}', "lack azimuth_deg"),
    (read_orbit, "x.json", '{"azimuths_deg": [1e308, -1e308], "elevations_deg": [0, 0]}', "view 0 has 1e+308"),
    (read_orbit, "x.json", "[" * 100_000, "is nested too deeply"),
    (read_orbit, "x.json", " " * (65 << 20), "is larger than 64 MB"),
    (read_transforms, "x.json", transforms(w=HUGE), "w is 1000"),
    (read_transforms, "x.json", transforms(w=1e9), "sides up to"),
    (read_transforms, "x.json", transforms(fl_x=1e-320), "expected positive numbers"),
    (read_transforms, "x.json", transforms(file_path="/"), "frames[0]: / does not exist"),
    (read_transforms, "x.json", transforms(file_path="x" * 5000), "frames[0]: "),
    (read_transforms, "x.json", transforms(transform_matrix=[[HUGE] * 4] * 4), "not 4 x 4 finite numbers"),
    (read_transforms, "x.json", transforms(transform_matrix=FAR), "not 4 x 4 finite numbers"),
    (read_transforms, "x.json", transforms(azimuth_deg=HUGE), "azimuth_deg is not a list of numbers"),
    (load_spec, "x.yaml", f"sampling: {{sigma_max: {HUGE}}}", "sampling.sigma_max: found 1000"),
    (load_spec, "x.yaml", f"num_frames: {HUGE}", "expected a positive number up to 1000"),
    (load_spec, "x.yaml", "vae: {norm_groups: 7}", "expected every level's channels to be a multiple of 224"),
]


@pytest.mark.parametrize("read, name, content, expected", FOUND, ids=range(len(FOUND)))
def test_files(read, name, content, expected, tmp_path):
    (tmp_path / "x").touch()
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as refusal:
        read(tmp_path / name)
    assert str(refusal.value).startswith(f"{tmp_path / name}") and expected in str(refusal.value)


@pytest.mark.parametrize("override, expected", [
    ("[=1", "overrides [: unknown key"), ("num_frames=" + "9" * 5000, "not valid YAML (Exceeds the limit"),
    ("name=" + "[" * 2000, "overrides name: nested too deeply"), ("name=${oc.env:HOME}", "not an interpolation"),
    ("name=&a [&b [*a]]", "nested too deeply"), ("sampling.rho=" + "9" * 400, "sampling.rho: found 9999")])
def test_overrides(override, expected):
    with pytest.raises(ConfigError) as refusal:
        load_spec("svd", [override])
    assert expected in str(refusal.value)
