"""Writes report.html: a result of image_to_mesh.py as one page, which needs no network."""
import base64
import io
import json
from pathlib import Path

from PIL import Image

from sgm.common.files import atomic
from sgm.views.images import composite, load_image

NAME = "report.html"
TOOLS = Path(__file__).resolve().parent
THREE = TOOLS.parent / "vendor" / "three" / "three.min.js"
VIEWER = TOOLS / "_viewer.js"
# {name in the page: file in the views folder}, {...: in the mesh folder}
OF_VIEWS = {"input": "input.png", "matte": "input_matte.png", "views": "contact.png",
            "orbit": "orbit.png"}
OF_MESH = {"mesh": "contact.png", "light": "light.png"}
LARGEST = 1680          # pixels of a picture's longer side in the page


def write(views: Path, mesh: Path, report: dict) -> Path:
    """Write report.html into a views folder; return its path.

    mesh: the folder of its mesh. report: what the report.json of image_to_mesh.py says. Pictures
    that a folder lacks are left out. The page holds everything: pictures, the GLB, the viewer
    (three.js), its texts in English and Chinese.
    """
    files = [(name, views / file) for name, file in OF_VIEWS.items()]
    files += [(name, mesh / file) for name, file in OF_MESH.items()]
    pictures = {name: _picture(file) for name, file in files if file.is_file()}
    for suffix, kind in (("mp4", "video/mp4"), ("gif", "image/gif")):
        file = mesh / f"turntable.{suffix}"
        if file.is_file():
            pictures.setdefault("turntable", _uri(kind, file.read_bytes()))
    parts = {
        "data": json.dumps({**report, "pictures": pictures}).replace("<", "\\u003c"),
        "glb": base64.b64encode((mesh / "mesh.glb").read_bytes()).decode(),
        "three": THREE.read_text(encoding="utf-8"),
        "viewer": VIEWER.read_text(encoding="utf-8"),
    }
    page = (TOOLS / "report_template.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    with atomic(views / NAME) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return views / NAME


def _picture(file):
    """Return a picture on white, made smaller if it is large, as a data URI."""
    picture = Image.fromarray(composite(load_image(file)))
    picture.thumbnail((LARGEST, LARGEST), Image.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=90)
    return _uri("image/webp", out.getvalue())


def _uri(kind, data):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
