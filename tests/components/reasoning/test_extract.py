"""Final answers: where they stand in a text, and when two of them are the same."""

import gzip
import json
import os
import random
from fractions import Fraction
from pathlib import Path

import pytest

from components.reasoning.extract import extract, key, known, options, same
from components.reasoning.quantities import read_quantity

DATA = Path(os.environ.get("RAYLIGN_DATA", "../shared/data"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48/2 = 24\n48+24 = 72\n#### 72", "72"),
        ("The answer is 5 apples.", "5 apples"),
        ("Answer: $1,200.50", "$1,200.50"),
        ("**Final Answer:** **12**", "12"),
        ("the answer was 3. No, wait. The answer is 4.", "4"),
        (r"so it is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"The answer is $\boxed{7}$.", "7"),
        ('{"reasoning": "x is 7", "answer": 8}', "8"),
        ('Here:\n```json\n{"answer": "blue"}\n```', "blue"),
        ("Answer:\n  yes\n", "yes"),
        ("A: 16", "16"),
        ("It is 2, then 3, so 3.5 m", "3.5"),
        ("He has 48-24 left", "24"),  # a minus between numbers is no sign
        ("= -3", "-3"),
        ("x2 is 4, y_3", "4"),
        ("that is 5%", "5%"),
        ("we get 3/4 of it", "3/4"),
        ("First thought\nParis", "Paris"),
        ("No. That all boats are trees does not make all trees boats. They may be.", "No"),
        ("**Yes**, as all cats are fish. It follows.", "Yes"),
        ("No one knows.\nParis", "Paris"),
        ("No, there are 24 of them.", "24"),
        ("Yes. But the answer is no.", "no"),
        ("The answer is", ""),
        ("", ""),
        ("  \n ", ""),
        ("The answer is 3.5 m. It was easy.", "3.5 m"),
        ("Answer: 15 - 7 = 8", "8"),
        ("Answer: 12 * 3 = 36", "36"),
        ("Answer: x = 5", "5"),
        ("Answer: x = 3 or x = 4", "x = 3 or x = 4"),
        ("The function is `abs` [1].", "The function is abs"),
        ("It returns 5 [1, 2].", "5"),
        ("Answer: [3]", "[3]"),
        ("Answer: 8. Check: 8 + 7 = 15", "8"),
        ("Answer: 8; check 8+7=15", "8"),
        ("The answer is 8 – as 8 + 7 = 15", "8"),
        ("Answer: x = 5 because y = 3", "5"),
        ("Answer: y = 2x + 1", "y = 2x + 1"),
        ("Answer: x >= 5", "x >= 5"),
        (r"Answer: $x = \sqrt{2}$", r"x = \sqrt{2}"),
        ("Answer: 1,200 = total", "1,200 = total"),
        ("The answer is the list [1, 2, 3].", "the list [1, 2, 3]"),
        ("It is 5 [1][2].", "5"),
        ('{"answer": 5, "list": [1, [2, 3]]}', "5"),
        ("2024-05-17", "2024-05-17"),
        (r"$\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\frac{1}{2} \text{m}", r"\frac{1}{2} \text{m}"),
        ("2 1/2", "2 1/2"),
        ("**2 dozen**", "2 dozen"),
        ("3 million.", "3 million"),
        ("5 miles", "5 miles"),
        ("x = 3 or x = 4", "x = 3 or x = 4"),
        ("12:30", "12:30"),
        ("x = 5", "5"),
        ("12 * 3 = 36", "36"),
        ("So she has 12 apples.", "12"),
        ("24 of them are red", "24"),
        ("48/2 = 24\n48+24 = 72", "72"),
        ("so it's 3 -> 12", "12"),
        ("She ate 3 of 15 eggs and sold 12.", "12"),
        ("The answer isn't 5.", "not 5"),
        ("The answer isn’t 5. The answer is 6.", "6"),
        ("Answer: 4*3", "4*3"),
        ("Answer: 2**3", "2**3"),
        ("Answer: 4 * 3", "4 * 3"),
        ("Answer: `read_csv`", "read_csv"),
        ("The answer is `__init__`, as it is called first.", "__init__"),
        ("**Answer:** 12", "12"),
        ("Answer: *so* _it_ **is**", "so it is"),
        ("Answer: red, green and blue", "red, green and blue"),
        ("Answer: red, which is a colour", "red"),
        ("Answer: 12, the sum of both", "12"),
        ("Answer: yes, cats are", "yes"),
        ("Answer: Dr. Smith", "Dr. Smith"),
        ("Answer: J. K. Rowling. She wrote it.", "J. K. Rowling"),
        ("Answer: No. The other one is.", "No"),
        ("Answer: C. The other one is not.", "C"),
        ("Answer: 15 - 7", "15 - 7"),
        ("Answer: 15 – 7", "15 – 7"),
        ("Answer: 8 - as 8 and 7 are 15", "8"),
        ("Answer: Ann - she is taller", "Ann"),
        ("Answer: total - cost = 5", "5"),
    ],
)
def test_the_final_answer_in_a_text(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("The answer is (B).", "B"),
        ("Answer: C) Paris", "C"),
        ("A is wrong, so it is (D)", "D"),
        ("I think option C is right", "C"),
        ("The answer is B because A is wrong", "B"),
        ("B) Paris", "B"),
        ("Answer: E", ""),  # there are four
        ("The answer is not (A) but (B).", "B"),
        ("Answer: Option B = 5", "B"),
        ("Answer: B. A = 3 is too small", "B"),
        ("Q: What?\nA: C", "C"),
        ("A: 3\nB: 4\nSo it is (B).", "B"),  # an option that is repeated, and no announcement
        ("a dog and a cat", ""),
        ("", ""),
    ],
)
def test_the_letter_of_a_choice_of_four(text, letter):
    assert extract(text, 4) == letter


@pytest.mark.parametrize(
    ("answer", "choices", "meant"),
    [
        ("5 km", 0, "5 km"),
        (r"\frac{1}{2}", 0, r"\frac{1}{2}"),
        ("2024-05-17", 0, "2024-05-17"),
        ("#### 72", 0, "72"),
        ("B) Paris", 4, "B"),
        ("Paris", 4, "Paris"),
        ("12 + 3 = 15", 0, "15"),
    ],
)
def test_what_a_file_gives_as_right_is_taken_as_it_stands(answer, choices, meant):
    assert known(answer, choices) == meant


def test_options_are_counted():
    assert options("Which?\nA) x\nB) y\nC) z") == 3
    assert options("(A) 3 (B) 4 (C) 5 (D) 6") == 4
    assert options("Which?\nA. x\nB. y") == options("Which is it? A. cat B. dog") == options("Options: A: x B: y") == 2
    assert options("A. x\nB. y\nC. z") == 3 and options("Which?\n\n  A. x\n  B. y") == 2
    assert options("Team A: 5 points. Team B: 7 points. Who won?") == options("Plan A. Run. Plan B. Hide. Which?") == 0
    assert options("It says:\nTeam A: 5 points.\nTeam B: 7 points. Who won?") == 0
    assert options("Mr A. Smith asks") == options("What is 2 + 3?") == options("B) x") == 0


SAME = [
    ("0.5", "1/2"),
    ("50%", "0.5"),
    ("50 %", "50"),
    ("1,200", "$1200.00"),
    ("5", "5 apples"),
    ("5 apples", "5 red apples"),
    ("1 km", "1000 m"),
    ("2 hours", "120 minutes"),
    ("$2.50", "250 cents"),
    ("0.33", "1/3"),
    ("0.333", "0.33"),
    ("2 1/2", "2.5"),
    ("-5", "−5"),
    ("five", "5"),
    ("1e3", "1000"),
    ("3 x 10^2", "300"),
    ("about 7", "7"),
    ("The Eiffel Tower.", "eiffel tower"),
    ("(B)", "b"),
    ("Yes", "yes."),
    ("Ann has 5 apples", "5"),
    ("He ran 5 km that day", "5 km"),
    ("Ann is the tallest", "Ann"),
    ("5 apples left", "5 apples"),
    ("3 dozen", "36"),
    ("one hundred", "100"),
    ("2.5 million", "2,500,000"),
    ("£5", "5 pounds"),
    ("12.46", "12.457"),
    ("60 km per hour", "60 kilometers per hour"),
    ("5 dollars per hour", "$5 per hour"),
    ("60 miles per hour", "60 miles"),
    ("3 square feet", "3 square foot"),
    ("5 square meters", "5 square metres"),
    ("5 inches in all", "5 in"),
    ("3.33 km", "3.333 kilometers"),
    ("33.3%", "1/3"),
    ("[]", " [] "),
    ("∞", "∞"),
    ("C#", "c#."),
    ("x = 5", "x=5"),
    ("x ≤ 5", "x <= 5"),
    ("x^2", "x ^ 2"),
    ("**Paris**!", "Paris"),
]
DIFFERENT = [
    ("5 km", "5 miles"),
    ("5 apples", "5 pears"),
    ("$5", "5 euros"),
    ("0.33", "0.34"),
    ("3", "3.2"),
    ("1/4", "0.3"),  # 0.25 needs no rounding
    ("5", "-5"),
    ("12", "1.2"),
    ("yes", "no"),
    ("B", "D"),
    ("", ""),
    ("5", ""),
    ("1/0", "0"),
    ("3 or 4", "3"),
    ("1 km", "1 m"),
    ("0.25", "0.3"),
    ("0.25", "0.2"),
    ("12.46", "12.5"),
    ("one hundred", "1"),
    ("one half", "1"),
    ("3 square feet", "1 square yard"),
    ("$5", "5%"),
    ("He ran 5 miles", "5 km"),
    ("Ann is not the tallest", "Ann"),
    ("Annabel", "Ann"),
    ("B is wrong", "B"),
    ("Paris is wrong", "Paris"),
    ("Ann is shorter than Bob", "Ann"),
    ("5 in", "5 cm"),
    ("one hundred twenty", "100"),
    ("one hundred and twenty", "100"),
    ("  ", " "),
    ("x > 5", "x < 5"),
    ("x <= 5", "x >= 5"),
    ("x^2", "x/2"),
    ("x * 2", "x / 2"),
    ("x = 5", "x != 5"),
    ("n!", "n"),
    ("C#", "C"),
    ("[]", "{}"),
    ("It isn't 5", "5"),
    *((formula, "2") for formula in (r"\sqrt{2}", r"2\pi", "x^2", "x/2", "x + 2")),
    *(("n-1", "1"), ("sin(30)", "30"), ("x > 5", "5"), ("not 5", "5"), ("less than 5", "5"), ("twice 5", "5")),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_answers(one, other):
    assert same(one, other) and same(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_answers(one, other):
    assert not same(one, other) and not same(other, one)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\sqrt{2}", r"\sqrt{3}", False),
    ],
)
def test_latex_is_compared_by_its_meaning(one, other, equal):
    assert same(one, other, mathematics=True) is equal


def test_numbers_are_read_as_they_are_written_in_many_ways():
    rng = random.Random(5)
    for _ in range(300):
        number, places = rng.randrange(-(10**7), 10**7), rng.choice([0, 0, 1, 2, 3])
        value = Fraction(number, 10**places)
        written = rng.choice(["{:,.{p}f}", "{:.{p}f}", "${:,.{p}f}", "{:.{p}f} apples", "{:.{p}f}%"])
        quantity = read_quantity(written.format(float(value), p=places))
        assert quantity is not None and quantity.value == value, written
        assert quantity.percent == written.endswith("%")


def test_sentences_are_no_quantities():
    for text in ("3 of the 4 men", "it is 5", "12 34", "5 and 6", "", "apples", "5 men who came from far away to see"):
        assert read_quantity(text) is None
    assert key("An apple!") == key("the APPLE") == "apple"


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="RAYLIGN_DATA has no gsm8k")
def test_answers_of_gsm8k_and_the_judgements_of_its_solutions():
    with gzip.open(DATA / "gsm8k" / "train.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(400), strict=False)]
    for row in rows:
        assert extract(row["answer"]) == row["answer"].rpartition("#### ")[2]
    agreed = total = 0
    with gzip.open(DATA / "gsm8k" / "scored_solutions.jsonl.gz", "rt") as lines:
        for line, _ in zip(lines, range(100), strict=False):
            row = json.loads(line)
            right = extract(row["ground_truth"])
            for solution in row["solutions"]:
                total += 1
                agreed += same(extract(solution["solution"]), right) == solution["is_correct"]
    assert total == 400 and agreed / total > 0.99
