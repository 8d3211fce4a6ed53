"""Files that are wrong, byte by byte, for the tests of bad input: images, weights, configurations."""
import io
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def object_on_white(side=48):
    """A picture that can be used: a red square on white, PIL RGB."""
    pixels = np.full((side, side, 3), 250, np.uint8)
    pixels[side // 4:-side // 4, side // 4:-side // 4] = (200, 40, 40)
    return Image.fromarray(pixels)


def encoded(image, kind="PNG", **options):
    """A PIL image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, data=b"\0", bits=8, color=2, *more):
    """A PNG whose header says what it likes. more: (kind, bytes) of further chunks."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)), *more, (b"IDAT", zlib.compress(data)),
              (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(content)) + kind + content
                                           + struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks)


def bad_images():
    """{file name: (its bytes, a part of what is said of it)}."""
    good, rgba = encoded(object_on_white()), object_on_white().convert("RGBA")
    speck = np.zeros((100, 100, 4), np.uint8)
    speck[50:53, 50:53] = 255
    clear = rgba.copy()
    clear.putalpha(0)
    return {
        "zero.png": (b"", "found an empty file"),
        "cut.png": (good[:len(good) // 2], "cannot be read as an image"),
        "cut.jpg": (encoded(object_on_white(), "JPEG")[:300], "cannot be read as an image"),
        "corrupt.png": (good[:45] + bytes(20) + good[65:], "cannot be read as an image"),
        "words.jpg": (b"<!DOCTYPE html>", "found no image of a known kind"),
        "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "found no image of a known kind"),
        "clear.png": (encoded(clear), "every pixel is transparent"),
        "dot.png": (encoded(rgba.resize((1, 1))), "1 x 1 pixels, expected at least 16 x 16"),
        "dot_clear.webp": (encoded(Image.new("RGBA", (1, 1), (9, 9, 9, 90)), "WEBP"), "1 x 1 pixels, expected at least"),
        "thin.png": (encoded(Image.new("RGB", (16, 4000), "red")), "16 x 4000 pixels"),
        "speck.png": (encoded(Image.fromarray(speck)), "is 3 x 3 pixels, expected at least 8"),
        "flat.png": (encoded(Image.new("RGB", (64, 64), "grey")), "no object found"),
        "bomb.png": (png(8001, 8001), "found 64016001 pixels, expected at most 64000000"),
        "bomb.webp": (b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(15),
                      "found 268402689 pixels, expected at most 64000000"),
        "comment.png": (png(32, 32, bytes(32 * 97), 8, 2, (b"zTXt", b"k\0\0" + zlib.compress(bytes(10 ** 8)))),
                        "cannot be read as an image"),
    }


def safetensors(header, data=b"", length=None):
    """A safetensors file of a header (mapping or bytes) and data; `length`: what it says of the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def field(number, content):
    """A field of a protobuf message: bytes length-delimited, an int as a varint."""
    return (varint(number << 3 | 2) + varint(len(content)) + content if isinstance(content, bytes)
            else varint(number << 3) + varint(content))


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def torch_zip(index, storages=(), root="archive/", **records):
    """A file as torch.save writes it. index: the pickle; storages: their bytes; records: others, by their names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(root + "data.pkl", index)
        for name, content in {**{f"data/{i}": data for i, data in enumerate(storages)}, "version": b"3\n", **records}.items():
            archive.writestr(root + name, content)
    return file.getvalue()


class Payload:
    """What a pickle runs when it is loaded: it makes the file `touched`."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def bad_weights(good, touched):
    """Yields (file name, its bytes, a part of what is said of it). good: a safetensors file of the model; touched: a file
    that a pickle makes if it is loaded."""
    start = 8 + int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8:start]), good[start:]
    key = "model.diffusion_model.out.2.bias"
    info = header[key]
    begin, end = info["data_offsets"]

    def changed(**values):
        return safetensors({**header, key: {**info, **values}}, data)

    yield "zero.safetensors", b"", "found an empty file"
    yield "cut_header.safetensors", good[:start // 2], "the file is cut off"
    yield "cut_data.safetensors", good[:-1], "the file is cut off"
    yield "page.safetensors", b"<!DOCTYPE html><html><body>Sign in", "no safetensors file"
    yield "pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"
    yield "image.ckpt", encoded(object_on_white()), "found neither safetensors nor a MindSpore .ckpt"
    yield "huge_header.safetensors", safetensors(b"{}", data, 2 ** 62), "found a header of 4611686018427387904 bytes"
    yield "beyond.safetensors", changed(data_offsets=[begin + 10 ** 9, end + 10 ** 9]), f"{key}: found its end at byte"
    yield "overlap.safetensors", changed(data_offsets=[begin - 2, end - 2]), "found its start at byte"
    yield "dimensions.safetensors", changed(shape=[1] * 40 + info["shape"]), f"{key}: found shape [1, 1"
    yield "shape.safetensors", changed(shape=[2, info["shape"][0] // 2]), f"misshapen: {key} (found (2, "
    yield "kind.safetensors", changed(dtype="I16"), f"misshapen: {key} (found I16"
    renamed = {("renamed" if name == key else name): value for name, value in header.items()}
    yield "missing.safetensors", safetensors(renamed, data), f"1 keys missing: {key}; 1 left over: renamed"
    yield "none.safetensors", safetensors({}), "no tensors: found none of the names of SVD or SV3D"
    for protocol in (2, 4):
        yield f"pickle{protocol}.ckpt", pickle.dumps(Payload(touched), protocol), "found a pickle"
    yield "pickle0.ckpt", pickle.dumps(Payload(touched), 0), "found neither safetensors nor"
    yield "zip.safetensors", b"PK\x03\x04" + pickle.dumps(Payload(touched)), "found a zip file that cannot be read"
    yield "torch.ckpt", torch_zip(pickle.dumps({"state_dict": Payload(touched)}, 2)), "its pickle holds a __builtin__.getattr"


def with_nan(good, key):
    """A safetensors file of half precision with NaN as the first value of a tensor."""
    start = 8 + int.from_bytes(good[:8], "little")
    at = start + json.loads(good[8:start])[key]["data_offsets"][0]
    return good[:at] + b"\x00\x7e" + good[at + 2:]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{x}: &{x} [{','.join(['*' + y] * 9)}]\n" for x, y in zip("bcdefgh", "abcdefg"))
BAD_CONFIGS = {     # {file name: (text, a part of what is said of it)}; SIZE is a number of the schema
    "unknown.yaml": ("SIZEZ: 3\n", "SIZEZ: unknown key; the nearest known key is SIZE"),
    "kind.yaml": ("SIZE: many\n", "SIZE: found 'many', expected int"),
    "bomb.yaml": (BOMB, "more than 2000 values"),
    "code.yaml": ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    "environment.yaml": ("name: ${oc.env:HOME}", "not an interpolation"),
    "binary.yaml": ("\0\1\2", "not valid YAML"),
    "empty.yaml": ("", "found nothing, expected a mapping"),
}
