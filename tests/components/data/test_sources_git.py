"""Real git repositories as corpora: files by pattern at a commit, with what changed them last."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from components.config import UserError, parse
from components.data.sources import Unreadable, list_parts, read_part
from components.data.sources.git import Git


def _git(folder: Path, *arguments: str, day: int = 1) -> str:
    when = f"2026-03-0{day}T10:00:00+01:00"
    who = {f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", "-C", str(folder), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits; a link, a binary file, a file in a folder, and one that is not committed."""
    folder = tmp_path / "repository"
    (folder / "docs").mkdir(parents=True)
    _git(tmp_path, "init", "-q", "-b", "main", str(folder))
    (folder / "README.md").write_text("# Project\n\nIt does things.\n")
    (folder / "docs" / "üse it.md").write_text("Use it.")
    (folder / "tool.py").write_text("def tool():\n    return 1\n")
    (folder / "binary.md").write_bytes(b"a\0b")
    (folder / "link.md").symlink_to("/etc/passwd")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "first")
    (folder / "README.md").write_text("# Project\n\nIt does more.\n")
    _git(folder, "commit", "-q", "-a", "-m", "second", day=2)
    (folder / "untracked.md").write_text("not committed")
    (folder / "README.md").write_text("not committed either")
    return folder


def _read(parts: list[dict]) -> dict[str, object]:
    found: dict[str, object] = {}
    for part in parts:
        try:
            (found[part["doc_id"]],) = read_part("git", part)
        except Unreadable as error:
            found[part["doc_id"]] = str(error)
    return found


def test_committed_files_come_with_path_commit_and_date(repository: Path) -> None:
    found = _read(list_parts(Git(name="git", path=str(repository))))
    assert list(found) == ["README.md", "binary.md", "docs/üse it.md", "link.md"]
    assert "link" in found["link.md"] and "zero bytes" in found["binary.md"]  # type: ignore[operator]
    readme, other = found["README.md"], found["docs/üse it.md"]
    assert (readme.text, readme.title, readme.form) == ("# Project\n\nIt does more.\n", "Project", "markdown")  # type: ignore[attr-defined]
    assert (readme.date, other.date) == ("2026-03-02T09:00:00Z", "2026-03-01T09:00:00Z")  # type: ignore[attr-defined]
    facts = [json.loads(document.metadata) for document in (readme, other)]  # type: ignore[attr-defined]
    assert facts[0] == {"path": "README.md", "commit": _git(repository, "rev-parse", "HEAD")}
    assert facts[1]["commit"] == _git(repository, "rev-parse", "HEAD~1")
    assert (other.group, other.title) == ("docs", "üse it.md")  # type: ignore[attr-defined]


def test_patterns_and_revisions_choose(repository: Path) -> None:
    parts = list_parts(Git(name="git", path=str(repository), patterns=["*.py", "docs/*"], exclude=["*se it*"]))
    assert list(_read(parts)) == ["tool.py"]
    old = _read(list_parts(Git(name="git", path=str(repository), revision="HEAD~1", patterns=["README.md"])))
    assert "things" in old["README.md"].text  # type: ignore[attr-defined]
    (large,) = list_parts(Git(name="git", path=str(repository), patterns=["tool.py"], max_file_mb=1))
    assert "error" not in large


def test_an_address_is_cloned_and_brought_up_to_date(repository: Path, tmp_path: Path) -> None:
    config = Git(name="git", url=f"file://{repository}", clones=str(tmp_path / "clones"), patterns=["*.md"])
    assert "more" in _read(list_parts(config))["README.md"].text  # type: ignore[attr-defined]
    _git(repository, "commit", "-q", "-a", "-m", "third", day=3)
    found = _read(list_parts(config))
    assert found["README.md"].text == "not committed either"  # type: ignore[attr-defined]
    assert config.corpus_name() == f"git:file://{repository}"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "either path.* or url"),
        ({"path": "x", "url": "https://x/y"}, "either path.* or url"),
        ({"url": "ext::sh -c touch% /tmp/x"}, "give https://"),
        ({"url": "--upload-pack=x"}, "give https://"),
        ({"path": "x", "revision": "--all"}, "give a commit, a branch or a tag"),
    ],
)
def test_a_wrong_place_is_refused(values: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(Git, {"name": "git", **values})


def test_what_is_no_repository_is_refused_in_gits_words(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match="not a git repository"):
        list_parts(Git(name="git", path=str(tmp_path / "plain")))
    with pytest.raises(UserError, match=r"rev-parse of .* failed"):
        list_parts(Git(name="git", path=str(repository), revision="nowhere"))
    with pytest.raises(UserError, match=r"matches \*\.xyz: change patterns"):
        list_parts(Git(name="git", path=str(repository), patterns=["*.xyz"]))
    with pytest.raises(UserError, match=r"clone of .* failed"):
        list_parts(Git(name="git", url=f"file://{tmp_path}/nowhere", clones=str(tmp_path / "clones")))
