"""Files in parts give what they give at once: the same rows, reasons, demonstrations and figures."""

import gzip
import json
import random
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from components.config import UserError, parse
from components.data import build, large_files, store
from components.data.clean import CleanConfig
from components.data.row_files import Piece, file_rows, piece_rows, pieces

WORDS = "sea ferry island morning bread iron moss bees silk jazz salt rain chess lime road stone"

PHRASE = "this is something that nobody here can really help anybody with"


def written(path: Path, rows: list[dict]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def many(count: int, seed: int) -> list[dict]:
    """Pairs of which some are empty, repeated, in both orders, the same but for case, or show a test pair's answer."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        prompt, chosen, rejected = (" ".join(draw.choices(WORDS.split(), k=12)) for _ in range(3))
        rows.append({"prompt": f"{prompt} {number % 97}?", "chosen": chosen, "rejected": rejected})
    for row in draw.sample(rows, count // 10):
        rows.append({**row, "chosen": row["rejected"], "rejected": row["chosen"]})
        rows.append({**draw.choice(rows), "rejected": ""})
        rows.append({**draw.choice(rows), "chosen_score": 0.7})
        rows.append({**row, "chosen": row["chosen"].upper()})
        rows.append({**draw.choice(rows), "prompt": row["prompt"].title()})
        rows.append({**row, "prompt": f"About this: {row['chosen']} {row['prompt']}"})
    for row in draw.sample(rows, count // 10):
        row["votes"] = {"ann": "chosen", "bob": draw.choice(["chosen", "rejected", "tie"])}
    for row in draw.sample(rows, count // 20):
        row["rejected"] = PHRASE
    draw.shuffle(rows)
    return rows


def config(**sections) -> CleanConfig:
    near = {"duplicates": {"near": False}, "decontaminate": {"near": False}}
    return parse(CleanConfig, near | sections)


def by_id(ref: str) -> dict[str, dict]:
    rows = store.read(ref)
    return {row.get("pair_id", row["prompt_id"]): row for row in rows}


def test_pieces_of_a_file_hold_its_lines_once_each(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [{"n": n, "text": "x" * (n % 7)} for n in range(1000)])
    path.write_bytes(path.read_bytes() + b'\n{"n": 1000}')  # an empty line, and a last one without its end
    whole = list(file_rows(path))
    (piece,) = pieces(path)
    assert list(piece_rows(piece)) == whole and piece.size == 1002
    assert len(whole) == 1001 and whole[-1][0] == f"{path} line 1002"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b'{"n": 500}'])
def test_a_piece_in_the_middle_begins_and_ends_at_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes, last: bytes
) -> None:
    monkeypatch.setattr("components.data.row_files._READ_BYTES", 100)
    path = written(tmp_path / "p.jsonl", [{"n": n, "text": "é" * (n % 50)} for n in range(500)])
    path.write_bytes(path.read_bytes().replace(b"\n", end) + last)
    whole = list(file_rows(path))
    for size in (1, 100, 101, 1000):
        parts = pieces(path, size)
        assert len(parts) > 10 and [piece.before for piece in parts[:2]] == [0, parts[0].size]
        assert [found for piece in parts for found in piece_rows(piece)] == whole
        assert sum(piece.size or 0 for piece in parts) == len(whole) == 500 + bool(last)


def test_row_groups_are_pieces(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": list(range(25))}), tmp_path / "p.parquet", row_group_size=10)
    parts = pieces(tmp_path / "p.parquet")
    assert [piece.size for piece in parts] == [10, 10, 5]
    assert [found for piece in parts for found in piece_rows(piece)] == list(file_rows(tmp_path / "p.parquet"))
    assert pieces(written(tmp_path / "p.jsonl.gz", [{}])) == [Piece(str(tmp_path / "p.jsonl.gz"))]


@pytest.mark.timeout(280)
def test_parts_give_what_one_go_gives(ray_cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.row_files._READ_BYTES", 20_000)
    monkeypatch.setattr(large_files, "pieces", lambda path: pieces(path, 60_000))
    files = {
        "forum": written(tmp_path / "forum.jsonl", many(1500, 1)),
        "staff": written(tmp_path / "staff.jsonl.gz", many(800, 2) + many(1500, 1)[:50]),
    }
    settings = config(conflicts={"policy": "majority"}, mix={"forum": 3, "staff": 1}, lengths={"max_ratio": 1.3})
    at_once = build.write_files(
        str(tmp_path / "once"), files, 0.2, build.Cleaning(settings, lambda: pytest.fail("no vectors"), "salt")
    )
    job = large_files.Job(5, settings, 0.2, "salt", str(tmp_path / "parts" / "scratch"))
    in_parts = large_files.write_files(str(tmp_path / "parts"), files, job, nullcontext)
    for table in ("preferences", "dropped", "demonstrations"):
        assert by_id(in_parts.tables[table]) == by_id(at_once.tables[table])
    assert store.count(in_parts.tables["preferences"]) == store.count(at_once.tables["preferences"]) > 500
    assert in_parts.figures == at_once.figures
    reasons = {row["reason"] for row in store.read(in_parts.tables["dropped"])}
    assert reasons >= {"conflict", "duplicate", "contaminated_words", "length_ratio", "mix"}
    assert in_parts.figures["found/common_answers"] > 0 and in_parts.figures["card/voted"] > 0
    assert in_parts.card | {"table": ""} == at_once.card | {"table": ""}
    assert in_parts.left_out == at_once.left_out
    assert not (tmp_path / "parts" / "scratch").exists()


def test_a_malformed_line_is_named_and_nothing_is_left_behind(ray_cluster, tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [*many(50, 3), {"prompt": "a", "chosen": "b"}])
    job = large_files.Job(3, config(), 0.0, "", str(tmp_path / "db" / "scratch"))
    with pytest.raises(UserError) as raised:
        large_files.write_files(str(tmp_path / "db"), {"p": path}, job, nullcontext)
    assert str(raised.value) == f"{path} line 81: the key 'rejected' is missing; it has chosen, prompt"
    assert not (tmp_path / "db" / "scratch").exists()


def test_what_cannot_be_done_in_parts_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", many(50, 3))
    near = large_files.Job(3, CleanConfig(), 0.0, "", "scratch")
    with pytest.raises(UserError, match=r"clean\.duplicates\.near=false"):
        large_files.write_files(str(tmp_path / "db"), {"p": path}, near, _never)
    job = large_files.Job(3, config(), 0.1, "", "scratch")
    crowded = replace(job, test_share=0.9)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="make file_test_share smaller"):
        patch.setattr(large_files, "MOST_EVALUATED", 20)
        large_files.write_files(str(tmp_path / "db"), {"p": path}, crowded, _never)
    empty = written(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match=r"empty\.jsonl holds no rows"):
        large_files.write_files(str(tmp_path / "db"), {"p": path, "empty": empty}, job, _never)
    tabled = config(decontaminate={"near": False, "tables": [f"{tmp_path}#none"]})
    with pytest.raises(UserError, match="there is no table 'none'"):
        large_files.write_files(str(tmp_path / "db"), {"p": path}, replace(job, config=tabled), _never)
    assert not (tmp_path / "db").exists()


def _never():
    raise AssertionError("Ray was asked for")
