"""A verdict over held-out questions: better in the whole interval, over every rival, or not kept."""

from components.retrieval import gain
from components.retrieval.exercises import Exercise

QUESTIONS = 30


def exercises(groups: int = QUESTIONS) -> list[Exercise]:
    held_out = [Exercise(f"q{n}", (f"p{n}",), (), f"g{n % groups}", "test") for n in range(QUESTIONS)]
    return [Exercise("q of training", ("never asked",), ("x",), "t", "train"), *held_out]


class Finds:
    """A search that has question n's answer at the rank that ``place(n)`` says, and asks for nothing else."""

    def __init__(self, place) -> None:
        self.place = place

    def search(self, question: str, k: int) -> list:
        assert question.startswith("q") and "training" not in question
        number = int(question[1:])
        ids = [f"wrong{n}" for n in range(k)]
        ids.insert(self.place(number) - 1, f"p{number}")
        return [type("Hit", (), {"passage_id": each}) for each in ids[:k]]


def judge(rivals: dict, trained: Finds, *, min_gain: float = 0.0, groups: int = QUESTIONS) -> gain.Verdict:
    return gain.judge({**rivals, "trained": trained}, exercises(groups), 10, min_gain, seed=0)


def test_what_finds_each_answer_higher_is_kept() -> None:
    """At rank 1 nDCG is 1, at rank 3 it is 1 / log2(4) = 0.5."""
    verdict = judge({"without": Finds(lambda n: 3)}, Finds(lambda n: 1))
    assert verdict.kept and verdict.gains["without"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": QUESTIONS}
    assert verdict.sentence == (
        "kept: on 30 held-out questions its nDCG@10 minus that of the search without it is +0.5000 [+0.5000, +0.5000]"
    )
    metrics = verdict.metrics()
    assert metrics["kept"] == 1.0 and metrics["trained/ndcg_at_10"] == 1.0 and metrics["without/ndcg_at_10"] == 0.5
    assert metrics["gain_over/without"] == metrics["gain_over/without_low"] == 0.5


def test_no_change_is_not_kept_and_neither_is_a_loss() -> None:
    same = Finds(lambda n: 1 + n % 3)
    unchanged = judge({"without": same}, same)
    assert not unchanged.kept and unchanged.sentence.startswith("not kept: on 30 held-out questions")
    assert not judge({"without": Finds(lambda n: 1)}, Finds(lambda n: 2)).kept


def test_a_gain_that_may_be_chance_is_not_kept() -> None:
    """Of rank 2, 17 answers rise to 1 (by 0.37) and 13 fall to 10 (by 0.34): the interval holds 0."""
    verdict = judge({"without": Finds(lambda n: 2)}, Finds(lambda n: 1 if n < 17 else 10))
    gap = verdict.gains["without"]
    assert gap["low"] < 0 < gap["mean"] < gap["high"] and not verdict.kept


def test_every_rival_has_to_be_surpassed() -> None:
    trained = Finds(lambda n: 2)
    assert judge({"without": Finds(lambda n: 5)}, trained).kept
    verdict = judge({"without": Finds(lambda n: 5), "start": Finds(lambda n: 1)}, trained)
    assert not verdict.kept and "that of the reranker that it started from" in verdict.sentence


def test_the_gain_has_to_be_worth_its_price() -> None:
    rivals, trained = {"without": Finds(lambda n: 3)}, Finds(lambda n: 1)
    assert judge(rivals, trained, min_gain=0.49).kept
    assert not judge(rivals, trained, min_gain=0.5).kept


def test_questions_about_one_passage_count_as_one_observation() -> None:
    """Six groups of five that rise or fall together tell less than thirty questions that do so by themselves."""
    rivals, trained = {"without": Finds(lambda n: 2)}, Finds(lambda n: 1 if n % 6 < 4 else 4)
    alone, together = (judge(rivals, trained, groups=groups).gains["without"] for groups in (QUESTIONS, 6))
    assert alone["mean"] == together["mean"]
    assert together["high"] - together["low"] > 1.5 * (alone["high"] - alone["low"])


def test_the_page_says_what_was_decided_and_on_what() -> None:
    verdict = judge({"without": Finds(lambda n: 3)}, Finds(lambda n: 1))
    counts = {"questions/train": 70.0, "questions/held_out": 30.0, "negatives/mean": 6.5}
    page = gain.page("db#passages@3", "reranker", verdict, counts)
    assert "# reranker for db#passages@3" in page and "**Kept: on 30" in page
    assert "70 questions with 6.5 wrong passages" in page and "| without | +0.5000 [+0.5000, +0.5000] |" in page
