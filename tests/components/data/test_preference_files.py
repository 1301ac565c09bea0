import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import UserError
from components.data.preference_files import demonstrations_of, parse_pair, read_preferences, together

PROMPT = [{"role": "user", "content": "Hello?"}]
USER, GOOD, BAD = PROMPT[0], {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}


def write(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hello?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "Yes.", "rejected": "No."},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": "\n\nHuman: Hello?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hello?\n\nAssistant: No."},
        {"prompt": "\n\nHuman: Hello?\n\nAssistant:", "chosen": " Yes.", "rejected": " No."},
        {
            "prompt": "\n\nHuman: Hello?\n\nAssistant:",
            "chosen": "\n\nHuman: Hello?\n\nAssistant: Yes.",
            "rejected": "\n\nHuman: Hello?\n\nAssistant: No.",
        },
    ],
)
def test_all_formats_say_the_same(record):
    assert parse_pair(record, "line 1") == (PROMPT, "Yes.", "No.")


def test_dialogues_keep_their_turns_and_blank_lines():
    start = "\n\nHuman: One\n\ntwo\n\nAssistant: Three\n\nHuman: Four\n\nAssistant: "
    prompt, chosen, _ = parse_pair({"chosen": start + "Five\n\nsix", "rejected": start + "Seven"}, "line 1")
    assert [m["content"] for m in prompt] == ["One\n\ntwo", "Three", "Four"]
    assert [m["role"] for m in prompt] == ["user", "assistant", "user"]
    assert chosen == "Five\n\nsix"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "no valid JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("[" * 100_000, "no JSON that can be read"),
        ('{"prompt": ' + "1" * 5000 + "}", "no JSON that can be read"),
        ('{"prompt": "a\\ud83d", "chosen": "b", "rejected": "c"}', "half of a character"),
        ({"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "expected text or a list of messages, got int"),
        ({"chosen": "b", "rejected": "c"}, "without a prompt"),
        ({"chosen": [USER, GOOD], "rejected": [BAD]}, "must share all messages but the last"),
        ({"chosen": [USER, {"role": "poet", "content": "x"}], "rejected": [USER, BAD]}, "a message needs a role"),
        ({"prompt": [USER], "chosen": [USER, USER], "rejected": [BAD]}, "one assistant message after the prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "chosen_score": "high"}, "'chosen_score' must be a number"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, row, said):
    path = write(tmp_path / "prefs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}, "", row])
    with pytest.raises(UserError, match=said) as raised:
        read_preferences(path, 0.1)
    assert f"{path} line 3" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_answer_may_begin_with_the_prompts_own_words(tmp_path):
    rows = [{"prompt": "Hello", "chosen": "Hello! How can I help you?", "rejected": "Hello there, what?"}]
    row = read_preferences(write(tmp_path / "prefs.jsonl", rows), 0.0).rows[0]
    answers = [row[side][0]["content"] for side in ("chosen", "rejected")]
    assert answers == ["Hello! How can I help you?", "Hello there, what?"]


@pytest.mark.parametrize(
    ("prompt", "between"), [("Q: 2+2?\nA:", " "), ("Add 2 and 2.\n", ""), ("What is 2+2?", "\n\n")]
)
def test_a_plain_prompt_that_both_sides_repeat_is_no_part_of_the_answers(tmp_path, prompt, between):
    rows = [{"prompt": prompt, "chosen": f"{prompt}{between}4", "rejected": f"{prompt}{between}5"}]
    row = read_preferences(write(tmp_path / "prefs.jsonl", rows), 0.0).rows[0]
    assert [row[side][0]["content"] for side in ("chosen", "rejected")] == ["4", "5"]


def test_ties_empty_answers_and_repeats_are_left_out_and_counted(tmp_path):
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": " b "},
        {"prompt": "a", "chosen": "b", "rejected": ""},
        {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]},
    ]
    found = read_preferences(write(tmp_path / "prefs.jsonl", rows), 0.0)
    assert (len(found.rows), found.repeated, found.ties, found.empty, found.diverging) == (1, 1, 1, 1, 1)
    assert found.rows[0]["split"] == "train"


@pytest.mark.parametrize("rows", [[], [{"prompt": "a", "chosen": "b", "rejected": "b"}]])
def test_a_file_without_pairs_is_refused(tmp_path, rows):
    with pytest.raises(UserError, match="it needs a prompt, a chosen and a rejected answer"):
        read_preferences(write(tmp_path / "prefs.jsonl", rows), 0.1)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no preference file"):
        read_preferences(tmp_path / "none.jsonl", 0.1)
    (tmp_path / "prefs.csv").write_text("a,b")
    with pytest.raises(UserError, match="of no kind that can be read"):
        read_preferences(tmp_path / "prefs.csv", 0.1)
    (tmp_path / "prefs.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        read_preferences(tmp_path / "prefs.parquet", 0.1)
    (tmp_path / "cut.jsonl.gz").write_bytes(
        gzip.compress(b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 999)[:-20]
    )
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz line"):
        read_preferences(tmp_path / "cut.jsonl.gz", 0.1)
    packed = bytearray(gzip.compress(bytes(range(256)) * 999))
    packed[20:40] = b"\xff" * 20
    (tmp_path / "broken.jsonl.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"broken\.jsonl\.gz line"):
        read_preferences(tmp_path / "broken.jsonl.gz", 0.1)


def test_jsonl_gzip_and_parquet_hold_the_same(tmp_path):
    rows = [{"prompt": [USER], "chosen": [GOOD], "rejected": [{**BAD, "content": f"No {i}."}]} for i in range(9)]
    plain = write(tmp_path / "p.jsonl", rows)
    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    ids = [[r["pair_id"] for r in read_preferences(p, 0.5).rows] for p in (plain, packed, tmp_path / "p.parquet")]
    assert ids[0] == ids[1] == ids[2] and len(ids[0]) == 9


def test_a_prompt_is_on_one_side_whatever_its_answers(tmp_path):
    rows = [{"prompt": f"p{i % 20}", "chosen": f"c{i}", "rejected": "r"} for i in range(100)]
    sides = {}
    for row in read_preferences(write(tmp_path / "p.jsonl", rows), 0.4).rows:
        sides.setdefault(row["prompt_id"], set()).add(row["split"])
    assert len(sides) == 20 and all(len(own) == 1 for own in sides.values())
    assert {side for own in sides.values() for side in own} == {"train", "test"}


def test_a_row_that_names_its_split_is_in_it_and_another_name_is_refused(tmp_path):
    pair = {"chosen": "yes", "rejected": "no"}
    rows = [{"prompt": f"{number}?", "split": "test" if number % 3 else "train", **pair} for number in range(12)]
    rows += [{"prompt": f"{number}?", "split": None, **pair} for number in range(12, 16)]
    path = tmp_path / "prefs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = {row["prompt"][0]["content"]: row["split"] for row in read_preferences(path, 0.0).rows}
    assert [found[f"{number}?"] for number in range(12)] == ["train", "test", "test"] * 4
    assert {found[f"{number}?"] for number in range(12, 16)} == {"train"}
    both = [
        {"prompt": "1?", "split": side, "chosen_score": score, **pair} for side, score in (("train", 1), ("test", 2))
    ]
    for order in (both, both[::-1]):
        path.write_text("\n".join(map(json.dumps, order)))
        assert [row["split"] for row in read_preferences(path, 0.0).rows] == ["test"]
        files = []
        for row in order:
            path.write_text(json.dumps(row))
            files.append(read_preferences(path, 0.0))
        assert [row["split"] for row in together(files).rows] == ["test"]
    path.write_text(json.dumps({"prompt": "1?", "split": "validation", **pair}))
    with pytest.raises(UserError, match=r"line 1: 'split' must be train or test, got 'validation'"):
        read_preferences(path, 0.1)


def test_demonstrations_are_the_best_chosen_answer_of_each_prompt(tmp_path):
    rows = [
        {"prompt": "a", "chosen": "good", "rejected": "x", "chosen_score": 0.5},
        {"prompt": "a", "chosen": "better", "rejected": "x", "chosen_score": 0.9},
        {"prompt": "b", "chosen": "only", "rejected": "x"},
    ]
    made = demonstrations_of(read_preferences(write(tmp_path / "p.jsonl", rows), 0.0).rows)
    assert [row["completion"][0]["content"] for row in made] == ["better", "only"]


def test_real_dialogues_are_read(shared_data):
    path = shared_data / "hh_harmless" / "pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with gzip.open(path, "rt") as lines:
        total = sum(1 for _ in lines)
    found = read_preferences(path, 0.2)
    assert len(found.rows) + found.ties + found.empty + found.diverging + found.repeated == total
    assert len(found.rows) > 0.99 * total
    for row in found.rows:
        assert row["prompt"][0]["role"] == row["prompt"][-1]["role"] == "user"
        assert all("Assistant:" not in message["content"] for message in row["prompt"][:1])
