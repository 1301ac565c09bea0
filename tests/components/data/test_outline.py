"""Headings of markdown, and what stands under them."""

from components.data.outline import Outline, headings, paths

TEXT = (
    "Before.\r\n\r\n# Install #\r\ntext\n\n## On a `server`\n\n```\n# a comment\n```\n> # quoted\n\n"
    "Setext\n------\n\n#### Deep\n\n#no heading\n\n# Use\n"
)


def test_headings_are_those_of_commonmark() -> None:
    found = headings(TEXT)
    assert [(heading.level, heading.title) for heading in found] == [
        (1, "Install"),
        (2, "On a `server`"),
        (2, "Setext"),
        (4, "Deep"),
        (1, "Use"),
    ]
    assert all(TEXT[heading.start :].startswith(("# ", "## ", "#### ", "Setext")) for heading in found)
    assert headings("no headings, - and = apart") == headings("") == []


def test_a_section_is_the_path_of_headings_above() -> None:
    assert paths(headings(TEXT)) == [
        "Install",
        "Install > On a `server`",
        "Install > Setext",
        "Install > Setext > Deep",
        "Use",
    ]
    outline = Outline(TEXT)
    assert outline.section(0) is None
    assert outline.section(TEXT.index("a comment")) == "Install > On a `server`"
    assert outline.section(TEXT.index("# Use")) == "Use"


def test_a_title_of_a_megabyte_is_cut() -> None:
    (heading,) = headings("# " + "long " * 200_000)
    assert len(heading.title) == 100 and heading.title.endswith("…")
