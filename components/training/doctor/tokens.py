"""What a training's rows are as tokens: what the template makes of them, what carries loss, what is too long."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import UserError
from components.data.chat import ChatTemplate
from components.training.doctor.findings import Finding, fine, look, problem, some

Row = Mapping[str, Any]
Answers = Callable[[Row], Sequence[Sequence[Mapping[str, str]]]]

_LONG_SHARE = 0.01  # of rows that are left out as too long: more is worth a look
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


def examine(
    rows: Sequence[Row], answers_of: Answers, template: ChatTemplate, *, limit: int, limit_key: str
) -> list[Finding]:
    """Return what there is to say of these rows as tokens.

    Args:
        answers_of: a row's answers, each as messages; none for a table of prompts.
        limit: tokens that a row may have (a pair: on a side).
        limit_key: what the limit is called in the configuration.
    """
    lengths, refused, changed, controlled = [], [], [], []
    for row in rows:
        answers = answers_of(row)
        try:
            ids = [template.completion_ids(row["prompt"], answer) for answer in answers]
            lengths.append(_Lengths(len(template.prompt_ids(row["prompt"])), tuple(map(len, ids))))
            if not _comes_back(row["prompt"], answers, template):
                changed.append(row)
        except UserError as error:
            refused.append(error)
            continue
        if _control_tokens(row["prompt"], answers, template):
            controlled.append(row)
    found = [_accepted(refused, len(rows))]
    if lengths:
        found += [_round_trip(changed, len(lengths)), _controls(controlled, len(lengths))]
        found += [*_loss(lengths), _length(lengths, limit, limit_key)]
    return found


def _comes_back(prompt: Sequence[Mapping[str, str]], answers: Sequence[Any], template: ChatTemplate) -> bool:
    """Whether the tokens of the conversation are the text that the template rendered."""
    texts = [template.render([*prompt, *answer]) for answer in answers] or [template.render(prompt, generation=True)]
    return all(
        template.tokenizer.decode(template.ids(text), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        == text
        for text in texts
    )


def _control_tokens(prompt: Sequence[Mapping[str, str]], answers: Sequence[Any], template: ChatTemplate) -> bool:
    """Whether somebody's words hold a special token, such as a turn's end, which the model would take as one."""
    special = set(template.tokenizer.all_special_ids)
    said = [message["content"] for message in [*prompt, *(message for answer in answers for message in answer)]]
    return any(special.intersection(template.ids(text)) for text in said)


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


def _loss(lengths: Sequence[_Lengths]) -> list[Finding]:
    """Which tokens carry loss, and answers that are nothing but a turn's end."""
    answers = [tokens for row in lengths for tokens in row.answers]
    if not answers:
        return []
    share = sum(answers) / (sum(answers) + sum(row.prompt * len(row.answers) for row in lengths))
    found = [fine("loss", f"{share:.0%} of the tokens carry it, {sum(answers) / len(answers):.0f} an answer")]
    empty = sum(tokens <= 1 for tokens in answers)
    what = "answers are empty: they teach to say nothing"
    return [*found, some("empty answers", empty, len(answers), what, otherwise="none")]


def _length(lengths: Sequence[_Lengths], limit: int, key: str) -> Finding:
    longest = sorted(row.longest for row in lengths)
    over = sum(length > limit for length in longest)
    seen = f"median {longest[len(longest) // 2]} tokens, longest {longest[-1]}, {key}={limit}"
    if not over:
        return fine("length", f"{seen}: no row is left out")
    enough = longest[min(len(longest) - 1, int(_KEPT_SHARE * len(longest)))]
    text = f"{seen}: {over} of {len(longest)} rows are left out; {key}={enough} keeps {_KEPT_SHARE:.0%} of them"
    if over == len(longest):
        return problem("length", text)
    return (look if over > _LONG_SHARE * len(longest) else fine)("length", text)
