"""What stands before the web page: whom it lets in, which paths, how much, and that pages name no foreign address."""
import asyncio
import base64
import json

import pytest
from _app import gate
from _app.gate import Gate

PAGE = (b'<html><head><link rel="preconnect" href="https://fonts.googleapis.com"><script src="https://cdnjs.example/a.js"'
        b' async></script>\n<meta property="og:url" content="https://gradio.app/" /><link rel="stylesheet" href="./theme.css">'
        b'<script src="./assets/a.js"></script></head><body><svg xmlns="http://www.w3.org/2000/svg"></svg></body></html>')
OWN = [(b"host", b"127.0.0.1:7860")]


async def inner(scope, receive, send):
    """An application that reads all of the body, and answers with PAGE in two parts."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":        # as frameworks take it: they answer, and raise
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        raise ConnectionError
    kind = b"video/mp4" if scope["path"].endswith(".mp4") else b"text/html; charset=utf-8"
    headers = [(b"content-length", str(len(PAGE)).encode()), (b"access-control-allow-origin", b"*"), (b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE[:50], "more_body": True})
    await send({"type": "http.response.body", "body": PAGE[50:]})


def ask(app, path="/en/", headers=(), method="GET", body=(b"",)):
    """(status, headers, body) of a request."""
    parts, sent = list(body), []

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [*OWN, *headers] if headers is not None else []}
    asyncio.run(app(scope, receive, send))
    return (sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]},
            b"".join(message["body"] for message in sent[1:]))


def test_page_asks_nobody_else():
    status, headers, body = ask(Gate(inner))
    assert status == 200 and int(headers["content-length"]) == len(body)
    assert b"googleapis" not in body and b"cdnjs" not in body and b"gradio.app" not in body
    for kept in (b'href="./theme.css"', b'src="./assets/a.js"', b"http://www.w3.org/2000/svg"):
        assert kept in body
    assert "default-src 'self'" in headers["content-security-policy"] and "access-control-allow-origin" not in headers


def test_other_answers_are_left_alone_and_reports_have_no_rights():
    app = Gate(inner)
    _, headers, body = ask(app, "/files/cup_23/views.mp4")
    assert body == PAGE and headers["content-security-policy"] == gate.POLICY
    for path in ("report.html", "report.html/", "report.html/.", "mesh//report.html", "report.HTML", "report"):
        assert ask(app, f"/files/cup_23/{path}")[1]["content-security-policy"].startswith("sandbox allow-scripts;")
    assert ask(app, "/viewer/en/cup_23")[1]["content-security-policy"] == gate.POLICY


@pytest.mark.parametrize("path", [
    "/", "/en", "/en/", "/zh/config", "/en/theme.css", "/en/assets/index.js", "/en/static/img/x.svg", "/en/gradio_api/queue/join",
    "/en/gradio_api/upload", "/en/gradio_api/heartbeat/abc", "/viewer/en/cup_23", "/brush/zh/token", "/favicon.ico"])
def test_paths_that_the_page_needs(path):
    assert ask(Gate(inner), path, body=(b"{}",))[0] == 200


@pytest.mark.parametrize("path", [
    "/docs", "/fr/", "/en/monitoring", "/en/gradio_api/proxy=https://example.com/", "/en/gradio_api/run/predict", "/en/login",
    "/en/gradio_api/stream/x/1/2/playlist.m3u8", "/en/gradio_api/run-history/records", "/files/../../etc/passwd", "/en/assets/../x",
    "/files/cup/..", "/en/gradio_api/component_server", "/en\n/"])
def test_no_other_paths(path):
    assert ask(Gate(inner), path)[0] == 404


def test_values_of_a_form_name_no_other_files(tmp_path):
    """The toolkit would copy them to where the browser may read them, and would fetch addresses."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "a.png").touch()
    (cache / "link.png").symlink_to("/etc/passwd")
    app = Gate(inner, cache=cache)

    def status(data):
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        return ask(app, "/en/gradio_api/queue/join", method="POST", body=(body[:7], body[7:]))[0]

    meta = {"_type": "gradio.FileData"}
    for path in (str(cache / "a.png"), None):
        assert status({"data": [3, {"path": path, "meta": meta}], "fn_index": 1}) == 200
    for path in ("/etc/passwd", f"{cache}/../secret", f"{cache}/link.png", "https://example.com/a.png", f"{cache}/a%2fb%2fc/../../../etc",
                 5, ["/etc/passwd"]):
        assert status({"data": [{"path": path, "meta": meta}]}) == 403
        assert status({"data": [[{"deep": {"path": path}}]]}) == 403
    for bad in (b"no JSON", b"[" * 10 ** 5, b"\xff\xfe"):
        assert status(bad) == 403


def test_values_that_are_read_ahead_are_passed_on_whole():
    got = []

    async def application(scope, receive, send):
        while (message := await receive()).get("more_body"):
            got.append(message["body"])
        got.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert ask(Gate(application), "/en/gradio_api/queue/join", method="POST", body=(b'{"da', b'ta": 1}'))[0] == 200
    assert b"".join(got) == b'{"data": 1}'


def test_toolkit_reads_its_own_copies_only(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "a.png").touch()
    (cache / "link.png").symlink_to("/etc/passwd")
    app = Gate(inner, cache=cache)
    assert ask(app, f"/en/gradio_api/file={cache}/a.png")[0] == 200
    for other in ("/etc/passwd", f"{cache}/link.png", f"{cache}x/a.png", "", "https://example.com/a.png", "%2Fetc%2Fpasswd"):
        assert ask(app, f"/en/gradio_api/file={other}")[0] == 403
    assert ask(app, f"/en/gradio_api/file={cache}/../a.png")[0] == 404


def test_only_names_of_this_machine_without_a_host():
    app = Gate(inner)
    for name in (b"localhost", b"localhost:7860", b"[::1]:7860"):
        assert ask(app, headers=[(b"host", name)])[0] == 200
    for name in (b"evil.example", b"127.0.0.1.evil.example:7860", b"localhost.evil.example"):     # a name bound to this machine
        assert ask(app, headers=[(b"host", name)])[0] == 403
    assert ask(app, headers=None)[0] == 403
    assert ask(Gate(inner, "12345678", None), headers=[(b"host", b"npu.example")])[0] == 401


def test_other_pages_cannot_post():
    app = Gate(inner)
    assert ask(app, "/cutout/a", [(b"origin", b"http://127.0.0.1:7860")], "POST")[0] == 200
    for origin in (b"http://evil.example", b"null", b"http://127.0.0.1:8000"):
        assert ask(app, "/cutout/a", [(b"origin", origin)], "POST")[0] == 403
    assert ask(app, "/en/", method="PUT")[0] == 405


def test_password(monkeypatch):
    async def quick(seconds):
        waits.append(seconds)
    waits = []
    monkeypatch.setattr(gate.asyncio, "sleep", quick)
    app = Gate(inner, "geheim§123")

    def given(text):
        return [(b"authorization", b"Basic " + base64.b64encode(text.encode()))]
    status, headers, body = ask(app)
    assert status == 401 and headers["www-authenticate"].startswith("Basic") and not waits
    assert ask(app, headers=given("anybody:geheim§123"))[0] == 200
    for wrong in ("geheim§123", "a:geheim§12", "a:", ":", "a:geheim§1234"):
        assert ask(app, headers=given(wrong))[0] == 401
    assert ask(app, "/files/cup/000.png", [(b"authorization", b"Basic ???")])[0] == 401
    assert ask(app, headers=[(b"authorization", b"Bearer geheim")])[0] == 401
    assert waits == [1] * 7


def test_uploads_are_limited():
    app = Gate(inner, most_bytes=1000)
    most = 1000 + gate.ROOM

    def post(path, length=None, body=(b"",)):
        return ask(app, path, [(b"content-length", str(length).encode())] if length is not None else [], "POST", body)[0]
    assert post("/en/gradio_api/upload", most) == 200
    assert post("/en/gradio_api/upload", most + 1) == post("/en/gradio_api/upload", "many") == 413
    assert post("/en/gradio_api/upload", body=[b"x" * most]) == 200
    assert post("/en/gradio_api/upload", 5, [b"x" * most, b"x", b"y"]) == 413       # more than it said
    assert post("/cutout/a", gate.SMALL_BODY + 1) == 413


def test_no_websockets():
    sent = []

    async def send(message):
        sent.append(message)
    asyncio.run(Gate(inner)({"type": "websocket", "path": "/en/", "headers": OWN}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
