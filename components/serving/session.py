"""What the serve workflow does with a running server: asks it, has it answer held-out prompts, keeps it up."""

import json
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.serving import client
from components.serving.ingress import ServingPlan
from components.serving.keys import read_keys
from components.tracking.lineage import write_lineage
from components.tracking.run import Run

USERS = 16  # requests at a time in the evaluation, where the engine has room for as many
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exam:
    """Held-out questions that are answered over HTTP, and pairs that are ranked, as far as there are any."""

    tables: Mapping[str, str]  # questions, preferences → its reference, the version pinned
    questions: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]
    sides: Sequence[tuple[list[int], list[int]]]  # ids of the prompt and of an answer: chosen, rejected, chosen …
    max_tokens: int  # of an answer to a question


def make_exam(
    plan: ServingPlan, questions: str | None, preferences: str | None, limit: int | None, max_tokens: int
) -> Exam:
    """Read what is to be asked, before a server starts.

    Args:
        limit: how many questions, and how many pairs; none takes all.

    Raises:
        UserError: a table is missing, of another kind or has no test rows, no name gives prompts to the engine as they
            come, or the engine cannot read a pair.
    """
    from components.data import store
    from components.data.chat import ChatTemplate
    from components.data.evaluation import held_out_pairs, held_out_questions

    given = {"questions": questions, "preferences": preferences}
    tables = {name: store.pin(table) for name, table in given.items() if table}
    if not tables:
        return Exam({}, [], [], [], max_tokens)
    plain_name(plan)
    asked = held_out_questions(tables["questions"], limit) if questions else []
    pairs = held_out_pairs(tables["preferences"], limit) if preferences else []
    template = ChatTemplate.from_folder(plan.model)
    coded = [template.pair(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs]
    sides = [(one.prompt_ids, answer) for one in coded for answer in (one.chosen_ids, one.rejected_ids)]
    longest = max((len(prompt) + len(answer) for prompt, answer in sides), default=0)
    if longest >= plan.engine.max_model_len:
        raise UserError(
            f"{tables['preferences']} has a pair of {longest} tokens, and the engine reads fewer than "
            f"{plan.engine.max_model_len}: raise engine.max_model_len"
        )
    return Exam(tables, asked, pairs, sides, max_tokens)


def record(plan: ServingPlan, exam: Exam, run: Run) -> None:
    """Log what is served and asked, and write the endpoint's lineage into the run."""
    if plan.index:
        run.log_dataset("passages", plan.index, "serving")
    for name, table in exam.tables.items():
        run.log_dataset(name, table, "evaluation")
    parents = [plan.model, *([plan.index] if plan.index else []), *(adapter.folder for adapter in plan.adapters)]
    ids = {name: page["lineage_id"] for name, page in plan.lineage.items()}
    write_lineage(run.dir, kind="endpoint", run=run, parents=parents, facts={"names": ids})


def converse(
    url: str, keys: str | None, plan: ServingPlan, asked: Sequence[str], exam: Exam, run: Run
) -> tuple[dict[str, Any], dict[str, float]]:
    """Ask every name every question of ``asked``, then sit the exam; return (outputs, figures).

    Args:
        keys: the environment variable that holds the API keys.
    """
    key = next(iter(read_keys(keys)), None)
    outputs, figures = ask_names(url, key, plan, asked, run)
    evaluation: dict[str, dict[str, float]] = {}
    if exam.pairs:
        evaluation |= rank(url, key, plan, exam)
    if exam.questions:
        metrics, path, rates = answer(url, key, plan, exam, run)
        evaluation, figures = evaluation | metrics, figures | rates
        outputs |= {"answers": str(path)}
    return outputs | ({"evaluation": evaluation} if evaluation else {}), figures


def ask_names(
    url: str, key: str | None, plan: ServingPlan, questions: Sequence[str], run: Run
) -> tuple[dict[str, Any], dict[str, float]]:
    """Ask every name every question, write the transcript into the run, and return (outputs, figures)."""
    if not questions:
        return {}, {}
    exchanges = client.ask_all(url, key, [name.name for name in plan.names], questions)
    paths = client.write_transcript(run.dir, exchanges)
    for path in paths:
        run.log_artifact(path)
    return {"transcript": str(paths[0])}, client.figures(exchanges)


def plain_name(plan: ServingPlan) -> str:
    """Return the name that gives prompts to the engine as they come. Raises UserError where there is none."""
    for name in plan.names:
        if name.search is None and name.strategy == "direct":
            return name.name
    raise UserError("held-out prompts hold their passages already: declare a name without search and with 'direct'")


def users_of(plan: ServingPlan) -> int:
    """Return how many requests the evaluation sends at a time: never so many that one is refused for want of room.

    Serve counts one as queued until a replica took it, also where replicas have room: as many may be at once as its
    queue holds, less one for who scrapes ``/metrics`` meanwhile.
    """
    return max(1, min(USERS, plan.engine.max_queued - 1))


def rank(url: str, key: str | None, plan: ServingPlan, exam: Exam) -> dict[str, dict[str, float]]:
    """Have the plain name's engine say how likely the answers of held-out pairs are; return how often it is right.

    They are ranked as `evaluate` ranks a model's, so that both figures compare.
    """
    from components.data.evaluation import evaluate_pairs

    scores = client.mean_logprobs(url, key, plain_name(plan), exam.sides, users=users_of(plan))
    return evaluate_pairs(exam.pairs, list(zip(scores[::2], scores[1::2], strict=True)))


def answer(
    url: str, key: str | None, plan: ServingPlan, exam: Exam, run: Run
) -> tuple[dict[str, dict[str, float]], Path, dict[str, float]]:
    """Have the plain name answer held-out questions, many at a time; return (metrics, file of answers, rates).

    The answers are judged as `evaluate` judges a model's, so that both figures compare.
    """
    from components.data.evaluation import evaluate_answers

    prompts = [question["prompt"] for question in exam.questions]
    answers, seconds = client.answer_prompts(
        url, key, plain_name(plan), prompts, max_tokens=exam.max_tokens, users=users_of(plan)
    )
    path = write_answers(run, exam.questions, answers)
    rates = {
        "busy_tokens_per_s": sum(answer["tokens"] for answer in answers) / seconds,
        "busy_requests_per_s": len(answers) / seconds,
    }
    return evaluate_answers(exam.questions, answers), path, rates


def write_answers(run: Run, questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> Path:
    """Write the answers with their questions' ids into the run and return the file's path."""
    rows = [{"prompt_id": q["prompt_id"], **answer} for q, answer in zip(questions, answers, strict=True)]
    path = run.dir / "answers.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    run.log_artifact(path)
    return path


def wait_for_ctrl_c(url: str, plan: ServingPlan) -> None:
    """Say where the server answers, and wait; Ctrl-C and SIGTERM end the wait with KeyboardInterrupt."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    names = ", ".join(name.name for name in plan.names)
    logger.info("serving %s at %s/v1 until Ctrl-C", names, url)
    while True:
        time.sleep(1)
