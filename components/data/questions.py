"""Questions made from passages: several over the same few passages, some of which those cannot answer.

A context is a few similar passages shown together, and some more that are withheld. No passage is in two
contexts, so contexts are what train and test are split by and what the bootstrap draws.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from components.config import Config, Field, UserError
from components.data.grounding import ABSTENTION, SYSTEM, grounded_messages, passages_block, shown
from components.data.judge import content_words, judge
from components.data.records import Question, content_hash
from components.data.sentences import Ask, clip, mentions, prose_asks, sentences, symbol_asks
from components.data.split import split_of

if TYPE_CHECKING:
    import numpy as np

SHARES = {"what": 0.3, "which": 0.35, "detail": 0.35}  # of the answerable questions
MISSING_SHARES = {"missing_what": 0.2, "missing_which": 0.45, "missing_detail": 0.35}  # of the others
_SAME_AS = {"cloze": "which", "missing_cloze": "missing_which"}
_TOO_CLOSE = 0.97  # cosine: such passages say the same
_GIVEN_AWAY = 0.8  # share of a question's words in another passage from which on two passages fit
_DERIVABLE = 0.6  # the same for what no passage may hold
COLUMNS = ["passage_id", "text", "source", "title", "group", "symbol", "metadata", "vector"]


class QuestionConfig(Config):
    """How questions are made from passages."""

    shown_passages: int = Field(3, ge=2, le=9, description="passages in a prompt")
    passage_words: int = Field(45, ge=10, description="longest passage in a prompt, in words, by whole sentences")
    withheld_passages: int = Field(2, ge=1, le=9, description="similar passages that questions ask for in vain")
    per_context: int = Field(4, ge=1, le=8, description="questions over the same passages")
    answerable_share: float = Field(0.55, gt=0, lt=1, description="share of questions that have an answer")
    cut_share: float = Field(0.6, ge=0, le=1, description="share of contexts with a passage cut to one sentence")
    test_share: float = Field(0.35, gt=0, lt=1, description="share of contexts that no training may see")
    split_salt: str = Field("", description="another value gives another split")


@dataclass(frozen=True)
class Fact:
    """A passage that questions can be asked about."""

    passage_id: str
    name: str  # its symbol, else its title
    source: str
    group: str
    parts: tuple[str, ...]  # its sentences, as far as prompts show them
    asks: tuple[Ask, ...]
    is_symbol: bool
    vector: "np.ndarray"  # unit length

    def shown(self, n_parts: int | None = None) -> str:
        """The passage as prompts show it, or only its first sentences."""
        return shown(" ".join(self.parts[:n_parts]), self.name)


@dataclass(frozen=True)
class Context:
    """Passages shown together in this order, some withheld, and the index of the one cut to a sentence."""

    shown: tuple[Fact, ...]
    withheld: tuple[Fact, ...]
    cut: int | None

    def texts(self) -> list[str]:
        """The passages as the prompt shows them."""
        return [fact.shown(1 if i == self.cut else None) for i, fact in enumerate(self.shown)]


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


def usable_facts(passages: Sequence[Mapping[str, Any]], max_words: int) -> list[Fact]:
    """The passages that open with prose and say something that no earlier one said."""
    import numpy as np

    parsed = [(row, clip(sentences(_body(row), opening=bool(row["symbol"])), max_words)) for row in passages]
    parsed = [(row, parts) for row, parts in parsed if parts and len(content_words(parts[0])) >= 3]
    parsed.sort(key=lambda pair: pair[0]["passage_id"])
    seen: set[str] = set()
    frequency = Counter(word for _, parts in parsed for word in {w.lower() for p in parts for w in p.split()})
    facts = []
    for row, parts in parsed:
        opening = " ".join(sorted(content_words(parts[0])))
        if opening in seen:
            continue
        seen.add(opening)
        vector = np.asarray(row["vector"], dtype=np.float32)
        asks = _asks(row, parts, frequency, len(parsed))
        facts.append(
            Fact(
                row["passage_id"],
                row["symbol"] or row["title"] or "",
                row["source"],
                row["group"] or "",
                tuple(parts),
                tuple(asks),
                bool(row["symbol"]),
                vector / max(float(np.linalg.norm(vector)), 1e-9),
            )
        )
    return facts


def make_contexts(facts: Sequence[Fact], config: QuestionConfig, rng: random.Random) -> list[Context]:
    """Disjoint contexts of similar passages: first within each group, then among what is left over."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.group, []).append(fact)
    contexts: list[Context] = []
    leftover: list[Fact] = []
    for name in sorted(groups):
        made, rest = _gather(groups[name], config, rng)
        contexts += made
        leftover += rest
    contexts += _gather(leftover, config, rng)[0]
    rng.shuffle(contexts)
    return contexts


def ask_over(context: Context, config: QuestionConfig, counts: Counter[str], rng: random.Random) -> list[Question]:
    """Up to `per_context` questions over one context; `counts` keeps the kinds balanced over all contexts."""
    candidates = _candidates(context)
    rng.shuffle(candidates)
    wanted = {kind: share * config.answerable_share for kind, share in SHARES.items()}
    wanted |= {kind: share * (1 - config.answerable_share) for kind, share in MISSING_SHARES.items()}
    split = split_of(SYSTEM + passages_block(context.texts()), config.test_share, config.split_salt)
    chosen: list[Question] = []
    while candidates and len(chosen) < config.per_context:
        total = sum(counts.values())

        def lacking(item: tuple[str, Ask, int]) -> float:
            kind = _SAME_AS.get(item[0], item[0])
            return wanted[kind] * (total + 1) - counts[kind]  # noqa: B023 (used at once)

        kind, ask, target = max(candidates, key=lacking)
        candidates = [c for c in candidates if c[1] is not ask]
        question = _question(context, kind, ask, target, split)
        if judge(question.reference, question).score == 1.0:
            chosen.append(question)
            counts[_SAME_AS.get(kind, kind)] += 1
    return chosen


def context_id(question: Question) -> str:
    """What questions over the same passages have in common: a hash of the passages as shown."""
    return content_hash(*(passage["text"] for passage in question.passages))


def _body(row: Mapping[str, Any]) -> str:
    """The passage's text without the title or symbol that it may repeat at its head."""
    text = row["text"].strip()
    for head in (row["symbol"], row["title"]):
        if head and text.startswith(head):
            rest = text[len(head) :].lstrip()
            if rest[:1] in (":", "\n", "—", "-") or text[len(head)] == "\n":
                return rest.lstrip(":—- \n")
    return text


def _asks(row: Mapping[str, Any], parts: list[str], frequency: Counter[str], total: int) -> list[Ask]:
    """The questions that one passage can answer."""
    if row["symbol"]:
        kind = json.loads(row["metadata"] or "{}").get("kind", "name")
        noun = kind if kind in ("function", "method", "class") else "name"
        return symbol_asks(row["symbol"], noun, row["group"] or "", parts)

    def rarity(word: str) -> float:
        return math.log(total / frequency[word]) if frequency[word] > 1 else 0.0

    return prose_asks(row["title"] or "", parts, rarity)


def _gather(facts: list[Fact], config: QuestionConfig, rng: random.Random) -> tuple[list[Context], list[Fact]]:
    """Contexts of nearest neighbours, and the facts that were too few or too alike for another one."""
    import numpy as np

    size = config.shown_passages + config.withheld_passages
    pool = list(facts)
    rng.shuffle(pool)
    contexts, rest = [], []
    while len(pool) >= size:
        first = pool.pop()
        similarity = np.stack([fact.vector for fact in pool]) @ first.vector
        near: list[int] = [int(i) for i in np.argsort(-similarity, kind="stable") if similarity[i] < _TOO_CLOSE]
        if len(near) < size - 1:
            rest.append(first)
            continue
        members = [first, *(pool[i] for i in near[: size - 1])]
        pool = [fact for i, fact in enumerate(pool) if i not in set(near[: size - 1])]
        rng.shuffle(members)
        together, withheld = members[: config.shown_passages], members[config.shown_passages :]
        longer = [i for i, fact in enumerate(together) if any(ask.position for ask in fact.asks)]
        cut = rng.choice(longer) if longer and rng.random() < config.cut_share else None
        contexts.append(Context(tuple(together), tuple(withheld), cut))
    return contexts, rest + pool


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
    return replace(question, reference=f"{ask.answer} [{target}]" if target else ABSTENTION)
