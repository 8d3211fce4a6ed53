"""What stands before the page: password, allowed hosts and paths, limits, and no foreign addresses.

An ASGI application around the one of the page. Of the toolkit's routes it lets through only those
that the page needs: some others read files, fetch other addresses or write records. The toolkit
copies any path or address that a form's value says is an uploaded file, so values are looked at.
"""
import asyncio
import base64
import hmac
import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

NAMES = ("localhost", "127.0.0.1", "[::1]")
# one page for each language; then what the page needs
PATHS = re.compile(
    r"/|/favicon\.ico|/(files|viewer|preview|static|brush|cutout)/.*|/(en|zh)(/|/config/?|/theme\.css|/manifest\.json"
    r"|/favicon\.ico|/(assets|static|svelte)/.*"
    r"|/gradio_api/(upload|upload_progress|queue/(join|data)|startup-events|heartbeat/.*|file=.*"
    r"|info/?|reset/?|theme\.css|cancel|app_id/?))?")
SMALL_BODY = 8 << 20    # bytes of a request that is no upload: the strokes of a brush
ROOM = 1 << 16          # bytes of an upload's form besides the file
# Everything comes from here: a browser asks nobody else, whatever the toolkit's files say.
POLICY = ("default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; connect-src 'self' blob:"
          " data:; frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'")
# A file of a result has no rights on the page, whoever wrote it.
OF_FILES = ("sandbox allow-scripts; default-src 'unsafe-inline' data: blob:; connect-src data:"
            " blob:")
FOREIGN = re.compile(rb"<(?:link|script|meta)\b[^>]*https?://(?!www\.w3\.org)[^>]*>(?:\s*</script>)?")


class Gate:
    """An ASGI application that passes on what is allowed to another one.

    password: asked for before anything; None without. hosts: names that a request may be for, so
    that no page elsewhere reaches this one by a name of its own; None: any. most_bytes: of an
    upload. cache: the only folder of which the toolkit may read files.
    """

    def __init__(self, app, password=None, hosts=NAMES, most_bytes=32 << 20, cache=None):
        self.app, self.hosts, self.most_bytes = app, hosts, most_bytes
        self.password = None if password is None else password.encode()
        self.cache = cache and os.path.realpath(cache)

    async def __call__(self, scope, receive, send):
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = {name.decode("latin-1").lower(): value.decode("latin-1")
                   for name, value in scope["headers"]}
        refused = self.refusal(scope["method"], scope["path"], headers)
        if refused:
            if refused[0] == 401 and headers.get("authorization"):
                await asyncio.sleep(1)          # guessing takes time
            return await _answer(send, *refused)
        is_page = scope["path"] in ("/en/", "/zh/")
        if is_page:                     # its text is changed, so it must not come compressed
            scope = {**scope, "headers": [pair for pair in scope["headers"]
                                          if pair[0].lower() != b"accept-encoding"]}
        body = _Body(receive, send, self.limit(scope["path"]))
        if scope["path"].endswith("/queue/join") and not self.is_own(await body.read_ahead()):
            if not body.is_refused:
                await _answer(send, 403, "this value is not the page's")
            return None
        try:
            await self.app(scope, body.receive, _with_headers(body.send, scope["path"], is_page))
        except Exception:
            if not body.is_refused:             # else the application misses the rest of it
                raise

    def limit(self, path):
        """Return the bytes that the body of a request may have."""
        return self.most_bytes + ROOM if path.endswith("/gradio_api/upload") else SMALL_BODY

    def refusal(self, method, path, headers):
        """Return (status, text, more headers) of a request that is not passed on; else None.

        headers: in lower case.
        """
        host = headers.get("host", "")
        if self.hosts and re.sub(r":[0-9]+$", "", host) not in self.hosts:
            return 403, f"Host: found {host[:100]!r}, expected {' or '.join(self.hosts)}"
        if self.password is not None and not self.is_known(headers.get("authorization", "")):
            return 401, "a password is needed; any user name will do", {
                "www-authenticate": 'Basic realm="sv3d", charset="UTF-8"'}
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"found {method}, expected GET or POST"
        origin = headers.get("origin")
        if method == "POST" and origin and urlsplit(origin).netloc != host:
            return 403, "the request comes from another page"
        if not PATHS.fullmatch(path) or ".." in re.split(r"[/\\]", path):
            return 404, "there is nothing here"
        if "/gradio_api/file=" in path and not self.is_cached(path.split("file=", 1)[1]):
            return 403, "this file is not the page's"
        length = headers.get("content-length", "0")
        if method == "POST" and (not length.isdigit() or int(length) > self.limit(path)):
            return 413, _too_large(self.limit(path))
        return None

    def is_known(self, authorization):
        """Return whether a request has the password."""
        kind, _, code = authorization.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            given = base64.b64decode(code, validate=True).partition(b":")[2]
        except ValueError:
            given = b""
        return hmac.compare_digest(given, self.password)

    def is_cached(self, file):
        """Return whether a path is one of the toolkit's own copies, links followed."""
        return bool(self.cache) and Path(os.path.realpath(file)).is_relative_to(self.cache)

    def is_own(self, data):
        """Return whether data is JSON, and all files in it are the toolkit's own copies."""
        def names_own(value):
            if isinstance(value, dict):
                path = value.get("path")
                if path is not None and not (isinstance(path, str) and self.is_cached(path)):
                    return False
                value = list(value.values())
            return not isinstance(value, list) or all(map(names_own, value))
        try:
            return names_own(json.loads(data))
        except (ValueError, RecursionError):
            return False


class _Body:
    """A request's body, which is cut off where it is larger than it said, and than it may be.

    The answer then is ours, whatever the application still sends.
    """

    def __init__(self, receive, send, most):
        self.inner_receive, self.inner_send, self.most = receive, send, most
        self.seen, self.is_refused, self.ahead = 0, False, []

    async def read_ahead(self):
        """Return all of the body, which `receive` then gives again; b"" if it is too large."""
        message = await self.receive()
        parts = [message]
        while message.get("more_body"):
            message = await self.receive()
            parts.append(message)
        self.ahead = parts
        return b"".join(part.get("body", b"") for part in parts)

    async def receive(self):
        if self.ahead:
            return self.ahead.pop(0)
        message = await self.inner_receive()
        self.seen += len(message.get("body", b""))
        if self.seen > self.most and not self.is_refused:
            self.is_refused = True
            await _answer(self.inner_send, 413, _too_large(self.most))
        return {"type": "http.disconnect"} if self.is_refused else message

    async def send(self, message):
        if not self.is_refused:
            await self.inner_send(message)


def _too_large(most):
    return f"found a larger upload, expected at most {most >> 20} MB; make the image smaller"


def _with_headers(send, path, is_page):
    """Return a `send` that adds our headers, and takes foreign addresses out of the page.

    The policy goes by what the answer says it is: a path may name a page in more than one way.
    """
    start, body = None, b""

    async def changed(message):
        nonlocal start, body
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"]
                    if pair[0].lower() not in (b"access-control-allow-origin",
                                               b"access-control-allow-credentials")]
            is_html = any(name.lower() == b"content-type" and kind.lower().startswith(b"text/html")
                          for name, kind in kept)
            policy = OF_FILES if is_html and path.startswith("/files/") else POLICY
            message = {**message, "headers": [
                *kept, (b"content-security-policy", policy.encode()),
                (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]}
            if is_page:
                start = message
                return
        elif is_page:
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = FOREIGN.sub(b"", body)
            headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({**start, "headers": headers})
            message = {"type": "http.response.body", "body": body}
        await send(message)
    return changed


async def _answer(send, status, text, more=()):
    headers = {"content-type": "text/plain; charset=utf-8", **dict(more)}
    await send({"type": "http.response.start", "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()]})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
