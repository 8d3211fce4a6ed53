"""Small glTF files: a square whose texture is red on the left and blue on the right."""
import io
import json
import shutil
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT

CORNERS = np.float32([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
TWO_TRIANGLES = np.uint16([0, 1, 2, 0, 2, 3])
LEFT = np.float32([[0.1, 0.9], [0.4, 0.9], [0.4, 0.1], [0.1, 0.1]])     # of the texture, v down
RED, BLUE = [200, 30, 20], [20, 40, 220]
KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


def picture(**options):
    """Return a PNG file (or another format) of the texture."""
    out = io.BytesIO()
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8], image[:, 8:] = RED, BLUE
    Image.fromarray(image).save(out, **({"format": "PNG"} | options))
    return out.getvalue()


def square(change=None, arrays=None, image=None, info=None):
    """Return a GLB file. arrays: {name: array} in place of the usual ones; info: of the base color texture.

    change(header): changes the JSON before it is written.
    """
    arrays = {"POSITION": CORNERS, "TEXCOORD_0": LEFT, "indices": TWO_TRIANGLES} | (arrays or {})
    binary, views, accessors = b"", [], []

    def put(data):
        nonlocal binary
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)})
        binary += data + b"\0" * (-len(data) % 4)
        return len(views) - 1

    places = {}
    for name, array in arrays.items():
        if array is None:
            continue
        rows = np.atleast_2d(array.T).T
        places[name] = len(accessors)
        accessors.append({"bufferView": put(array.tobytes()), "componentType": KINDS[array.dtype.str[1:]],
                          "count": len(rows), "type": SHAPES[rows.shape[1]]})
        if array.dtype.kind != "f" and name != "indices":
            accessors[-1]["normalized"] = True
    primitive = {"attributes": {name: at for name, at in places.items() if name != "indices"}, "material": 0}
    if "indices" in places:
        primitive["indices"] = places["indices"]
    header = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0} | (info or {})}}],
        "textures": [{"source": 0}], "images": [{"bufferView": put(image or picture()), "mimeType": "image/png"}],
        "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(binary)}]}
    if change:
        change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return (struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary)) + struct.pack("<I4s", len(text), b"JSON") + text
            + struct.pack("<I4s", len(binary), b"BIN\0") + binary)


def validated(path):
    """What the Khronos validator says of a glTF file: {numErrors, numWarnings, messages, ...}; skips the test without it."""
    code = ("const bytes = new Uint8Array(require('fs').readFileSync(process.argv[1]));"
            "require('gltf-validator').validateBytes(bytes).then(report => console.log(JSON.stringify(report.issues)));")
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('gltf-validator')"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("needs node and the Khronos validator: npm install --no-save gltf-validator")
    done = subprocess.run([node, "-e", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
