"""Files and flags at random, most of them nearly right: every reader takes them or raises an error of ours, in one line."""
import copy
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import trimesh
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.badfiles import encoded, field, object_on_white, png, safetensors
from support.goldens import PACKAGED
from support.paths import ROOT

from sgm.checkpoints.dtypes import DTYPES
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import CKPT_DTYPES
from sgm.checkpoints.store import CheckpointError
from sgm.common.errors import InputError
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError, known_configs
from sgm.geometry.mesh import MeshError
from sgm.geometry.mesh_reader import load_mesh
from sgm.render.framing import normalized, viewing_distance
from sgm.views.cameras import CameraError, Orbit
from sgm.views.images import ImageError, load_image
from sgm.views.preprocessing import prepare
from sgm.views.transforms import read_orbit, read_transforms, write_transforms

CASES = pytest.mark.parametrize("cases", [50, pytest.param(3000, marks=pytest.mark.slow)])


def fuzz(cases, error, read, *strategies):
    """read(*values) for many values: it returns, or raises the given error of ours with one line."""
    outcomes = {"taken": 0, "refused": 0}

    @settings(max_examples=cases, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(*strategies))
    def run(values):
        try:
            read(*values)
            outcomes["taken"] += 1
        except error as refusal:
            assert isinstance(refusal, InputError)
            assert str(refusal).isprintable() and len(str(refusal)) <= 2000, refusal
            outcomes["refused"] += 1
    run()
    assert min(outcomes.values()) > cases // 100, f"too much of one kind to show anything: {outcomes}"


# --- what is nearly right --------------------------------------------------------------------------------------------

BYTES = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\0", b"\xff", b"9", b"-", b"{", b"]"]))
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "cut", "insert", "end"]), BYTES),
                 max_size=3)
ODD = st.one_of(st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.text(max_size=6), st.just([]), st.just({}),
                st.sampled_from([10 ** 400, -10 ** 12, 1e300, "9" * 5000, "\ud800", "/", "a/../b", "x" * 5000, [[1], [2, 3]],
                                 [[[]]], {"a": {"b": 1}}, float("nan"), "${oc.env:HOME}"]))


def damaged(content, edits):
    """Bytes with a few of them changed, left out, put in, or cut off from there on."""
    for place, kind, new in edits:
        at = int(place * len(content))
        rest = {"set": content[at + len(new):], "cut": content[at + 4 * len(new):], "insert": content[at:], "end": b""}[kind]
        content = content[:at] + (b"" if kind in ("cut", "end") else new) + rest
    return content


def places(node):
    """(container, key) of everything inside a JSON value."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(inner):
        yield node, key
        yield from places(value)


REPLACEMENTS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(ODD, st.just("leave out"))), max_size=2)


def altered(document, replacements):
    """A copy of a JSON value with some of its parts replaced or left out."""
    document = json.loads(json.dumps(document))
    for place, value in replacements:
        found = list(places(document))
        if found:
            container, key = found[int(place * len(found))]
            if isinstance(value, str) and value == "leave out":
                del container[key]
            else:
                container[key] = copy.deepcopy(value)
    return document


@pytest.fixture
def file(tmp_path_factory):
    """Writes bytes or text as a file of a name -> its path; the same path each time."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))

    def write(content, name):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path
    return write


# --- weights ---------------------------------------------------------------------------------------------------------

SIZES = st.lists(st.one_of(st.integers(-1, 4), st.sampled_from([0, 2 ** 40, 2 ** 62, 2 ** 63, 10 ** 4000])), max_size=3)
ENTRY = st.fixed_dictionaries({"dtype": st.sampled_from([*DTYPES, "F8"]), "shape": st.one_of(SIZES, st.just([1] * 40)),
                               "data_offsets": st.lists(st.integers(0, 24), min_size=2, max_size=2)})


def read_all(path):
    checkpoint = open_checkpoint(path)
    for key in checkpoint:
        assert checkpoint.read(key).shape == checkpoint.shape(key)


@CASES
def test_safetensors(cases, file):
    header = {"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
              "h": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}}
    good = safetensors(header, bytes(32))
    headers = st.one_of(st.builds(altered, st.just(header), REPLACEMENTS),
                        st.dictionaries(st.text(max_size=3), st.one_of(ENTRY, ODD), max_size=3))
    contents = st.one_of(st.builds(damaged, st.just(good), EDITS),
                         st.builds(safetensors, headers, st.one_of(st.just(bytes(32)), st.binary(max_size=24))))
    fuzz(cases, CheckpointError, lambda content: read_all(file(content, "x.safetensors")), contents)


NUMBERS = st.one_of(st.integers(0, 4), st.sampled_from([0, 2 ** 40, 2 ** 62, 2 ** 69]))
FIELDS = st.lists(st.one_of(
    st.builds(field, st.just(1), NUMBERS), st.builds(field, st.just(3), st.sampled_from([b"", bytes(4), bytes(16)])),
    st.builds(field, st.just(2), st.sampled_from([*(name.encode() for name in CKPT_DTYPES), b"str", b"?"])),
    st.builds(field, st.integers(0, 4), st.one_of(NUMBERS, st.binary(max_size=3)))), max_size=5).map(b"".join)
TENSOR = st.sampled_from([[4], [2, 2], []]).map(
    lambda shape: b"".join(field(1, n) for n in shape) + field(2, b"Float32") + field(3, bytes(4 * int(np.prod(shape)))))
RIGHT = st.builds(lambda key, tensor: field(1, key) + field(2, tensor), st.binary(min_size=3, max_size=3), TENSOR)
WRONG = st.one_of(FIELDS, st.builds(lambda key, tensor: field(1, key) + field(2, tensor),
                                    st.sampled_from([b"a", b"a", b"\xff"]), st.one_of(FIELDS, TENSOR, NUMBERS)))


@CASES
def test_mindspore_ckpt(cases, file):
    contents = st.one_of(*(st.lists(value, min_size=1, max_size=3).map(lambda values: b"".join(field(1, v) for v in values))
                           for value in (RIGHT, st.one_of(RIGHT, WRONG))))
    contents = st.one_of(contents, st.builds(damaged, contents, EDITS))
    fuzz(cases, CheckpointError, lambda content: read_all(file(content, "x.ckpt")), contents)


# --- images ----------------------------------------------------------------------------------------------------------

PICTURES = [encoded(object_on_white(24), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")] + [
    encoded(Image.new("RGBA", (20, 30), (1, 2, 3, 99))), encoded(object_on_white(24).quantize(4), transparency=0),
    encoded(Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24)))]
HEADERS = st.builds(png, st.sampled_from([0, 1, 24, 9000, 2 ** 31]), st.sampled_from([1, 24, 9000]), st.just(bytes(24 * 97)),
                    st.sampled_from([1, 8, 16]), st.integers(0, 6))


@CASES
def test_images(cases, file):
    def read(content):
        prepare(load_image(file(content, "x.png")), 32, cut_out=len(content) % 2 == 0)
    fuzz(cases, ImageError, read, st.one_of(st.builds(damaged, st.sampled_from(PICTURES), EDITS), HEADERS))


# --- configurations --------------------------------------------------------------------------------------------------

CONFIGS = [path.read_bytes() for path in [*(ROOT / "configs" / "sampling").glob("*.yaml"),
                                          *PACKAGED.glob("tiny_*.yaml")]]
KEYS = ["num_frames", "height", "name", "unet", "unet.channel_mult", "vae.norm_groups", "clip.layers", "condition.cond_aug",
        "condition.embedders", "sampling.steps", "sampling.sigma_max", "stepz", "unet.", "[", "a[0]", "", "${x}"]
WORDS = st.one_of(st.text(max_size=8), st.text("[]{},:&*!|>-?#'\"\\ \n\t%@`0123456789.eabx~", max_size=12), st.sampled_from(
    ["[1,2]", "1e5", "0x10", "1:30", "2020-99-99", "!!binary aGk=", "!!python/name:os.system", "&a [*a]", "{a: 1}", ".nan",
     "-1", "${oc.env:HOME}", "???", "9" * 5000, "9" * 400, "true", "null", "<<", "[" * 2000, "euler", "64"]))


@CASES
def test_yaml_files(cases, file):
    documents = [yaml.safe_load(content) for content in CONFIGS]
    texts = st.one_of(
        st.builds(damaged, st.sampled_from(CONFIGS), EDITS),
        st.builds(altered, st.sampled_from(documents), REPLACEMENTS).map(yaml.dump),
        st.lists(st.builds(lambda key, value: f"{key}: {value}\n", st.sampled_from(KEYS), WORDS), max_size=3).map("".join))
    fuzz(cases, ConfigError, lambda text: load_spec(file(text, "x.yaml")), texts)


@CASES
def test_key_value(cases):
    right = st.sampled_from(["num_frames=3", "name=x", "sampling.steps=0x10", "condition.cond_aug=1e-5", "name='[a'"])
    wrong = st.one_of(st.builds("{}={}".format, st.sampled_from(KEYS), WORDS), WORDS)
    pairs = st.one_of(st.lists(right, max_size=2), st.lists(st.one_of(right, wrong), min_size=1, max_size=2))
    fuzz(cases, ConfigError, load_spec, st.sampled_from(known_configs("sampling")), pairs)


# --- cameras ---------------------------------------------------------------------------------------------------------

@CASES
@pytest.mark.parametrize("read", [read_transforms, read_orbit], ids=["transforms", "orbit"])
def test_cameras(cases, read, file):
    path = write_transforms(file(b"", "000.png").parent, Orbit.static(num_frames=2), 64, files=["000.png", "000.png"])
    ours = json.loads(path.read_text())
    theirs = {key: ours[key] for key in ("w", "h", "camera_angle_x")}
    theirs["frames"] = [{key: frame[key] for key in ("file_path", "transform_matrix")} for frame in ours["frames"]]
    documents = [ours, ours, theirs, {"azimuths_deg": [90, 0], "elevations_deg": [1, 2]}]
    texts = st.one_of(st.builds(altered, st.sampled_from(documents), REPLACEMENTS).map(json.dumps).map(str.encode),
                      st.builds(damaged, st.just(path.read_bytes()), EDITS), st.just("[" * 100_000).map(str.encode))

    def checked(content):
        with warnings.catch_warnings():
            warnings.simplefilter("error")          # a number that overflows is damage as well
            read(file(content, "transforms.json"))
    fuzz(cases, CameraError, checked, texts)


# --- meshes ----------------------------------------------------------------------------------------------------------

GLTF = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "scale": [1, 2, 3]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}, "alphaMode": "MASK"}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
                      {"bufferView": 1, "componentType": 5125, "count": 3, "type": "SCALAR"}],
        "bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 12}],
        "buffers": [{"byteLength": 48, "uri": "x.bin"}]}


def mesh_files():
    """(suffix, bytes) of one small mesh in each format."""
    box = trimesh.creation.box((1, 2, 3))
    files = [(kind, box.export(file_type=kind)) for kind in ("obj", "ply", "stl", "off", "glb")]
    files += [("ply", box.export(file_type="ply", encoding="ascii")), ("stl", box.export(file_type="stl_ascii"))]
    return [(kind, content if isinstance(content, bytes) else content.encode()) for kind, content in files]


@CASES
def test_meshes(cases, file):
    file(np.float32([[0, 0, 0], [0, 1, 0], [0, 0, 1]]).tobytes() + np.uint32([0, 1, 2]).tobytes(), "x.bin")
    contents = st.one_of(
        st.tuples(st.sampled_from(mesh_files()), EDITS).map(lambda case: (case[0][0], damaged(case[0][1], case[1]))),
        st.builds(altered, st.just(GLTF), REPLACEMENTS).map(lambda document: ("gltf", json.dumps(document))))

    def read(case):
        mesh = normalized(load_mesh(file(case[1], f"x.{case[0]}")))
        assert viewing_distance(mesh, Orbit.static(num_frames=3)) >= 2
    fuzz(cases, MeshError, read, contents)
