"""Questions made from passages: several over the same few passages, some of which those cannot answer."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from components.config import UserError
from components.data.contexts import Context, Fact, QuestionConfig, make_contexts, usable_facts
from components.data.grounding import ABSTENTION, SYSTEM, cite, grounded_messages, passages_block
from components.data.judge import content_words, judge
from components.data.records import Question, content_hash
from components.data.sentences import Ask, mentions
from components.data.split import split_of

SHARES = {"what": 0.3, "which": 0.35, "detail": 0.35}  # of the answerable questions
MISSING_SHARES = {"missing_what": 0.2, "missing_which": 0.45, "missing_detail": 0.35}  # of the others
_SAME_AS = {"cloze": "which", "missing_cloze": "missing_which"}
_GIVEN_AWAY = 0.8  # share of a question's words in another passage from which on two passages fit
_DERIVABLE = 0.6  # the same for what no passage may hold
COLUMNS = ["passage_id", "doc_id", "text", "start", "end", "source", "title", "group", "symbol", "metadata", "vector"]


def make_questions(passages: Sequence[Mapping[str, Any]], config: QuestionConfig, seed: int) -> list[list[Question]]:
    """Questions from rows of a passages table, a list for each context, in an order drawn by `seed`.

    Raises:
        UserError: the passages hold too little prose to make a single context.
    """
    rng = random.Random(seed)
    facts = usable_facts(passages, config.passage_words)
    contexts = make_contexts(facts, config, rng)
    counts: Counter[str] = Counter()
    made = [ask_over(context, config, counts, rng) for context in contexts]
    made = [questions for questions in made if questions]
    if not made:
        raise UserError(
            f"no questions can be made from these {len(passages)} passages: they need at least "
            f"{config.shown_passages + config.withheld_passages} that hold sentences of prose, got {len(facts)}"
        )
    return made


def ask_over(context: Context, config: QuestionConfig, counts: Counter[str], rng: random.Random) -> list[Question]:
    """Up to `per_context` questions over one context; `counts` keeps the kinds balanced over all contexts."""
    candidates = _candidates(context)
    rng.shuffle(candidates)
    split = split_of(SYSTEM + passages_block(context.texts()), config.test_share, config.split_salt)
    chosen: list[Question] = []
    while candidates and len(chosen) < config.per_context:
        kind, ask, target = _most_lacking(candidates, config.answerable_share, counts)
        candidates = [c for c in candidates if c[1] is not ask]
        question = _question(context, kind, ask, target, split)
        if judge(question.reference, question).score == 1.0:
            chosen.append(question)
            counts[_SAME_AS.get(kind, kind)] += 1
    return chosen


def _most_lacking(
    candidates: Sequence[tuple[str, Ask, int]], answerable_share: float, counts: Mapping[str, int]
) -> tuple[str, Ask, int]:
    """The candidate whose side (answerable or not), and then whose kind, is furthest below its share."""
    answerable = sum(counts.get(kind, 0) for kind in SHARES)
    total = sum(counts.get(kind, 0) for kind in (*SHARES, *MISSING_SHARES))

    def lacking(item: tuple[str, Ask, int]) -> tuple[bool, float]:
        kind = _SAME_AS.get(item[0], item[0])
        wants_answerable = answerable < answerable_share * (total + 1)
        if kind in SHARES:
            return wants_answerable, SHARES[kind] * (answerable + 1) - counts.get(kind, 0)
        return not wants_answerable, MISSING_SHARES[kind] * (total - answerable + 1) - counts.get(kind, 0)

    return max(candidates, key=lacking)


def context_id(question: Question) -> str:
    """What questions over the same passages have in common: a hash of the passages as shown."""
    return content_hash(*(passage["text"] for passage in question.passages))


def _candidates(context: Context) -> list[tuple[str, Ask, int]]:
    """(kind, question, target) of everything that can fairly be asked over a context."""
    texts = context.texts()
    words = [content_words(text) for text in texts]
    found: list[tuple[str, Ask, int]] = []
    for i, fact in enumerate(context.shown):
        others = [w for j, w in enumerate(words) if j != i]
        for ask in fact.asks:
            if i == context.cut and ask.position > 0:
                if ask.kind == "detail" and not _held(_own_words(ask), words, _DERIVABLE):
                    found.append(("missing_detail", ask, 0))
            elif ask.kind not in ("which", "cloze") or not _held(content_words(ask.question), others, _GIVEN_AWAY):
                found.append((ask.kind, ask, i + 1))
    for absent in context.withheld:
        found += [(kind, ask, 0) for kind, ask in _asked_in_vain(absent, texts, words)]
    return found


def _asked_in_vain(absent: Fact, texts: Sequence[str], words: Sequence[set[str]]) -> list[tuple[str, Ask]]:
    """(kind, question) of what only a withheld passage answers."""
    found = []
    hidden = not any(mentions(absent.name, text) for text in texts)
    for ask in absent.asks:
        if ask.kind == "what" and hidden:
            found.append(("missing_what", ask))
        if ask.kind in ("which", "cloze") and not _held(content_words(ask.question), words, _DERIVABLE):
            found.append((f"missing_{ask.kind}", ask))
        if ask.kind == "detail" and not absent.is_symbol and not _held(_own_words(ask), words, _DERIVABLE):
            found.append(("missing_detail", ask))
    return found


def _own_words(ask: Ask) -> set[str]:
    """What an answer says beyond its question."""
    return content_words(ask.answer) - content_words(ask.question)


def _held(needed: set[str], texts: Sequence[set[str]], share: float) -> bool:
    """True when one of the texts holds at least `share` of the words (or there are none to look for)."""
    return not needed or any(len(needed & words) >= share * len(needed) for words in texts)


def _question(context: Context, kind: str, ask: Ask, target: int, split: str) -> Question:
    """The row of one question."""
    texts = context.texts()
    prompt = grounded_messages(ask.question, texts)
    question = Question(
        prompt_id=content_hash(*(message["content"] for message in prompt)),
        prompt=prompt,
        question=ask.question,
        kind=kind,
        answerable=target > 0,
        passages=[
            {"passage_id": fact.passage_id, "text": text, "title": fact.name, "source": fact.source}
            for fact, text in zip(context.shown, texts, strict=True)
        ],
        target=target,
        split=split,
    )
    return replace(question, reference=cite(target, ask.answer) if target else ABSTENTION)
