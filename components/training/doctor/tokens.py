"""What a training's rows are as tokens: what the template makes of them, what is an answer, what is too long."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.config import UserError
from components.data.chat import ChatTemplate
from components.data.curation.texts import said
from components.training.doctor.findings import Finding, fine, look, problem, some

Row = Mapping[str, Any]
Messages = Sequence[Mapping[str, str]]
Answers = Callable[[Row], Sequence[Messages]]

_LONG_SHARE = 0.01  # of rows that are left out as too long: more is worth a look
_MOST_SHARE = 0.5  # the same: more is a problem
_KEPT_SHARE = 0.99  # of rows that a proposed limit keeps


@dataclass(frozen=True)
class _Lengths:
    """Tokens of one row."""

    prompt: int
    answers: tuple[int, ...]  # each with its turn end

    @property
    def longest(self) -> int:
        """What a training compares with its limit."""
        return self.prompt + max(self.answers, default=0)


@dataclass
class Seen:
    """Rows as tokens, and those of them with something to say about."""

    lengths: list[_Lengths] = field(default_factory=list)  # of each row that the template takes
    refused: list[UserError] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    controlled: list[Row] = field(default_factory=list)
    empty: int = 0  # answers

    def longest(self, limit: int) -> int:
        """Tokens of the longest row that is not left out; 0 where all are."""
        return max((row.longest for row in self.lengths if row.longest <= limit), default=0)

    def findings(self, limit: int, limit_key: str) -> list[Finding]:
        """What there is to say.

        Args:
            limit: tokens that a row may have (a pair: on a side).
            limit_key: what the limit is called in the configuration.
        """
        total = len(self.lengths) + len(self.refused)
        found = [_accepted(self.refused, total)]
        if self.lengths:
            found += [_round_trip(self.changed, len(self.lengths)), _controls(self.controlled, len(self.lengths))]
            found += [*_answers(self.lengths, self.empty), _length(self.lengths, limit, limit_key)]
        return found


def read(rows: Sequence[Row], answers_of: Answers, template: ChatTemplate) -> Seen:
    """Return rows as tokens.

    Args:
        answers_of: a row's answers, each as messages; none for a table of prompts.
    """
    seen, control = Seen(), _control_ids(template.tokenizer)
    for row in rows:
        answers = answers_of(row)
        try:
            prompt = template.prompt_ids(row["prompt"])
            completions = [template.completion_ids(row["prompt"], answer) for answer in answers]
        except UserError as error:
            seen.refused.append(error)
            continue
        seen.lengths.append(_Lengths(len(prompt), tuple(map(len, completions))))
        seen.empty += sum(not said(answer).strip() for answer in answers)
        if not all(_comes_back(row["prompt"], *one, template) for one in _sides(prompt, completions, answers)):
            seen.changed.append(row)
        messages = [message for part in (row["prompt"], *answers) for message in part]
        if any(control.intersection(template.ids(message["content"])) for message in messages):
            seen.controlled.append(row)
    return seen


def _sides(
    prompt: list[int], completions: Sequence[list[int]], answers: Sequence[Messages]
) -> list[tuple[list[int], Messages]]:
    """(ids that a model sees, answer), or the prompt's alone."""
    return [(prompt + ids, answer) for ids, answer in zip(completions, answers, strict=True)] or [(prompt, [])]


def _comes_back(prompt: Messages, ids: list[int], answer: Messages, template: ChatTemplate) -> bool:
    """Whether the ids are the text that the template rendered, up to the turn's end."""
    text = template.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    whole = template.render([*prompt, *answer], generation=not answer)
    return whole.startswith(text) and not whole[len(text) :].strip()


def _control_ids(tokenizer: Any) -> set[int]:
    """Tokens that somebody's words must not hold: a model takes them as a turn's end or beginning."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (special | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def _accepted(refused: Sequence[UserError], total: int) -> Finding:
    what = f"rows are refused: {refused[0]}" if refused else ""
    return some("chat template", len(refused), total, what, otherwise=f"takes all {total} rows that were looked at")


def _round_trip(changed: Sequence[Row], total: int) -> Finding:
    if not changed:
        return fine("round trip", "the tokens of each row are its text again")
    return look(
        "round trip",
        f"{len(changed)} of {total} rows are another text after the tokenizer, the first that of prompt "
        f"{changed[0].get('prompt_id')}: it normalises, or lacks their characters",
    )


def _controls(controlled: Sequence[Row], total: int) -> Finding:
    where = controlled[0].get("prompt_id") if controlled else None
    what = f"rows have a special token in what somebody says, the first prompt {where}: take it out of the text"
    return some("special tokens", len(controlled), total, what, otherwise="none in what is said")


def _answers(lengths: Sequence[_Lengths], empty: int) -> list[Finding]:
    """How much of what is read are answers, and those that say nothing."""
    tokens = [length for row in lengths for length in row.answers]
    if not tokens:
        return []
    share = sum(tokens) / (sum(tokens) + sum(row.prompt * len(row.answers) for row in lengths))
    what = "answers are empty: they teach to say nothing"
    return [
        fine("answers", f"{share:.0%} of the tokens, {sum(tokens) / len(tokens):.0f} each, the turn's end included"),
        some("empty answers", empty, len(tokens), what, otherwise="none"),
    ]


def _length(lengths: Sequence[_Lengths], limit: int, key: str) -> Finding:
    longest = sorted(row.longest for row in lengths)
    over = sum(length > limit for length in longest)
    seen = f"median {longest[len(longest) // 2]} tokens, longest {longest[-1]}, {key}={limit}"
    if not over:
        return fine("length", f"{seen}: no row is left out")
    text = f"{seen}: {over} of {len(longest)} rows are left out"
    enough = longest[min(len(longest) - 1, int(_KEPT_SHARE * len(longest)))]
    if enough > limit:
        text += f"; {key}={enough} keeps {_KEPT_SHARE:.0%} of them"
    if over > _MOST_SHARE * len(longest):
        return problem("length", text)
    return (look if over > _LONG_SHARE * len(longest) else fine)("length", text)
