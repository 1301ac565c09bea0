"""Web pages: their main text as markdown, without menus, scripts and comments."""

import codecs
import re

from components.data.readers import Parsed, iso_date
from components.data.readers.text import decode, title_of

_DATES = (
    "//meta[@property='article:modified_time']/@content",
    "//meta[@property='article:published_time']/@content",
    "//meta[@name='date' or @name='dcterms.modified' or @name='dcterms.date' or @name='last-modified']/@content",
    "//time/@datetime",
)
_META = re.compile(rb"<meta\b[^>]*>", re.IGNORECASE)
_CHARSET = re.compile(rb"""\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_PRESCAN_BYTES = 1024  # within which a page has to say it
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}


def read_html(data: bytes, encoding: str | None = None) -> Parsed:
    """Return a page's text.

    What the page or its server says of its encoding is not believed where the bytes are UTF-8.

    Args:
        encoding: what the server says, or the source's settings; without it the page's own word is taken.

    Raises:
        Unreadable: it is no text.
    """
    import trafilatura
    from lxml import html

    page = decode(data, encoding or _declared(data))
    if not page.strip():
        return Parsed("")
    text = trafilatura.extract(
        page, output_format="markdown", include_formatting=True, include_comments=False, favor_recall=True
    ) or trafilatura.html2txt(page)  # all of a page that has no main part
    tree = html.fromstring(page.encode(), parser=html.HTMLParser(encoding="utf-8"))
    dates = (iso_date(str(found)) for path in _DATES for found in tree.xpath(path))
    title = title_of(text) or " ".join((tree.findtext(".//title") or "").split())
    return Parsed(text, title, next((date for date in dates if date), None), form="markdown")


def _declared(data: bytes) -> str | None:
    """Return the encoding that the page's ``meta`` names; none where it names none, or one that it cannot be in.

    Source: WHATWG, HTML, "prescan a byte stream to determine its encoding", and its Encoding Standard for what pages
    mean by Latin-1, ASCII and GB 2312.
    """
    for tag in _META.findall(data[:_PRESCAN_BYTES]):
        found = _CHARSET.search(tag)
        if found is None or (b"content" in tag.lower() and b"http-equiv" not in tag.lower()):
            continue
        try:
            name = codecs.lookup(found[1].decode()).name
            b"0000".decode(name)  # some codecs are no encodings of text
        except (LookupError, UnicodeError):
            return None
        is_wide = name.startswith(("utf-16", "utf-32"))  # then the tag itself would not have been found
        return None if is_wide else _MEANT.get(name, name)
    return None
