"""What rows say: ties, contradictions, repeats, leaks, labels of one kind."""

from components.data.chat import ChatTemplate
from components.training.doctor import contents
from components.training.doctor.findings import State


def _said(text: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": text}]


def _pair(number: int, chosen: str, rejected: str, split: str = "train", prompt: str | None = None, **more) -> dict:
    prompt = prompt or f"question {number}"
    scores = {"chosen_score": 1.0, "rejected_score": 0.0}
    ids = {"pair_id": f"p{number}-{split}", "prompt_id": prompt, "split": split}
    return {
        **ids,
        **scores,
        "prompt": _said(prompt, "user"),
        "chosen": _said(chosen),
        "rejected": _said(rejected),
        **more,
    }


def _even(count: int) -> list[dict]:
    """Pairs in half of which the chosen answer is the longer one."""
    answers = ("a long answer", "short")
    return [_pair(number, answers[number % 2], answers[1 - number % 2]) for number in range(count)]


def _pairs(train, test=()) -> dict:
    return {one.check: one for one in contents.pairs(train, test)}


def test_pairs_without_a_fault_are_fine():
    assert {one.state for one in _pairs(_even(20)).values()} == {State.FINE}
    assert contents.splits(_even(20), _even(2)).state is State.FINE
    assert contents.leaks(_even(20), [_pair(99, "yes", "no", "test")]).state is State.FINE


def test_each_fault_of_pairs_is_told_by_its_name():
    tie = _pair(50, "the same", "The  same")
    backwards = _pair(51, "good", "bad!", chosen_score=0.0, rejected_score=1.0)
    found = _pairs([*_even(20), tie, backwards])
    assert found["ties"].state is State.PROBLEM and "2 of 22 pairs" in found["ties"].text
    assert "1 same_answers" in found["ties"].text and "1 scores_contradict" in found["ties"].text
    one, other = _pair(60, "yes", "nope", prompt="really?"), _pair(61, "nope", "yes", prompt="really?")
    assert "2 of 22 pairs contradict" in _pairs([*_even(20), one, other])["conflicts"].text
    again = [_pair(number, "a long answer", "short", prompt="question 0") for number in (70, 71)]
    found = _pairs([*_even(20), *again])["repeats"]
    assert found.state is State.PROBLEM and "2 of 22 rows come again" in found.text  # those two repeat pair 0


def test_one_fault_in_many_pairs_is_worth_a_look_only():
    found = _pairs([*_even(200), _pair(500, "the same", "the same")])
    assert found["ties"].state is State.LOOK and "1 of 201" in found["ties"].text


def test_a_held_out_answer_in_a_training_pair_is_contamination():
    secret = "one two three four five six seven eight nine ten eleven twelve"
    held_out = [_pair(80, secret, "short", "test")]
    found = _pairs([*_even(20), _pair(81, f"as they say: {secret}", "short", prompt="another")], held_out)
    assert found["contamination"].state is State.PROBLEM and "1 contaminated_words" in found["contamination"].text
    assert _pairs(_even(20), held_out)["contamination"].state is State.FINE


def test_a_prompt_in_both_splits_is_a_problem_whatever_its_spelling():
    test = [_pair(90, "yes", "no", "test", prompt="Question  3")]
    found = contents.leaks(_even(200), test)
    assert found.state is State.PROBLEM and "1 of 200" in found.text


def test_answers_that_win_by_length_are_worth_a_look():
    longer = [_pair(number, "a long answer", "short") for number in range(8)]
    found = _pairs([*longer, *_even(2)])["length bias"]  # 9 of 10
    assert found.state is State.LOOK and "90%" in found.text
    shorter = [_pair(number, "short", "a long answer") for number in range(8)]
    assert "10%" in _pairs([*shorter, *_even(2)])["length bias"].text


def test_answers_of_one_length_have_no_bias():
    same = [_pair(number, "A", "B") for number in range(8)]
    assert _pairs(same)["length bias"].state is State.FINE


def test_pairs_that_nobody_scored_are_no_ties():
    rows = [{**row, "chosen_score": None, "rejected_score": None} for row in _even(4)]
    assert _pairs(rows)["ties"].state is State.FINE
    for row in rows:
        del row["chosen_score"], row["rejected_score"]
    assert _pairs(rows)["ties"].state is State.FINE
    assert "1 of 5" in _pairs([*rows, {**rows[0], "pair_id": "t", "rejected": rows[0]["chosen"]}])["ties"].text


def test_steps_need_labels():
    labels = [[1.0, 0.0], [None, 1.0], [None]]
    rows = [{"steps": [{"text": "so", "label": label} for label in own]} for own in labels]
    assert contents.steps(rows[:2]).state is State.FINE
    found = contents.steps(rows)
    assert found.state is State.LOOK and "1 of 3" in found.text
    assert contents.steps(rows[2:]).state is State.PROBLEM


def test_steps_that_cannot_be_read_are_counted(tiny_model_dir):
    template = ChatTemplate.from_folder(tiny_model_dir)
    prompt = [{"role": "user", "content": "What is 2+3?"}]
    good = {"prompt": prompt, "steps": [{"text": "2+3", "label": 1.0}, {"text": "= 5\nso 5", "label": 1.0}]}
    bad = {"prompt": prompt, "steps": [{"text": " ", "label": 1.0}, {"text": "5", "label": None}]}
    assert contents.unread([good], template).state is State.FINE
    found = contents.unread([good] * 10 + [bad], template)
    assert found.state is State.LOOK and "1 of 21 labelled steps cannot be read" in found.text
    assert contents.unread([good, bad], template).state is State.PROBLEM


def test_splits_without_rows():
    assert contents.splits([], _even(2)).state is State.PROBLEM
    found = contents.splits(_even(2), [])
    assert found.state is State.LOOK and "2 rows to train on, 0 held out" in found.text
    assert contents.splits(_even(2), [], needs_test=True).state is State.PROBLEM
    assert contents.splits([], _even(2), learned=False).text == "2 rows held out"


def test_labels_need_both_kinds():
    rows = [
        {"prompt": _said(f"q{number}", "user"), "completion": _said("so"), "label": number < 1} for number in range(40)
    ]
    found = {one.check: one for one in contents.labelled(rows)}
    assert found["labels"].state is State.LOOK  # 1 of 40 is 2.5 %
    assert found["repeats"].state is State.FINE
    bad = [{**row, "label": False} for row in rows]
    assert contents.labelled(bad)[0].state is State.PROBLEM
    half = [{**row, "label": number % 2 == 0} for number, row in enumerate(rows)]
    assert "50% of the answers are good" in contents.labelled(half)[0].text


def test_demonstrations_that_come_again_are_counted():
    once = [{"prompt": _said(f"q{number}", "user"), "completion": _said("so")} for number in range(30)]
    assert contents.answers(once).state is State.FINE
    assert contents.answers([*once, once[0]]).state is State.LOOK  # 1 of 31 is 3.2 %
    found = contents.answers([*once, *once[:3]])
    assert found.state is State.PROBLEM and "3 of 33" in found.text
