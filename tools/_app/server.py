"""The routes besides the toolkit's: files of results, archives, viewer, brush, previews."""
import io
import logging
from pathlib import Path
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, Response

from _app.page import build
from _app.results import ARCHIVES, SUFFIXES
from _app.texts import LANGUAGES, preferred
from sgm.common.errors import InputError

HERE = Path(__file__).resolve().parent
STATIC = {"three.min.js": HERE.parents[1] / "vendor" / "three" / "three.min.js",
          "viewer.js": HERE.parent / "_viewer.js"}
END_SECONDS = 1         # that open pages have when the server ends
SHOWN = ("mp4", "gif", "png", "html")      # what a browser shows itself; the rest is saved


class Server(uvicorn.Server):
    """Serves an ASGI application on a socket that listens, until Ctrl-C. certificate, key: PEM."""

    def __init__(self, app, listening, certificate=None, key=None):
        super().__init__(uvicorn.Config(
            app, log_level="warning", ssl_certfile=certificate, ssl_keyfile=key,
            timeout_graceful_shutdown=END_SECONDS, server_header=False))
        self.listening = listening

    def run(self):
        """Serve."""
        super().run([self.listening])

    async def shutdown(self, sockets=None):
        """End; the pages that are still open are cut off, which is no error."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def application(studio, most_bytes):
    """Return the FastAPI application of a Studio. most_bytes: of an uploaded picture."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    def start(request: Request):
        return RedirectResponse(f"/{preferred(request.headers.get('accept-language'))}/")

    @app.get("/favicon.ico")
    def icon():
        return Response(status_code=204)

    @app.get("/static/{name}")
    def static(name: str):
        return FileResponse(STATIC[name]) if name in STATIC else _missing()

    @app.get("/files/{name}/{file:path}")
    def file_of(name: str, file: str):
        if file in ARCHIVES:
            packed = studio.results.archive(name, file)
            return _missing() if packed is None else Response(packed, headers=_saved(
                f"{name}_{file}"), media_type="application/zip")
        path = studio.results.path(name, file)
        if path is None:
            return _missing()
        is_shown = path.suffix[1:] in SHOWN
        return FileResponse(path, media_type=SUFFIXES[path.suffix],
                            headers=None if is_shown else _saved(f"{name}_{path.name}"))

    @app.get("/viewer/{language}/{name}")
    def viewer(language: str, name: str):
        return FileResponse(HERE / "viewer.html")

    @app.get("/brush/{language}/{token}")
    def brush(language: str, token: str):
        return FileResponse(HERE / "brush.html")

    @app.get("/cutout/{token}")
    def cutout(token: str):
        try:
            picture = studio.cutouts.picture(token)
        except InputError:
            return _missing()
        out = io.BytesIO()
        picture.save(out, "PNG")
        return Response(out.getvalue(), media_type="image/png")

    @app.post("/cutout/{token}")
    async def paint(token: str, request: Request):
        return await run_in_threadpool(_done, studio.cutouts.paint, token, await request.body())

    @app.post("/cutout/{token}/threshold/{percent}")
    def threshold(token: str, percent: int):
        return _done(studio.cutouts.threshold, token, percent)

    @app.post("/cutout/{token}/reset")
    def reset(token: str):
        return _done(studio.cutouts.reset, token)

    @app.get("/preview/{job}")
    def preview(job: str):
        found = studio.queue.known.get(job)
        try:
            return Response(found.preview.read_bytes(), media_type="image/png")
        except (OSError, AttributeError):       # the job is over, or unknown
            return _missing()

    for language in LANGUAGES:
        build(app, studio, language, most_bytes)
    return app


def _done(correct, *what):
    """Return the answer to a correction of a cut-out."""
    try:
        correct(*what)
    except InputError as error:
        return PlainTextResponse(str(error), 400)
    return Response(status_code=204)


def _missing():
    return PlainTextResponse("there is nothing here", 404)


def _saved(name):
    """Return the header by which a browser saves a file under a name."""
    return {"content-disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
