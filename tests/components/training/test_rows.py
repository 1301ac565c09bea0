"""Rows to batches: counts from arithmetic, order from its promises."""

import pytest

from components.config import UserError
from components.training.rows import batch_order, read_rows, read_sample, read_split, steps_of, tokenize, write_rows


def convert(row):
    return {"ids": [0] * row["n"]}, row["n"]


def test_rows_that_are_too_long_are_dropped_whole_and_counted():
    found = tokenize([{"n": 3}, {"n": 9}, {"n": 5}], convert, max_tokens=5, what="t")
    assert ([len(row["ids"]) for row in found.rows], found.lengths, found.dropped) == ([3, 5], [3, 5], 1)


def test_no_rows_and_only_long_rows_are_the_users_to_know():
    with pytest.raises(UserError, match="no rows"):
        tokenize([], convert, max_tokens=5, what="t")
    with pytest.raises(UserError, match=r"longest has 9 tokens.*raise max_tokens$"):
        tokenize([{"n": 8}, {"n": 9}], convert, max_tokens=5, what="t")
    with pytest.raises(UserError, match=r"than max_prompt_tokens=5 .*raise max_prompt_tokens$"):
        tokenize([{"n": 8}], convert, max_tokens=5, what="t", limit_key="max_prompt_tokens")


@pytest.mark.parametrize(
    ("rows", "epochs", "batch", "steps"), [(100, 1, 8, 13), (100, 2, 8, 25), (99, 1, 8, 12), (3, 1, 8, 1)]
)
def test_steps_are_the_nearest_whole_number(rows, epochs, batch, steps):
    assert steps_of(rows, epochs, batch) == steps  # 12.5 -> 13, 25, 12.375 -> 12, 0.375 -> at least 1


def test_order_uses_each_row_once_a_pass_and_fills_every_batch():
    lengths = [10 + row % 7 for row in range(24)]
    order = batch_order(lengths, steps=9, batch_size=8, seed=1)
    assert len(order) == 72 and {row: order.count(row) for row in range(24)} == dict.fromkeys(range(24), 3)
    assert sorted(batch_order(lengths, steps=3, batch_size=8, seed=1)) == list(range(24))


def test_order_depends_on_the_seed_alone():
    lengths = list(range(64))
    assert batch_order(lengths, 8, 8, seed=5) == batch_order(lengths, 8, 8, seed=5)
    assert batch_order(lengths, 8, 8, seed=5) != batch_order(lengths, 8, 8, seed=6)


def test_batches_hold_rows_of_like_length():
    lengths = [(37 * row) % 256 for row in range(256)]
    order = batch_order(lengths, steps=32, batch_size=8, seed=0)
    padded = sum(8 * max(lengths[row] for row in order[at : at + 8]) for at in range(0, 256, 8))
    unsorted = sum(8 * max(lengths[row] for row in range(at, at + 8)) for at in range(0, 256, 8))
    assert padded / sum(lengths) < 1.15 < unsorted / sum(lengths)


def test_written_rows_read_back(tmp_path):
    rows = [{"input_ids": [1, 2], "score": -1.5}, {"input_ids": [3], "score": 0.0}]
    path = write_rows(rows, tmp_path / "deep" / "rows.parquet")
    assert read_rows(path).to_list() == rows
    assert [found.name for found in (tmp_path / "deep").iterdir()] == ["rows.parquet"]


def test_a_condition_chooses_among_the_rows_of_a_split(tmp_path):
    import pyarrow as pa

    from components.data import store

    schema = pa.schema([("split", pa.string()), ("round", pa.int64()), ("tokens", pa.int64())])
    known = [("train", None, 1), ("train", 1, 2), ("train", 2, 3), ("test", 2, 4)]
    rows = [dict(zip(schema.names, row, strict=True)) for row in known]
    table = store.overwrite(str(tmp_path), "t", rows, schema)

    def read(where):
        found = read_split(
            table, "train", lambda row: ({}, row["tokens"]), columns=["tokens"], max_tokens=9, where=where
        )
        return sorted(found.lengths)

    assert read(None) == [1, 2, 3] and read("round = 2") == [3]
    assert read("round = 2 or round is null") == [1, 3]  # of the split, whatever the condition is made of
    with pytest.raises(UserError, match="where round = 7 has no rows"):
        read("round = 7")
    with pytest.raises(UserError, match="cannot select"):
        read("ruond = 2")
    with pytest.raises(UserError, match="t@1 has no column 'prompt': it has split, round, tokens"):
        read_split(table, "train", lambda row: ({}, 1), columns=["prompt"], max_tokens=9)
    with pytest.raises(UserError, match="has no column 'prompt'"):
        read_sample(table, "test", lambda row: ({}, 1), columns=["prompt"], max_tokens=9, size=1, seed=0)
