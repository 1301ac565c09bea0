"""A real LanceDB on disk: versions, upserts, nested rows, and what each wrong input says."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.config import UserError
from components.data import search, store
from components.data.records import PREFERENCE, QUESTION, passage_schema

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), 2))])


def _rows(*texts: str) -> list[dict]:
    return [
        {"id": str(number), "text": text, "vector": [np.cos(number), np.sin(number)]}
        for number, text in enumerate(texts)
    ]


def _message(content: str) -> dict:
    return {"role": "user", "content": content}


def _pair(pair_id: str, content: str) -> dict:
    texts = dict.fromkeys(("prompt_id", "kind", "source", "split"), "x")
    messages = {name: [_message(content), _message("…")] for name in ("prompt", "chosen", "rejected")}
    return {"pair_id": pair_id, **texts, **messages, "chosen_score": 0.1, "rejected_score": -2.0, "votes": None}


def test_a_reference_is_taken_apart_and_put_together(tmp_path: Path) -> None:
    assert store.parse_ref("s3://bucket/a#b#questions@12") == ("s3://bucket/a#b", "questions", 12)
    assert store.parse_ref("artifacts/lancedb#questions") == ("artifacts/lancedb", "questions", None)
    assert store.make_ref("s3://bucket/db", "t", 3) == "s3://bucket/db#t@3"
    assert store.make_ref(str(tmp_path), "t") == f"{tmp_path}#t"


@pytest.mark.parametrize("ref", ["", "folder", "folder#", "#table", "folder#table@", "folder#t@latest", "folder#t@0"])
def test_a_wrong_reference_is_refused(ref: str) -> None:
    with pytest.raises(UserError):
        store.parse_ref(ref)


def test_rows_with_lists_of_messages_come_back_as_they_went_in(tmp_path: Path) -> None:
    rows = [_pair("a", 'it\'s "quoted", 😀\n'), _pair("b", "")]
    ref = store.write(str(tmp_path), "preferences", rows, schema=PREFERENCE, key="pair_id")
    assert store.read(ref) == rows
    assert type(store.read(ref)[0]["prompt"]) is list
    assert type(store.read(ref)[0]["prompt"][0]) is dict


def test_upsert_replaces_rows_of_the_same_key_and_keeps_the_others(tmp_path: Path) -> None:
    first = store.write(str(tmp_path), "t", _rows("a", "b"), schema=SCHEMA, key="id")
    changed = {**_rows("b")[0], "text": "new"}  # has id 0
    second = store.write(str(tmp_path), "t", [changed], schema=SCHEMA, key="id")
    assert {row["id"]: row["text"] for row in store.read(second)} == {"0": "new", "1": "b"}
    assert {row["id"]: row["text"] for row in store.read(first)} == {"0": "a", "1": "b"}


def test_of_two_rows_with_one_key_the_last_wins(tmp_path: Path) -> None:
    rows = [{**_rows("x")[0], "text": text} for text in ("early", "late")]
    ref = store.write(str(tmp_path), "t", rows, schema=SCHEMA, key="id")
    assert [row["text"] for row in store.read(ref)] == ["late"]


def test_without_a_key_rows_are_appended(tmp_path: Path) -> None:
    store.write(str(tmp_path), "t", _rows("a"), schema=SCHEMA, key=None)
    assert store.count(store.write(str(tmp_path), "t", _rows("a"), schema=SCHEMA, key=None)) == 2


def test_a_pinned_version_survives_overwriting_with_other_columns(tmp_path: Path) -> None:
    old = store.write(str(tmp_path), "t", _rows("a"), schema=SCHEMA, key="id")
    new = store.overwrite(str(tmp_path), "t", [{"n": 1}], pa.schema([("n", pa.int64())]))
    assert store.read(new) == [{"n": 1}]
    assert store.read(old, columns=["text"]) == [{"text": "a"}]
    assert store.pin(f"{tmp_path}#t") == new


def test_an_empty_write_makes_an_empty_table_that_can_be_read_and_searched(tmp_path: Path) -> None:
    ref = store.write(str(tmp_path), "t", [], schema=SCHEMA, key="id")
    assert store.read(ref) == [] and store.count(ref) == 0
    assert search.search_vector(ref, [1.0, 0.0], 3) == []
    with pytest.raises(UserError, match="has no rows"):
        store.read(ref, require=True)


def test_where_and_columns_select(tmp_path: Path) -> None:
    ref = store.write(str(tmp_path), "t", _rows("it's", "b", "c"), schema=SCHEMA, key="id")
    assert store.read(ref, columns=["id"], where=f"text = {store.quote(chr(39).join(['it', 's']))}") == [{"id": "0"}]
    assert store.count(ref, "id IN ('1', '2')") == 2
    with pytest.raises(UserError, match="has no rows where"):
        store.read(ref, where="id = '9'", require=True)
    for wrong in ("nonsense = 1", "id ="):
        with pytest.raises(UserError):
            store.read(ref, where=wrong)
        with pytest.raises(UserError):
            store.count(ref, wrong)
    with pytest.raises(UserError, match="no column 'txt'"):
        store.read(ref, columns=["txt"])


def test_what_is_missing_is_named_and_reading_makes_no_folder(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(UserError, match="no table 'questions'"):
        store.read(f"{absent}#questions")
    assert not absent.exists()
    store.write(str(tmp_path), "t", _rows("a"), schema=SCHEMA, key="id")
    with pytest.raises(UserError, match="no version 99"):
        store.read(f"{tmp_path}#t@99")
    assert store.exists(f"{tmp_path}#t") and not store.exists(f"{tmp_path}#u")


def test_rows_that_do_not_fit_the_schema_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    extra = _pair("a", "x")
    extra["prompt"][0]["tool"] = "y"
    for rows, says in (
        ([extra], "'tool'"),
        ([{"pair_id": "a"}], "lacks the column"),
        ([_pair("a", "") | {"z": 1}], "'z'"),
    ):
        with pytest.raises(ValueError, match=says):
            store.write(str(tmp_path), "preferences", rows, schema=PREFERENCE, key="pair_id")
    assert not store.exists(f"{tmp_path}#preferences")


def test_a_table_of_another_shape_is_not_written_to(tmp_path: Path) -> None:
    store.write(str(tmp_path), "t", _rows("a"), schema=SCHEMA, key="id")
    with pytest.raises(UserError, match="exists with other columns"):
        store.write(str(tmp_path), "t", [], schema=QUESTION, key="prompt_id")
    wider = SCHEMA.set(2, pa.field("vector", pa.list_(pa.float32(), 3)))
    with pytest.raises(UserError, match="vector"):
        store.write(str(tmp_path), "t", [], schema=wider, key="id")


def test_delete_leaves_earlier_versions(tmp_path: Path) -> None:
    before = store.write(str(tmp_path), "t", _rows(*"abcd"), schema=SCHEMA, key="id")
    after = store.delete(str(tmp_path), "t", "id", ["0", "3", "not there"])
    assert sorted(row["id"] for row in store.read(after)) == ["1", "2"]
    assert store.count(before) == 4


def test_columns_named_like_sql_words_can_be_selected_by(tmp_path: Path) -> None:
    row = dict.fromkeys(passage_schema(2).names, "g") | {"start": 0, "end": 1, "n_tokens": 1, "vector": [1.0, 0.0]}
    ref = store.write(str(tmp_path), "passages", [row], schema=passage_schema(2), key="passage_id")
    assert store.count(ref, "group = 'g' AND `end` = 1") == 1
