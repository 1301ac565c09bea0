"""A file of web addresses, one a line: each is downloaded by a worker and read by its kind."""

import json
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urldefrag, urlsplit

from components.config import Field, InputPath, UserError
from components.data import readers
from components.data.records import Document
from components.data.sources import SourceConfig, Unreadable
from components.data.sources._encodings import Encoding

_AGENT = "raylign (build_index)"
_MAX_REDIRECTS = 5
_BUSY = {429, 502, 503, 504}
_GONE = {404, 410}
_LONGEST_WAIT_S = 30.0


class Urls(SourceConfig):
    """Documents behind web addresses."""

    name: Literal["urls"]
    path: InputPath = Field(
        description="file of http(s) addresses, one a line, # begins a comment; pages that changed: --force"
    )
    timeout_s: float = Field(30.0, gt=0, description="seconds for one address, all of it, but not for tries after that")
    tries: int = Field(3, ge=1, description="times that an address is asked when its server is busy or does not answer")
    pause_s: float = Field(1.0, ge=0, description="seconds before asking again, doubled each time")
    max_file_mb: int = Field(16, ge=1, description="largest document that is downloaded")
    encoding: Encoding = Field(
        None, description="encoding of text that is not UTF-8 and whose server does not say; none refuses it"
    )


def urls(config: Urls) -> list[dict[str, Any]]:
    """Return a part for each address; nothing is downloaded here.

    Raises:
        UserError: the file is missing, has no addresses, or a line is none.
    """
    path = Path(config.path).expanduser()
    if not path.is_file():
        what = "is a folder: name one file" if path.exists() else "does not exist"
        raise UserError(f"source.path names {config.path}, which {what}")
    found: dict[str, None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        address = line.strip()
        if not address or address.startswith("#"):
            continue
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise UserError(f"{config.path}, line {number}: '{address}' is no http:// or https:// address")
        found[urldefrag(address).url] = None
    if not found:
        raise UserError(f"source.path names {config.path}, which holds no addresses: write one a line")
    options = config.model_dump(exclude={"name", "corpus", "path"})
    return [{"doc_id": address, **options} for address in found]


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield the document behind one address."""
    data, suffix, declared, date = _download(part)
    parsed = readers.parse(data, suffix, declared or part["encoding"])
    split = urlsplit(part["doc_id"])
    yield Document(
        doc_id=part["doc_id"],
        text=parsed.text,
        source=part["doc_id"],
        title=parsed.title or unquote(PurePosixPath(split.path).stem) or str(split.hostname),
        group=str(split.hostname),
        metadata=json.dumps(parsed.facts),
        date=parsed.date or date,
        form=parsed.form,
        pages=parsed.pages,
    )


def _download(part: dict[str, Any]) -> tuple[bytes, str, str | None, str | None]:
    """Return (bytes, kind, encoding that the server names, date); ask again where that may help."""
    import httpx

    pause_s = part["pause_s"]
    headers = {"user-agent": _AGENT, "accept": ", ".join(readers.MEDIA_TYPES)}
    with httpx.Client(
        follow_redirects=True, max_redirects=_MAX_REDIRECTS, timeout=part["timeout_s"], headers=headers
    ) as client:
        for tries_left in reversed(range(part["tries"])):
            try:
                return _ask(client, part)
            except _AskAgain as error:
                if not tries_left:
                    raise Unreadable(f"{error}, {part['tries']} times") from error
                time.sleep(min(max(error.wait_s, pause_s), _LONGEST_WAIT_S))
                pause_s *= 2
            except httpx.TooManyRedirects as error:
                raise Unreadable(f"it redirects more than {_MAX_REDIRECTS} times") from error
            except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict) as error:
                raise Unreadable(f"it cannot be downloaded ({type(error).__name__}: {error})") from error
    raise AssertionError("unreachable: the last try raises")


class _AskAgain(Exception):
    """The server may answer later."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _ask(client: Any, part: dict[str, Any]) -> tuple[bytes, str, str | None, str | None]:
    import httpx

    ends_s = time.monotonic() + part["timeout_s"]
    try:
        with client.stream("GET", part["doc_id"]) as reply:
            if reply.status_code in _BUSY:
                wait = reply.headers.get("retry-after", "")
                raise _AskAgain(f"the server answers {reply.status_code} {reply.reason_phrase}", _seconds(wait))
            if reply.status_code != 200:
                kind = readers.Gone if reply.status_code in _GONE else Unreadable
                raise kind(f"the server answers {reply.status_code} {reply.reason_phrase}".strip())
            suffix = _kind(reply, str(reply.url))
            data = _body(reply, part, ends_s)
            date = readers.iso_date(reply.headers.get("last-modified"))
            return data, suffix, _charset(reply), date
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise _AskAgain(f"the server does not answer ({type(error).__name__}: {error})".replace(": )", ")")) from error


def _body(reply: Any, part: dict[str, Any], ends_s: float) -> bytes:
    """Return what is sent, unpacked; never more than the limit is kept, whatever the server announces."""
    announced = reply.headers.get("content-length", "")
    if announced.isdigit() and (reason := readers.too_large(int(announced), part["max_file_mb"])):
        raise Unreadable(reason)
    data = bytearray()
    for block in reply.iter_bytes():
        data += block
        if len(data) > part["max_file_mb"] * 2**20:
            raise Unreadable(f"it is larger than {part['max_file_mb']} MiB: raise source.max_file_mb")
        if time.monotonic() > ends_s:
            raise _AskAgain(f"the server takes longer than {part['timeout_s']:g} s")
    return bytes(data)


def _kind(reply: Any, address: str) -> str:
    media = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media in readers.MEDIA_TYPES:
        by_name = readers.suffix_of(urlsplit(address).path)
        return by_name if media == "text/plain" and by_name == ".md" else readers.MEDIA_TYPES[media]
    if media in ("", "application/octet-stream", "binary/octet-stream"):
        return readers.suffix_of(urlsplit(address).path)  # the server does not know either
    raise Unreadable(f"it is of the kind {media}: we read {', '.join(readers.MEDIA_TYPES)}")


def _charset(reply: Any) -> str | None:
    """Return the encoding that the server names, None if it names none that there is."""
    import codecs

    name = reply.charset_encoding
    try:
        return codecs.lookup(name).name if name else None
    except LookupError:
        return None


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdigit() else 0.0
