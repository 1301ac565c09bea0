"""The measurement of strategies, with what answers scripted: grades, intervals, the table for auto, the plot."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import pytest

from components.config import UserError, parse
from components.data.generated_tasks import Task, TaskConfig
from components.reasoning.budget import Limits
from components.reasoning.measured import choose, read_table
from components.serving import reasoning_exam
from components.serving.reasoning_exam import Contender, ReasoningTask, Reply, evaluation, gains, measure, table_of
from components.serving.reasoning_figure import accuracy_figure, frontier
from components.serving.reasoning_sitting import keep
from components.serving.settings import ServedName

TASKS = [Task(f"What is {n} + 1?", "", str(n + 1), "arithmetic") for n in range(40)]
TASKS += [Task(f"A{n} is taller than B. Who is taller?", "", f"A{n}", "logic") for n in range(20)]
CONTENDERS = (
    Contender(name="cheap"),
    Contender(name="good", strategy="self_consistency", options={"samples": 2}),
    Contender(name="chooser", strategy="auto", options={"table": {}}),
)
NAMES = [contender.name for contender in CONTENDERS]


def answer(name, question):
    """cheap: every second sum is right, no logic; good: all right, ten times the tokens."""
    task = next(task for task in TASKS if task.question == question)
    place = TASKS.index(task)
    if name == "cheap":
        right = task.kind == "arithmetic" and place % 2 == 0
        return Reply(f"The answer is {task.answer if right else 'Nobody'}.", 10, 0.5)
    return Reply(f"so {task.answer}\nAnswer: {task.answer}", 100, 2.0, "length" if place == 0 else "stop")


@pytest.fixture(scope="module")
def graded():
    return measure(TASKS, NAMES, answer, users=3)


def test_every_contender_is_asked_everything_and_graded_by_its_final_answer(graded):
    assert [each.name for each in graded] == [name for name in NAMES for _ in TASKS]
    assert [each.task for each in graded[:60]] == TASKS
    page = evaluation(graded, NAMES)
    assert page["cheap"]["accuracy"]["mean"] == 20 / 60 and page["good"]["accuracy"]["mean"] == 1.0
    assert page["cheap"]["accuracy"]["low"] < 20 / 60 < page["cheap"]["accuracy"]["high"]
    assert page["good"]["tokens"]["mean"] == 100 and page["good"]["seconds"]["mean"] == 2.0
    assert page["good"]["accuracy_per_1000_tokens"] == 10.0
    assert (page["good"]["cut_off"], page["good"]["failed"]) == (1 / 60, 0.0)
    flat = reasoning_exam.metrics(page)
    assert flat["good/accuracy"] == 1.0 and flat["cheap/failed"] == 0.0 and flat["good/gain"] == pytest.approx(40 / 60)


def test_gains_are_paired(graded):
    gain = gains(graded, NAMES)
    assert set(gain) == {"good", "chooser"} and gain["good"]["mean"] == pytest.approx(40 / 60)
    assert 0.5 < gain["good"]["low"] < gain["good"]["high"] < 0.85
    assert gains(graded, ["good", "chooser"])["chooser"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 60}


def test_the_table_is_what_auto_reads_and_auto_is_not_in_it(graded):
    page = table_of(graded, CONTENDERS, model="digest", seed=3)
    table = read_table(json.loads(json.dumps(page)))
    assert (table.model, table.seed) == ("digest", 3) and {row.name for row in table.rows} == {"cheap", "good"}
    assert {row.kind for row in table.rows} == {"all", "arithmetic", "logic"}
    assert choose(table.rows, "logic").name == "good" and choose(table.rows, "all").name == "good"
    assert choose(table.rows, "arithmetic", tokens_left=20).name == "cheap"
    assert table_of(graded[:60], CONTENDERS[:1], model="digest", seed=3)["tasks"] == page["tasks"]
    assert table_of(graded[:59], CONTENDERS[:1], model="digest", seed=3)["tasks"] != page["tasks"]


@pytest.mark.parametrize("own", [{"temperature": 0.7}, {"budget": Limits(tokens=50)}])
def test_a_contender_with_a_temperature_or_budget_of_its_own_is_not_to_be_chosen(graded, own):
    contenders = (CONTENDERS[0], CONTENDERS[1].model_copy(update=own))
    table = read_table(table_of(graded, contenders, model="digest", seed=3))
    assert {row.name: row.as_chosen for row in table.rows} == {"cheap": True, "good": False}
    assert choose(table.rows, "logic").name == "cheap"


def test_as_many_are_asked_at_a_time_as_there_are_users():
    lock, now, most = threading.Lock(), [0], [0]

    def slow(name, question):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return Reply("1", 1, 0.01)

    measure(TASKS[:8], ["cheap"], slow, users=4)
    assert 1 < most[0] <= 4
    most[0] = 0
    measure(TASKS[:4], ["cheap"], slow, users=1)
    assert most[0] == 1


def test_a_question_that_fails_is_wrong_and_says_why_and_none_that_answers_is_no_measurement():
    def failing(name, question):
        if question == TASKS[0].question or name == "dead":
            raise ConnectionError("refused")
        return answer(name, question)

    graded = measure(TASKS[:4], ["good"], failing, users=1)
    assert not graded[0].right and graded[0].reply.error == "ConnectionError: refused"
    assert evaluation(graded, ["good"])["good"]["failed"] == 0.25
    with pytest.raises(RuntimeError, match=r"dead answered no question.*refused"):
        measure(TASKS[:4], ["good", "dead"], failing, users=1)


def test_a_question_that_the_server_had_no_room_for_is_no_wrong_answer():
    class RateLimitError(Exception):
        pass

    def full(name, question):
        if question == TASKS[0].question:
            raise RateLimitError("Error code: 429")
        return answer(name, question)

    with pytest.raises(RuntimeError, match=r"good: the server was full for 1 of 4 questions.*lower reasoning.users"):
        measure(TASKS[:4], ["good"], full, users=2)


def test_empty_and_malformed_replies_are_wrong():
    for text in ("", "Answer:", "I do not know", "{", "12 or 13"):
        assert not reasoning_exam.grade("x", TASKS[11], Reply(text, 0, 0.1)).right
    assert reasoning_exam.grade("x", TASKS[11], Reply('{"answer": 12}', 0, 0.1)).right


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("2024-05-17", "2024-05-17", True),
        (r"\frac{1}{2}", r"\frac{1}{2}", True),
        ("2 1/2", "2.5", True),
        ("2 dozen", "24", True),
        ("3 million", "3,000,000", True),
        ("May 17, 2024", "May 17, 2024", True),
        ("So she has 12 apples.", "12", True),
        ("5 miles", "5 km", False),
        ("x = 3 or x = 4", "4", False),
        ("June 17, 2024", "May 17, 2024", False),
    ],
)
def test_an_answer_without_an_announcement_is_graded_as_it_stands(reply, answer, right):
    task = Task("How much?", "", answer, "other")
    assert reasoning_exam.grade("x", task, Reply(reply, 1, 0.1)).right is right


def test_results_are_written_and_drawn(graded, tmp_path):
    table, logged = table_of(graded, CONTENDERS, model="digest", seed=0), []
    run = SimpleNamespace(dir=tmp_path, log_artifact=logged.append)
    result = keep(graded, table, NAMES, run, name="smollm2", seed=0)
    assert json.loads((tmp_path / "strategies.json").read_text()) == table
    lines = [json.loads(line) for line in (tmp_path / "reasoning_answers.jsonl").read_text().splitlines()]
    assert len(lines) == 180 and lines[0]["reply"]["tokens"] == 10 and lines[0]["right"] is True
    assert (tmp_path / "accuracy_per_token.png").stat().st_size > 5000 and len(logged) == 3
    assert set(result.outputs) == {"name", "answers", "table", "plot", "strategies"}
    assert result.metrics["good/accuracy"] == 1.0
    assert accuracy_figure(table).axes[0].get_title() == "all (n = 60)"


def test_the_frontier_has_what_no_cheaper_strategy_reaches():
    rows = [
        {"name": name, "accuracy": {"mean": mean}} for name, mean in (("a", 0.3), ("b", 0.2), ("c", 0.3), ("d", 0.5))
    ]
    assert [row["name"] for row in frontier(rows)] == ["a", "d"]


def test_questions_come_from_a_file_or_are_generated(tmp_path):
    file = tmp_path / "gsm.jsonl"
    rows = [{"question": f"q{n}", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(30)]
    file.write_text("\n".join(map(json.dumps, rows)))
    tasks = reasoning_exam.questions(ReasoningTask(file=str(file), limit=10), 1)
    assert len(tasks) == 10 and tasks == reasoning_exam.questions(ReasoningTask(file=str(file), limit=10), 1)
    assert tasks != reasoning_exam.questions(ReasoningTask(file=str(file), limit=10), 2)
    assert all(int(task.question[1:]) + 1 == int(task.answer) for task in tasks)
    made = reasoning_exam.questions(ReasoningTask(generated=TaskConfig(arithmetic=5, stories=5, logic=0)), 1)
    assert [task.kind for task in made] == ["arithmetic", "story"] * 5
    with pytest.raises(UserError, match="there are no questions"):
        reasoning_exam.questions(ReasoningTask(generated=TaskConfig(arithmetic=0, stories=0, logic=0)), 1)


def test_contenders_become_names_of_a_server_and_are_named_once():
    names = ReasoningTask(contenders=CONTENDERS, max_tokens=7).names()
    assert names[1] == ServedName(name="good", strategy="self_consistency", options={"samples": 2}, max_tokens=7)
    with pytest.raises(UserError, match="two contenders are called 'cheap'"):
        parse(ReasoningTask, {"contenders": [{"name": "cheap"}, {"name": "cheap"}]})


def test_contenders_are_measured_through_the_endpoint(server):
    """The whole way but the network's: the app's own answers, asked as the client reads them."""
    names = ReasoningTask(contenders=CONTENDERS[:2]).names()
    lineage = {name.name: {"model": name.name, "lineage_id": "x" * 16} for name in names}
    client, engine, _ = server(names=names, lineage=lineage)
    engine.reply = "Answer: 12"

    def ask(name, question):
        async def post():
            messages = [{"role": "user", "content": question}]
            return await client.post("/v1/chat/completions", json={"model": name, "messages": messages})

        body = asyncio.run(post()).json()
        choice = body["choices"][0]
        return Reply(choice["message"]["content"], body["usage"]["completion_tokens"], 0.1, choice["finish_reason"])

    graded = measure(TASKS[10:12], ["cheap", "good"], ask, users=1)
    assert [each.right for each in graded] == [False, True, False, True]
    assert [each.reply.tokens for each in graded] == [2, 2, 4, 4]


def test_a_sitting_serves_asks_and_keeps(monkeypatch, tmp_path):
    import contextlib

    from components.serving import reasoning_sitting

    served, logged = {}, []
    page = {"decided_by": {"model": "digest"}}

    def make_plan(**given):
        served.update(given)
        return SimpleNamespace(plain_lineage=page)

    monkeypatch.setattr(reasoning_sitting.app, "make_plan", make_plan)
    monkeypatch.setattr(reasoning_sitting.app, "serving", lambda plan, host, port: contextlib.nullcontext("http://x"))
    monkeypatch.setattr(reasoning_exam, "asker", lambda url: lambda name, question: Reply("yes", 3, 0.1))
    run = SimpleNamespace(dir=tmp_path, log_artifact=logged.append)
    task = ReasoningTask(generated=TaskConfig(arithmetic=0, stories=0, logic=20), contenders=CONTENDERS[:2])
    result = reasoning_sitting.sit(task, "a-model", str(tmp_path), run, name="tiny", seed=1)
    assert [name.name for name in served["names"]] == ["cheap", "good"] and served["model"] == "a-model"
    table = read_table(json.loads((tmp_path / "strategies.json").read_text()))
    assert table.model == "digest" and result.outputs["table"] == str(tmp_path / "strategies.json")
    assert 0 < result.metrics["cheap/accuracy"] == result.metrics["good/accuracy"] < 1
    assert result.outputs["strategies"]["good"]["gain"]["mean"] == 0
