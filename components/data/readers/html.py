"""Web pages: their main text as markdown, without menus, scripts and comments."""

from components.data.readers import Parsed, iso_date
from components.data.readers.text import decode, title_of

_DATES = (
    "//meta[@property='article:modified_time']/@content",
    "//meta[@property='article:published_time']/@content",
    "//meta[@name='date' or @name='dcterms.modified' or @name='dcterms.date' or @name='last-modified']/@content",
    "//time/@datetime",
)


def read_html(data: bytes, encoding: str | None = None) -> Parsed:
    """Return a page's text.

    What the page or its server says of its encoding is not believed where the bytes are UTF-8.

    Raises:
        Unreadable: it is no text.
    """
    import trafilatura
    from lxml import html

    page = decode(data, encoding)
    if not page.strip():
        return Parsed("")
    text = trafilatura.extract(
        page, output_format="markdown", include_formatting=True, include_comments=False, favor_recall=True
    ) or trafilatura.html2txt(page)  # all of a page that has no main part
    tree = html.fromstring(page.encode(), parser=html.HTMLParser(encoding="utf-8"))
    dates = (iso_date(str(found)) for path in _DATES for found in tree.xpath(path))
    title = title_of(text) or " ".join((tree.findtext(".//title") or "").split())
    return Parsed(text, title, next((date for date in dates if date), None), form="markdown")
