"""Asks a server over HTTP with the ``openai`` client, and measures how it answers."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.progress import progress

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass(frozen=True)
class Exchange:
    """One question and what came back."""

    model: str
    question: str
    stream: bool
    request_id: str
    lineage_id: str
    content: str
    reasoning: str
    finish_reason: str
    citations: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    latency_s: float = 0.0
    ttft_s: float | None = None  # time to first token, of reasoning or content; streams only
    tokens_per_s: float | None = None  # after the first token; streams only


def connect(url: str, key: str | None) -> "OpenAI":
    """Return an ``openai`` client of the server; it does not retry, so that what it measures is one request."""
    from openai import OpenAI

    return OpenAI(base_url=f"{url}/v1", api_key=key or "none", max_retries=0, timeout=300)


def ask(client: "OpenAI", model: str, question: str) -> Exchange:
    """Ask and wait for the whole answer."""
    began = time.perf_counter()
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": question}]
    )
    answer = raw.parse()
    message, extra = answer.choices[0].message, answer.choices[0].message.model_extra or {}
    return Exchange(
        model=model,
        question=question,
        stream=False,
        request_id=answer.id,
        lineage_id=raw.headers.get("x-raylign-lineage", ""),
        content=message.content or "",
        reasoning=extra.get("reasoning") or "",
        finish_reason=answer.choices[0].finish_reason,
        citations=extra.get("citations") or [],
        usage=answer.usage.model_dump() if answer.usage else {},
        latency_s=time.perf_counter() - began,
    )


def ask_streaming(client: "OpenAI", model: str, question: str) -> Exchange:
    """Ask and read the answer as it comes."""
    began = time.perf_counter()
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
    )
    first, request_id, reason = None, "", ""
    written: dict[str, list[str]] = {"content": [], "reasoning": []}
    citations: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    for chunk in raw.parse():
        request_id = chunk.id
        usage = chunk.usage.model_dump() if chunk.usage else usage
        for choice in chunk.choices:
            extra = choice.delta.model_extra or {}
            for channel, text in (("content", choice.delta.content), ("reasoning", extra.get("reasoning"))):
                if text:
                    first = first or time.perf_counter()
                    written[channel].append(text)
            citations = extra.get("citations") or citations
            reason = choice.finish_reason or reason
    ended = time.perf_counter()
    rest = usage.get("completion_tokens", 0) - 1
    return Exchange(
        model=model,
        question=question,
        stream=True,
        request_id=request_id,
        lineage_id=raw.headers.get("x-raylign-lineage", ""),
        content="".join(written["content"]),
        reasoning="".join(written["reasoning"]),
        finish_reason=reason,
        citations=citations,
        usage=usage,
        latency_s=ended - began,
        ttft_s=first - began if first else None,
        tokens_per_s=rest / (ended - first) if first and rest > 0 else None,
    )


def ask_all(url: str, key: str | None, models: Sequence[str], questions: Sequence[str]) -> list[Exchange]:
    """Ask every question of every name, streaming and not, one after the other."""
    client, exchanges = connect(url, key), []
    total = 2 * len(models) * len(questions)
    for question in questions:
        for model in models:
            for way in (ask, ask_streaming):
                exchanges.append(way(client, model, question))
                progress(len(exchanges), total, "questions asked")
    return exchanges


def answer_prompts(
    url: str,
    key: str | None,
    model: str,
    prompts: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_tokens: int,
    users: int,
) -> tuple[list[dict[str, Any]], float]:
    """Send chat prompts at temperature 0, ``users`` at a time; return (answers in order, wall seconds).

    An answer holds ``text``, ``tokens``, ``finished`` (it was not cut off) and ``latency_s``.
    """
    client = connect(url, key)
    done = 0

    def answer(prompt: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        nonlocal done
        began = time.perf_counter()
        messages: Any = [dict(message) for message in prompt]
        got = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=max_tokens)
        done += 1
        progress(done, len(prompts), "held-out questions")
        return {
            "text": (got.choices[0].message.content or "").strip(),
            "tokens": got.usage.completion_tokens if got.usage else 0,
            "finished": got.choices[0].finish_reason == "stop",
            "latency_s": time.perf_counter() - began,
        }

    began = time.perf_counter()
    with ThreadPoolExecutor(max_workers=users) as pool:
        answers = list(pool.map(answer, prompts))
    return answers, time.perf_counter() - began


def mean_logprobs(
    url: str, key: str | None, model: str, sides: Sequence[tuple[Sequence[int], Sequence[int]]], *, users: int
) -> list[float]:
    """Return the mean natural log-probability of each answer's tokens after its prompt, ``users`` at a time.

    Args:
        sides: (ids of a prompt, ids of an answer to it).
    """
    client = connect(url, key)
    done = 0

    def score(side: tuple[Sequence[int], Sequence[int]]) -> float:
        nonlocal done
        prompt, own = side
        got = client.completions.create(
            model=model, prompt=[*prompt, *own], max_tokens=1, temperature=0, echo=True, logprobs=1
        )
        done += 1
        progress(done, len(sides), "held-out answers")
        found = got.choices[0].logprobs
        assert found is not None and found.token_logprobs is not None, "the engine gave no log-probabilities"
        return sum(found.token_logprobs[len(prompt) : len(prompt) + len(own)]) / len(own)

    with ThreadPoolExecutor(max_workers=users) as pool:
        return list(pool.map(score, sides))


def figures(exchanges: Sequence[Exchange]) -> dict[str, float]:
    """Return ttft_s, tokens_per_s (medians of the streams) and latency_p50_s, latency_p95_s (of all)."""
    import numpy as np

    firsts = [each.ttft_s for each in exchanges if each.ttft_s is not None]
    rates = [each.tokens_per_s for each in exchanges if each.tokens_per_s is not None]
    latencies = [each.latency_s for each in exchanges]
    found = {"ttft_s": firsts, "tokens_per_s": rates, "latency_p50_s": latencies}
    values = {name: float(np.median(given)) for name, given in found.items() if given}
    return values | ({"latency_p95_s": float(np.percentile(latencies, 95))} if latencies else {})


def write_transcript(folder: Path, exchanges: Sequence[Exchange]) -> list[Path]:
    """Write transcript.json and transcript.md into ``folder`` and return their paths."""
    as_json, as_text = folder / "transcript.json", folder / "transcript.md"
    rows = [asdict(each) for each in exchanges]
    as_json.write_text(json.dumps(rows, indent=2, ensure_ascii=False))
    as_text.write_text("\n".join(["# Questions asked over HTTP", *map(_as_markdown, exchanges)]) + "\n")
    return [as_json, as_text]


def _as_markdown(each: Exchange) -> str:
    way = f"streamed, first token after {each.ttft_s:.2f} s" if each.ttft_s else "not streamed"
    lines = [f"\n## {each.question}", f"*{each.model}, {way}, {each.latency_s:.2f} s*", ""]
    if each.reasoning:
        lines += [*(f"> {line}" for line in each.reasoning.strip().splitlines()), ""]
    lines.append(each.content.strip())
    for cited in each.citations:
        verdict = "verified" if cited["verified"] else "weak"
        where = f"{cited['title']} ({cited['source']})"
        lines.append(f"- [{cited['marker']}] {where}, {verdict}: “{' '.join(cited['quote'].split())}”")
    return "\n".join(lines)
