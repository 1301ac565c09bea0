"""Web addresses as a corpus, from a real HTTP server that behaves and misbehaves."""

import gzip
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from components.config import UserError
from components.data.records import Document
from components.data.sources import Unreadable, list_parts, read_part
from components.data.sources.urls import Urls

PAGE = b"<html><head><title>Tea</title></head><body><main><p>Green tea needs eighty degrees.</p></main></body></html>"


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[Counter] = Counter()

    def do_GET(self) -> None:
        Handler.asked[self.path] += 1
        answer = getattr(self, "on_" + self.path.strip("/").partition(".")[0].replace("-", "_"), None)
        if answer is None:
            self._send(404, "text/html", b"<p>nothing here</p>")
        else:
            answer()

    def on_page(self) -> None:
        self._send(200, "text/html; charset=utf-8", PAGE, {"Last-Modified": "Sun, 01 Mar 2026 09:30:00 GMT"})

    def on_latin(self) -> None:
        self._send(200, "text/plain; charset=ISO-8859-1", "Möwe".encode("latin-1"))

    def on_notes(self) -> None:
        self._send(200, "text/plain", b"# Notes\n\nOf tea.")

    def on_blob(self) -> None:
        self._send(200, "application/octet-stream", b"plain words")

    def on_image(self) -> None:
        self._send(200, "image/png", b"\x89PNG")

    def on_busy_once(self) -> None:
        if Handler.asked[self.path] == 1:
            self._send(503, "text/plain", b"busy", {"Retry-After": "0"})
        else:
            self._send(200, "text/plain", b"now then")

    def on_busy(self) -> None:
        self._send(429, "text/plain", b"busy")

    def on_loop(self) -> None:
        self._send(302, "text/plain", b"", {"Location": "/loop"})

    def on_file(self) -> None:
        self._send(302, "text/plain", b"", {"Location": "file:///etc/passwd"})

    def on_large(self) -> None:
        self._send(200, "text/plain", b"x", {"Content-Length": str(10**9)})

    def on_bomb(self) -> None:
        self._send(200, "text/plain", gzip.compress(b"x" * 5_000_000), {"Content-Encoding": "gzip"})

    def on_slow(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.end_headers()
        for _ in range(300):  # each byte comes in time, all of them do not
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def on_empty(self) -> None:
        self._send(200, "text/plain", b"")

    def _send(self, code: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _read(tmp_path: Path, address: str, **options: object) -> Document:
    listed = tmp_path / "urls.txt"
    listed.write_text(address)
    values = {"name": "urls", "path": str(listed), "pause_s": 0, "tries": 2, "timeout_s": 2, **options}
    (part,) = list_parts(Urls(**values))
    (document,) = read_part("urls", part)
    return document


def test_a_page_keeps_its_address_title_and_date(address: str, tmp_path: Path) -> None:
    found = _read(tmp_path, f"{address}/page#part")
    assert "eighty degrees" in found.text and "<" not in found.text
    assert (found.doc_id, found.source, found.title, found.group) == (
        f"{address}/page", f"{address}/page", "Tea", "127.0.0.1",
    )  # fmt: skip
    assert (found.date, found.form) == ("2026-03-01T09:30:00Z", "markdown")


def test_kinds_and_encodings_are_as_the_server_says_or_else_the_name(address: str, tmp_path: Path) -> None:
    assert _read(tmp_path, f"{address}/latin").text == "Möwe"
    assert _read(tmp_path, f"{address}/notes.md").title == "Notes"
    assert _read(tmp_path, f"{address}/blob.txt").text == "plain words"


def test_a_busy_server_is_asked_again(address: str, tmp_path: Path) -> None:
    assert _read(tmp_path, f"{address}/busy-once").text == "now then"
    Handler.asked.clear()
    with pytest.raises(Unreadable, match="answers 429 Too Many Requests, 2 times"):
        _read(tmp_path, f"{address}/busy")
    assert Handler.asked["/busy"] == 2


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/missing", "answers 404 Not Found"),
        ("/image", "of the kind image/png"),
        ("/blob", "kind '' are not read"),
        ("/loop", "redirects more than 5 times"),
        ("/file", "cannot be downloaded"),
        ("/large", "it has 954 MiB"),
        ("/bomb", "larger than 1 MiB"),
        ("/empty", "no text"),
    ],
)
def test_what_cannot_be_read_says_why_and_is_asked_once(address: str, tmp_path: Path, path: str, says: str) -> None:
    Handler.asked.clear()
    with pytest.raises(Unreadable, match=says):
        _read(tmp_path, address + path, max_file_mb=1)
    assert Handler.asked[path] == (6 if path == "/loop" else 1)


def test_a_server_that_drips_or_is_not_there_ends_in_time(address: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(Unreadable, match=r"takes longer than 0\.5 s, 2 times"):
        _read(tmp_path, f"{address}/slow", timeout_s=0.5)
    assert time.monotonic() - started < 25  # all of it, twice, would take a minute
    with pytest.raises(Unreadable, match="does not answer"):
        _read(tmp_path, "http://127.0.0.1:9/nothing")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("# none\n\n", "holds no addresses"),
        ("https://a.b/c\nftp://a.b/c", "line 2: 'ftp://a.b/c' is no http"),
        ("file:///etc/passwd", "is no http"),
        ("http://", "is no http"),
    ],
)
def test_a_file_that_is_no_list_of_addresses_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "urls.txt").write_text(content)
    with pytest.raises(UserError, match=says):
        list_parts(Urls(name="urls", path=str(tmp_path / "urls.txt")))
    with pytest.raises(UserError, match="does not exist"):
        list_parts(Urls(name="urls", path=str(tmp_path / "nowhere.txt")))


def test_an_address_that_is_listed_twice_is_one_part(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("http://a.b/c#one\n# again\nhttp://a.b/c#two\nhttp://a.b/c?d\n")
    parts = list_parts(Urls(name="urls", path=str(tmp_path / "urls.txt")))
    assert [part["doc_id"] for part in parts] == ["http://a.b/c", "http://a.b/c?d"]
