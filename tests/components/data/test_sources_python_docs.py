"""The running Python's own documentation as a corpus."""

import json
import os
import time
from collections import Counter

import pytest

from components.config import UserError
from components.data.records import Document
from components.data.sources import Unreadable, list_parts, read_part
from components.data.sources.python_docs import PythonDocs


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    started = time.monotonic()
    found = []
    for part in list_parts(PythonDocs(name="python_docs")):
        try:
            found += read_part("python_docs", part)
        except Unreadable as error:
            assert "Error" in str(error)
    assert time.monotonic() - started < 15
    return found


def test_it_is_large_and_says_nothing_twice(documents: list[Document]) -> None:
    assert len(documents) >= 1500
    assert not [name for name, times in Counter(d.doc_id for d in documents).items() if times > 1]
    said = Counter(" ".join(d.text.partition("\n\n")[2].split()) for d in documents)
    assert said.most_common(1)[0][1] == 1


def test_a_function_a_method_a_class_and_a_module_are_named_as_people_call_them(documents: list[Document]) -> None:
    by_name = {document.symbol: document for document in documents}
    join = by_name["os.path.join"]
    assert join.text.startswith("os.path.join(a, *p)\n\nJoin two or more pathname components")
    assert (join.title, join.group, join.doc_id) == ("os.path.join", "os.path", "os.path.join")
    assert by_name["str.join"].text.startswith("str.join(self, iterable, /)\n\nConcatenate")
    assert by_name["str.join"].group == "builtins"
    kinds = {name: json.loads(by_name[name].metadata)["kind"] for name in ("str.join", "os.path.join", "textwrap")}
    assert kinds == {"str.join": "method", "os.path.join": "function", "textwrap": "module"}
    assert "asyncio.Queue.get_nowait" in by_name and "asyncio.queues.Queue.get_nowait" not in by_name
    assert not {name.partition(".")[0] for name in by_name} & {"posixpath", "test", "tkinter", "idlelib", "antigravity"}


def test_a_signature_that_only_the_docstring_tells_is_not_told_twice(documents: list[Document]) -> None:
    text = next(document.text for document in documents if document.symbol == "time.mktime")
    assert text.startswith("time.mktime(tuple) -> floating point number\n\nConvert")


def test_the_text_tells_nothing_of_this_machine_and_is_the_same_each_time(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLIGN_SECRET", "xyzzy-plugh")
    parts = list_parts(PythonDocs(name="python_docs"))
    again = [d for part in parts if "records" in part for d in read_part("python_docs", part)]
    assert again == documents
    everything = "\n".join(document.text for document in documents)
    assert "xyzzy-plugh" not in everything and os.environ["PATH"] not in everything
    assert " at 0x" not in everything


def test_some_modules_only(documents: list[Document]) -> None:
    parts = list_parts(PythonDocs(name="python_docs", modules=["json", "textwrap"]))
    assert {part["doc_id"].partition(".")[0] for part in parts} == {"json", "textwrap"}


@pytest.mark.parametrize(
    ("config", "says"),
    [({"modules": ["numpy"]}, "'numpy', which is not a module"), ({"python": "2.7.18"}, "asks for 2.7.18, but this")],
)
def test_what_cannot_be_read_is_refused(config: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        list_parts(PythonDocs(name="python_docs", **config))


def test_a_module_that_this_machine_lacks_is_reported() -> None:
    (part,) = [p for p in list_parts(PythonDocs(name="python_docs", modules=["json", "winreg"])) if "error" in p]
    with pytest.raises(Unreadable, match="No module named 'winreg'"):
        list(read_part("python_docs", part))
