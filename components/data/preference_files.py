"""A person's own preference file: jsonl (or .gz) and parquet, as plain text, chat messages or HH dialogues."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data.chat import ROLES
from components.data.records import content_hash
from components.data.row_files import file_rows
from components.data.split import side_of, stricter
from components.data.votes import PREFERS

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
REASONS = ("ties", "empty", "diverging", "repeated")  # why a line makes no row


@dataclass(frozen=True)
class Preferences:
    """What a file held: rows of the `preferences` table, and what was left out."""

    rows: list[dict[str, Any]]
    ties: int  # chosen and rejected say the same
    empty: int  # chosen or rejected says nothing
    diverging: int  # they go apart before the last message
    repeated: int  # the same pair again
    left_out: list[dict[str, str]] = field(default_factory=list)  # where each of these stands, and the reason
    copies: dict[str, int] = field(default_factory=dict)  # pair_id → how often the file has it

    def reasons(self) -> dict[str, int]:
        """Reason → the number of lines that made no row for it."""
        return {reason: getattr(self, reason) for reason in REASONS}


def read_preferences(path: str | Path, test_share: float, salt: str = "", source: str | None = None) -> Preferences:
    """The pairs of a file, split as its rows say or by a hash of the prompt's text.

    Args:
        source: what rows without a ``source`` of their own come from; the file's name if None.

    Raises:
        UserError: the file is missing, of another kind, empty, or has a malformed row (its line is named).
    """
    path = Path(path)
    found = collect(
        (where, read_pair(record, where, test_share, salt, source or path.name)) for where, record in file_rows(path)
    )
    if not found.rows:
        raise UserError(nothing_in(path, len(found.left_out)))
    return found


def nothing_in(path: str | Path, left_out: int) -> str:
    """What to say of a file that has no pair to learn from."""
    held = f"{left_out} pairs that tie, are empty or differ before the last message" if left_out else "no rows"
    return f"{path} holds {held}: it needs a prompt, a chosen and a rejected answer"


def read_pair(record: Mapping[str, Any], where: str, test_share: float, salt: str, source: str) -> dict[str, Any] | str:
    """The row of one record, or the reason why it makes none. Raises UserError where it is malformed."""
    prompt, chosen, rejected = parse_pair(record, where)
    if reason := _unusable(prompt, chosen, rejected):
        return reason
    row = preference_row(record, prompt, chosen, rejected, where, source=str(record.get("source") or source))
    return row | {"split": side_of(record, _text(prompt), test_share, salt, where)}


def collect(read: Iterable[tuple[str, dict[str, Any] | str]]) -> Preferences:
    """What one file held.

    Args:
        read: where each record stands, and what ``read_pair`` made of it.
    """
    rows: dict[str, dict[str, Any]] = {}
    copies: Counter[str] = Counter()
    left_out: list[dict[str, str]] = []
    for where, row in read:
        if isinstance(row, str):
            left_out.append({"where": where, "reason": row})
            continue
        copies[row["pair_id"]] += 1
        if copies[row["pair_id"]] > 1:
            left_out.append({"where": where, "reason": "repeated"})
        known = rows.get(row["pair_id"], row)
        split = stricter(known, row)
        rows[row["pair_id"]] = {**min(known, row, key=_sorted_json), "split": split}  # whatever the order of the lines
    return _preferences(rows, left_out, copies)


def together(files: Sequence[Preferences]) -> Preferences:
    """Several files as one; a pair that is in more than one of them is kept once, from the first.

    If one of them has it for the test, that is what it is for.
    """
    rows: dict[str, dict[str, Any]] = {}
    copies: Counter[str] = Counter()
    left_out: list[dict[str, str]] = []
    for found in files:
        left_out += found.left_out
        copies.update(found.copies)
        for row in found.rows:
            if row["pair_id"] in rows:
                left_out.append({"where": row["source"], "reason": "repeated"})
            known = rows.setdefault(row["pair_id"], row)
            rows[row["pair_id"]] = {**known, "split": stricter(known, row)}
    return _preferences(rows, left_out, copies)


def _preferences(
    rows: Mapping[str, dict[str, Any]], left_out: list[dict[str, str]], copies: Mapping[str, int]
) -> Preferences:
    counts = Counter(item["reason"] for item in left_out)
    numbers = {reason: counts[reason] for reason in REASONS}
    return Preferences(list(rows.values()), **numbers, left_out=left_out, copies=dict(copies))


def _unusable(prompt: list[dict[str, str]], chosen: str, rejected: str) -> str | None:
    """Why nothing can be learnt from a pair."""
    if not prompt:
        return "diverging"
    if not chosen.strip() or not rejected.strip():
        return "empty"
    return "ties" if chosen.strip() == rejected.strip() else None


def _sorted_json(row: Any) -> str:
    return json.dumps(row, sort_keys=True)


def parse_pair(record: Mapping[str, Any], where: str) -> tuple[list[dict[str, str]], str, str]:
    """(prompt messages, chosen text, rejected text) of one row in any of the three formats.

    The prompt is empty where two dialogues go apart before their last message: nothing can be compared there.

    Raises:
        UserError: naming `where` and what is wrong with the row.
    """
    for name in ("chosen", "rejected"):
        if record.get(name) is None:
            raise UserError(f"{where}: the key '{name}' is missing; it has {', '.join(sorted(record)) or 'no keys'}")
    given, sides = record.get("prompt"), [record["chosen"], record["rejected"]]
    if all(isinstance(side, str) for side in sides) and isinstance(given, str | None):
        if given is None or given.strip() == "":
            return _common_prompt([_dialogue(side, where) for side in sides], where)
        is_dialogue = _TURN.match(given)
        prompt = _dialogue(given, where) if is_dialogue else [_message("user", given)]
        if prompt[-1]["role"] == "assistant" and not prompt[-1]["content"]:
            prompt = prompt[:-1]
        repeated = given if is_dialogue or _is_repeated(given, sides) else ""
        return _checked(prompt, _own_text(sides[0], repeated), _own_text(sides[1], repeated), where)
    chats = [_messages(side, where, "assistant") for side in sides]
    if given is None:
        return _common_prompt(chats, where)
    prompt = _messages(given, where, "user")
    tails = [chat[len(prompt) :] if chat[: len(prompt)] == prompt else chat for chat in chats]
    if any(len(tail) != 1 or tail[0]["role"] != "assistant" for tail in tails):
        raise UserError(f"{where}: chosen and rejected must each be one assistant message after the prompt")
    return _checked(prompt, tails[0][0]["content"], tails[1][0]["content"], where)


def demonstrations_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the `demonstrations` table: each prompt once, with the chosen answer of the highest score."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        known = best.get(row["prompt_id"])
        if known is None or row["chosen_score"] > known["chosen_score"]:
            best[row["prompt_id"]] = row
    names = ("prompt_id", "prompt", "kind", "split", "source")
    return [{name: row[name] for name in names} | {"completion": row["chosen"]} for row in best.values()]


def figures(reasons: Mapping[str, int], splits: Mapping[str, int]) -> dict[str, float]:
    """Counts of what is kept in the end, by split, and of the lines that made no row, by reason."""
    return {f"pairs/{side}": float(splits.get(side, 0)) for side in ("train", "test")} | {
        f"dropped/{name}": float(reasons.get(name, 0)) for name in REASONS
    }


def preference_row(
    record: Mapping[str, Any], prompt: list[dict[str, str]], chosen: str, rejected: str, where: str, *, source: str
) -> dict[str, Any]:
    """The row of the `preferences` table (on the train side); scores are the file's, or 1 and 0, votes the file's."""
    prompt_id = content_hash(_text(prompt))
    return {
        "pair_id": content_hash(prompt_id, chosen, rejected),
        "prompt_id": prompt_id,
        "prompt": prompt,
        "chosen": [_message("assistant", chosen)],
        "rejected": [_message("assistant", rejected)],
        "chosen_score": _score(record, "chosen_score", 1.0, where),
        "rejected_score": _score(record, "rejected_score", 0.0, where),
        "kind": str(record.get("kind") or "preference"),
        "source": source,
        "split": "train",
        "votes": _votes(record, where),
    }


def _dialogue(text: str, where: str) -> list[dict[str, str]]:
    """The messages of an HH dialogue ("\\n\\nHuman: … \\n\\nAssistant: …")."""
    head, *rest = _TURN.split(text)
    if head.strip() or not rest:
        raise UserError(
            f"{where}: without a prompt, chosen and rejected must be lists of messages or dialogues that begin "
            f"with 'Human:', got {text[:40]!r}"
        )
    return [_message(_SPEAKERS[who], said) for who, said in zip(rest[::2], rest[1::2], strict=True)]


def _messages(value: Any, where: str, role: str) -> list[dict[str, str]]:
    """A chat as plain messages; plain text is one message of `role`."""
    if isinstance(value, str):
        return [_message(role, value)]
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: expected text or a list of messages, got {type(value).__name__}")
    for item in value:
        if not isinstance(item, dict) or item.get("role") not in ROLES or not isinstance(item.get("content"), str):
            raise UserError(
                f"{where}: a message needs a role ({', '.join(ROLES)}) and content as text, got {item!r:.80}"
            )
    return [_message(item["role"], item["content"]) for item in value]


def _common_prompt(chats: Sequence[list[dict[str, str]]], where: str) -> tuple[list[dict[str, str]], str, str]:
    """The prompt is what both chats share; each must add one assistant message."""
    chosen, rejected = chats
    if chosen[0] != rejected[0]:
        raise UserError(f"{where}: chosen and rejected must share all messages but the last")
    if chosen[:-1] != rejected[:-1]:
        return [], "", ""
    if any(chat[-1]["role"] != "assistant" for chat in chats):
        raise UserError(f"{where}: the last message of chosen and rejected must be the assistant's")
    return _checked(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], where)


def _checked(
    prompt: list[dict[str, str]], chosen: str, rejected: str, where: str
) -> tuple[list[dict[str, str]], str, str]:
    """The same, if the prompt ends in what somebody asks."""
    if not prompt or prompt[-1]["role"] == "assistant" or not prompt[-1]["content"]:
        raise UserError(f"{where}: the prompt must end in a user's message that is not empty")
    return prompt, chosen, rejected


def _is_repeated(given: str, sides: Sequence[str]) -> bool:
    """Whether both sides are a plain prompt and its answer: to "Hello" an answer may begin with the same word."""
    repeated = given if given.endswith((":", " ", "\n")) else f"{given}\n"
    return all(side.startswith(repeated) for side in sides)


def _own_text(side: str, prompt: str) -> str:
    """An answer without the prompt and the speaker's mark that it may begin with."""
    return re.sub(r"^\s*Assistant: ?", "", side.removeprefix(prompt)).strip()


def _score(record: Mapping[str, Any], name: str, default: float, where: str) -> float:
    value = record.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: '{name}' must be a number, got {value!r}")
    return float(value)


def _votes(record: Mapping[str, Any], where: str) -> list[dict[str, str]] | None:
    """What each annotator preferred, from a list of {annotator, prefers} or a mapping; None where nobody voted."""
    given = record.get("votes")
    if given is None:
        return None
    if isinstance(given, dict):
        given = [item for item in given.items() if item[1] is not None]  # parquet names all annotators in all rows
    elif isinstance(given, list) and all(isinstance(item, dict) for item in given):
        given = [(item.get("annotator"), item.get("prefers")) for item in given]
    elif not isinstance(given, list) or not all(isinstance(item, tuple) for item in given):  # parquet's own mapping
        raise UserError(f"{where}: 'votes' must be a list of {{annotator, prefers}} or a mapping, got {given!r:.80}")
    seen: set[str] = set()
    for annotator, prefers in given:
        if not isinstance(annotator, str) or not annotator.strip():
            raise UserError(f"{where}: a vote needs an 'annotator' as text, got {annotator!r:.80}")
        if prefers not in PREFERS:
            raise UserError(f"{where}: {annotator!r:.80} must prefer {', '.join(PREFERS)}, got {prefers!r:.80}")
        if annotator in seen:
            raise UserError(f"{where}: {annotator!r:.80} votes twice on one pair: leave one of the votes out")
        seen.add(annotator)
    return [{"annotator": annotator, "prefers": prefers} for annotator, prefers in given] or None


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content.strip()}


def _text(prompt: Sequence[Mapping[str, str]]) -> str:
    """A prompt as one string, for its hash."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
