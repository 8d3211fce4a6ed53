"""What the tests of tools/convert.py share: small models as files, the command, changed tensors."""
import json

import numpy as np
from safetensors.numpy import save_file
from support.commands import load_tool
from support.goldens import GOLDEN, PACKAGED, build_checkpoint

SVD, SV3D_P = PACKAGED / "tiny_svd.yaml", PACKAGED / "tiny_sv3d_p.yaml"
LABEL = "model.diffusion_model.label_emb.0.0.weight"
tool = load_tool("convert")


def convert(*args, config=SVD):
    """The exit code of a conversion of paths and flags."""
    return tool.run([str(arg) for arg in args] + (["--config", str(config)] if config else []))


def write_file(path, arrays):
    """`arrays` as the safetensors library writes them; -> path."""
    save_file(arrays, path, {"format": "pt"})
    return path


def write_models(folder):
    """svd.safetensors and sv3d_p.safetensors, complete small models, and svd, the diffusers folder of the first."""
    for name in ("svd", "sv3d_p"):
        write_file(folder / f"{name}.safetensors", build_checkpoint(name))
    assert convert(folder / "svd.safetensors", folder / "svd", "--to", "diffusers") == 0
    return folder


def changed(arrays, **changes):
    """`arrays` with tensors of these names replaced (None: left out); dots are written __."""
    new = {**arrays, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in new.items() if value is not None}


def sparse(path, shapes):
    """A safetensors file of float32 zeros that takes no room on the disk."""
    header, at = {}, 0
    for key, shape in shapes.items():
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * int(np.prod(shape))]}
        at = header[key]["data_offsets"][1]
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


def manifest(name):
    """A list of tests/golden/manifests."""
    return json.loads((GOLDEN / f"manifests/{name}.json").read_text())
