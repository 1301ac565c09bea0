"""Quantities as people write them: numbers, fractions, percentages and their units."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_POWER = r"(?:\s?[x×*·]\s?10\s?\^\s?\{?(?P<tens>[-−]?\d+)\}?|[eE](?P<exponent>[-+]?\d+))?"
_QUANTITY = re.compile(
    rf"(?P<sign>[-−–+])?\s?(?P<currency>[$€£]|\\\$)?\s?(?P<sign_behind>[-−–])?"
    rf"(?:(?P<whole>\d+)\s+(?P<mixed_over>\d+)\s?/\s?(?P<mixed_under>\d+)"
    rf"|(?P<over>{_DIGITS})\s?/\s?(?P<under>{_DIGITS})"
    rf"|\\d?frac\{{(?P<tex_over>[-−]?\d+)\}}\{{(?P<tex_under>\d+)\}}"
    rf"|(?P<number>{_DIGITS}){_POWER})"
    r"\s?(?P<percent>\\?%|percent\b|per\s+cent\b)?\s*(?P<unit>.*)",
    re.DOTALL,
)
_APPROXIMATELY = re.compile(r"^(?:about|approximately|around|roughly|exactly|only|=|≈|~)\s*", re.IGNORECASE)
_CURRENCIES = {"$": "dollar", "\\$": "dollar", "€": "euro", "£": "gbp"}
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_FURTHER = {"and", *_SCALES, *_WORDS, *_TEENS, *_TENS}  # with which a number in words goes on
_PARTS = {"half", "halves", "third", "thirds", "quarter", "quarters"}  # of what comes before: no unit
_TRAILING = {"left", "remaining", "total", "altogether", "each", "more", "now", "all"}
_COMPOUND = re.compile(r"\b(?:square|cubic|per)\b|[²³/]")
_COARSEST = Fraction(1, 200)  # by which a decimal may be off through rounding: it has two digits at least
_LARGEST_POWER = 300

_DIMENSIONS: dict[str, dict[str, int | str]] = {
    "length": {
        "m metre meter": 1,
        "km kilometre kilometer": 1000,
        "cm centimetre centimeter": "1/100",
        "mm millimetre millimeter": "1/1000",
        "mile mi": "1609.344",
        "foot feet ft": "0.3048",
        "inch inches in": "0.0254",
        "yard yd": "0.9144",
    },
    "mass": {
        "kg kilogram": 1,
        "g gram": "1/1000",
        "mg milligram": "1/1000000",
        "pound lb": "0.45359237",
        "ounce oz": "0.028349523125",
        "tonne": 1000,
    },
    "time": {"second sec s": 1, "minute min": 60, "hour hr h": 3600, "day": 86400, "week": 604800},
    "volume": {"l litre liter": 1, "ml millilitre milliliter": "1/1000"},
    "money of dollars": {"dollar usd": 1, "cent": "1/100"},
    "money of euros": {"euro eur": 1},
    "money of pounds": {"gbp": 1, "pence penny": "1/100"},
}
_UNITS = {  # unit → (dimension, how many of the dimension's first unit it is)
    spelling: (dimension, Fraction(size))
    for dimension, names in _DIMENSIONS.items()
    for spellings, size in names.items()
    for spelling in spellings.split()
}
_SPELLING = {of: spelling for spelling, of in reversed(_UNITS.items())}


@dataclass(frozen=True)
class Quantity:
    """A number and what it counts; ``written`` is by how much it may be off through rounding as it is written."""

    value: Fraction
    unit: str  # lower case, singular; empty: none is written
    percent: bool
    rounding: Fraction  # half of its last decimal; 0 for whole numbers and fractions
    coarse: bool = False  # its decimals are too few to be another one's rounded

    def same(self, other: "Quantity") -> bool:
        """Return whether both are the same amount; a unit that one leaves out is taken from the other.

        A percentage equals its hundredth, or the bare number (asked "how many percent", 50 and 50% say the same).
        Decimals may be rounded: 0.33 is 1/3, but 0.33 is not 0.34.
        """
        if (" per " in self.unit) != (" per " in other.unit):  # 60 miles per hour, asked how many miles in an hour
            return self._without_rate().same(other._without_rate())
        mine, theirs = _UNITS.get(self.unit), _UNITS.get(other.unit)
        if {self.unit, other.unit} == {"gbp", "pound"}:  # £5 and 5 pounds
            return _close(self, other)
        if self.unit and other.unit and self.unit != other.unit:
            if mine is None or theirs is None or mine[0] != theirs[0]:
                return False
            return _close(self._times(mine[1]), other._times(theirs[1]))
        if self.percent != other.percent:
            whole, share = (other, self) if self.percent else (self, other)
            if whole.unit in _UNITS:
                return False
            return _close(whole, share._times(Fraction(1, 100))) or _close(whole, share)
        return _close(self, other)

    def _times(self, factor: Fraction) -> "Quantity":
        return replace(self, value=self.value * factor, rounding=self.rounding * factor)

    def _without_rate(self) -> "Quantity":
        return replace(self, unit=self.unit.partition(" per ")[0])


def read_quantity(text: str) -> Quantity | None:
    """Return the quantity that a whole answer is, such as `$1,200`, `3/4`, `2 1/2 km`, `50 %` or `5 red apples`.

    None where it is something else, more than one number included.
    """
    text = _APPROXIMATELY.sub("", text.strip().strip("$ ") if _is_tex(text) else text.strip())
    spelled = re.fullmatch(rf"({'|'.join(_WORDS)})\b(.*)", text, re.IGNORECASE | re.DOTALL)
    if spelled:
        text = f"{_WORDS.index(spelled[1].lower())}{spelled[2]}"
    found = _QUANTITY.fullmatch(text)
    if found is None or re.search(r"\d", found["unit"]):
        return None
    value, (scale, behind) = _value(found), _scaled(found["unit"])
    unit = _unit(behind, found["currency"])
    goes_on = scale > 1 and not _FURTHER.isdisjoint(behind.lower().replace("-", " ").split())
    if value is None or unit is None or unit in _PARTS or goes_on:
        return None
    value *= scale
    value = -value if (found["sign"] or found["sign_behind"] or "+") in "-−–" else value
    places = len((found["number"] or "").partition(".")[2])
    exact = not places or found["tens"] or found["exponent"] or scale > 1
    rounding = Fraction(0) if exact else Fraction(1, 2 * 10**places)
    percent = found["percent"] is not None
    return Quantity(value, unit, percent, rounding, coarse=rounding > _COARSEST and not percent)


def _is_tex(text: str) -> bool:
    text = text.strip()
    return len(text) > 2 and text.startswith("$") and text.endswith("$")


def _value(found: re.Match[str]) -> Fraction | None:
    def number(name: str) -> Fraction:
        return Fraction(found[name].replace(",", "").replace("−", "-"))

    try:
        if found["whole"]:
            return number("whole") + number("mixed_over") / number("mixed_under")
        if found["over"]:
            return number("over") / number("under")
        if found["tex_over"]:
            return number("tex_over") / number("tex_under")
    except ZeroDivisionError:
        return None
    power = int((found["tens"] or found["exponent"] or "0").replace("−", "-"))
    return number("number") * Fraction(10) ** power if abs(power) <= _LARGEST_POWER else None


def _scaled(behind: str) -> tuple[int, str]:
    """By how much the words right behind a number multiply it, and what stands behind them: 2 hundred thousand men."""
    scale, words = 1, behind.split()
    while words and words[0].strip(".,!").lower().removesuffix("s") in _SCALES:
        scale *= _SCALES[words.pop(0).strip(".,!").lower().removesuffix("s")]
    return scale, " ".join(words) if scale > 1 else behind


def _unit(text: str, currency: str | None) -> str | None:
    """The unit as a singular word in lower case; none where what follows the number is no unit but a sentence."""
    words = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r"\1", text).strip(" .!,;").lower().split()
    if len(words) > 4 or not all(re.fullmatch(r"[^\W\d_][\w°²³/'-]*|°c?|\W?", word) for word in words):
        return None
    if currency:
        return " ".join(
            [_CURRENCIES[currency], *map(_canonical, words[words.index("per") :] if "per" in words else ())]
        )
    all_of_it = len(words) > 1 and words[-2:] in (["in", "all"], ["in", "total"])
    words = words[:-2] if all_of_it else words
    while words and words[-1] in _TRAILING:
        words = words[:-1]
    if len(words) > 1 and _COMPOUND.search(" ".join(words)):  # an area or a rate is no length
        return " ".join(map(_canonical, words))
    known = [word for word in map(_singular, words) if word in _UNITS]
    return known[0] if known else _singular(words[-1]) if words else ""


def _canonical(word: str) -> str:
    """A unit's first spelling; another word in its singular."""
    known = _UNITS.get(word := _singular(word))
    return word if known is None else _SPELLING[known]


def _singular(word: str) -> str:
    if word in _UNITS:
        return word
    for ending, instead in (("ies", "y"), ("ches", "ch"), ("xes", "x"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            return word[: -len(ending)] + instead
    return word


def _close(one: Quantity, other: Quantity) -> bool:
    """Whether two values are equal, or one is written with fewer decimals and is the other one rounded."""
    if one.value == other.value:
        return True
    gap = abs(one.value - other.value)
    if one.coarse or other.coarse:
        return False
    if one.rounding and other.rounding:
        return one.rounding != other.rounding and gap <= max(one.rounding, other.rounding)
    return 0 < gap <= max(one.rounding, other.rounding) and _needs_rounding(one if other.rounding else other)


def _needs_rounding(exact: Quantity) -> bool:
    """Whether it has no end as a decimal, so that who writes decimals has to round: 1/3, but neither 1/4 nor 3."""
    rest = exact.value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest != 1
