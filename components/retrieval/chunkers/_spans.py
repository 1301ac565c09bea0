"""What makes the promises of all chunkers true: places become spans within the limits."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from components.retrieval.chunkers import Place, Span

# A word-piece tokenizer takes a "word" of thousands of characters for one unknown token: it fits any limit, but no
# vector says what is in it. Words have about five characters a token; lines of symbols more than twenty at times.
_CHARACTERS_PER_TOKEN = 32
_LONGEST_LINE = 10_000  # characters
_LONG_LINE = re.compile(rf"[^\n]{{{_LONGEST_LINE + 1},}}")


class Finisher:
    """Cuts what is too long, takes away white space and repetition that is too much, and counts tokens."""

    def __init__(self, tokenizer: Any, max_tokens: int, overlap: int) -> None:
        from semantic_text_splitter import TextSplitter

        self._tokenizer, self._max_tokens, self._overlap = tokenizer, max_tokens, overlap
        self._splitter = TextSplitter.from_huggingface_tokenizer(tokenizer, max_tokens, overlap=overlap)

    def spans(self, text: str, places: Iterable[Place]) -> list[Span]:
        """Return the spans of a text's pieces."""
        counted = self._within_limits(text, [place for raw in places if (place := _stripped(text, raw))])
        counted.sort(key=lambda span: (span.start, -span.end))
        ordered: list[Span] = []
        for span in counted:
            if not ordered or span.end > ordered[-1].end:
                ordered.append(span)
        return self._with_less_overlap(text, ordered)

    def _within_limits(self, text: str, places: Sequence[Place]) -> list[Span]:
        done: list[Span] = []
        size = _CHARACTERS_PER_TOKEN * self._max_tokens
        waiting = [window for place in places for window in _windows(text, place, size)]
        while waiting:
            sizes = self._count([text[start:end] for start, end in waiting])
            long: list[Place] = []
            for place, size in zip(waiting, sizes, strict=True):
                if size <= self._max_tokens or place[1] - place[0] == 1:
                    done.append(Span(*place, size))
                else:
                    long.append(place)
            waiting = [part for place in long for part in self._shorter(text, place)]
        return done

    def _shorter(self, text: str, place: Place) -> list[Place]:
        start, end = place
        found = [(start + at, start + at + len(part)) for at, part in self._splitter.chunk_indices(text[start:end])]
        if len(found) < 2 or any(part == place for part in found):
            middle = (start + end) // 2  # the splitter counts otherwise than we do
            found = [(start, middle), (middle, end)]
        return [stripped for part in found if (stripped := _stripped(text, part))]

    def _with_less_overlap(self, text: str, spans: list[Span]) -> list[Span]:
        shared = [number for number in range(1, len(spans)) if spans[number].start < spans[number - 1].end]
        sizes = self._count([text[spans[number].start : spans[number - 1].end] for number in shared])
        for number, size in zip(shared, sizes, strict=True):
            before = spans[number - 1]
            if size > self._overlap or spans[number].start <= before.start:
                place = _stripped(text, (before.end, spans[number].end))
                assert place is not None, "a span that ends later than the one before has text of its own"
                spans[number] = Span(*place, self._count([text[slice(*place)]])[0])
        if any(span.n_tokens > self._max_tokens for span in spans):  # half a word may have more tokens than all of it
            return self.spans(text, [(span.start, span.end) for span in spans])
        return spans

    def _count(self, texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False) if texts else []
        return [len(one.ids) for one in encoded]


class Ruler:
    """Counts the tokens between any two places of a text, which is tokenized once."""

    def __init__(self, tokenizer: Any, text: str) -> None:
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        self._starts, self._ends = [start for start, _ in offsets], [end for _, end in offsets]

    def count(self, start: int, end: int) -> int:
        """Return how many tokens have a character in ``text[start:end]``."""
        import bisect

        return max(0, bisect.bisect_left(self._starts, end) - bisect.bisect_right(self._ends, start))


def pack(units: Sequence[Place], ruler: Ruler, max_tokens: int, overlap: int) -> list[Place]:
    """Join neighbouring units into places of at most ``max_tokens``, each repeating whole units of the one before.

    A unit that is too long by itself is a place by itself.
    """
    made: list[Place] = []
    first = 0
    while first < len(units):
        last = first
        while last + 1 < len(units) and ruler.count(units[first][0], units[last + 1][1]) <= max_tokens:
            last += 1
        made.append((units[first][0], units[last][1]))
        if last + 1 == len(units):
            break
        following = last + 1
        while following - 1 > first and _may_repeat(units, following - 1, last, ruler, max_tokens, overlap):
            following -= 1
        first = following
    return made


def _may_repeat(units: Sequence[Place], own: int, last: int, ruler: Ruler, max_tokens: int, overlap: int) -> bool:
    start = units[own][0]
    return ruler.count(start, units[last][1]) <= overlap and ruler.count(start, units[last + 1][1]) <= max_tokens


def chunk_with(splitter: Any, text: str) -> list[Place]:
    """Return the places that a splitter of semantic-text-splitter cuts a text into.

    Where a long line stands among others it looks at all of the rest of the line for each piece, so that its time grows
    with the square of the length: such lines are handed to it apart, in windows.
    """
    return [
        (start + at, start + at + len(piece))
        for start, end in _around_long_lines(text)
        for at, piece in splitter.chunk_indices(text[start:end])
    ]


def _around_long_lines(text: str) -> Iterator[Place]:
    start = 0
    for found in _LONG_LINE.finditer(text):
        if found.start() > start:
            yield start, found.start()
        yield from _windows(text, found.span(), _LONGEST_LINE)
        start = found.end()
    if start < len(text):
        yield start, len(text)


def _windows(text: str, place: Place, size: int) -> Iterator[Place]:
    """Cut a place into places of at most so many characters, at white space if there is any near the end."""
    start, end = place
    while end - start > size:
        gap = next((at for at in range(start + size, start + size // 2, -1) if text[at].isspace()), start + size)
        yield from filter(None, [_stripped(text, (start, gap))])
        start = gap
    yield from filter(None, [_stripped(text, (start, end))])


def _stripped(text: str, place: Place) -> Place | None:
    """Return a place without the white space around it; None if nothing else is in it."""
    start, end = place
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    right = len(piece.rstrip())
    return (start + left, start + right) if right > left else None
