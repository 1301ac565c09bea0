"""Log-probabilities of preference pairs under the reference model: computed once by Ray Data, then looked up."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import Config, Field, UserError
from components.data import store
from components.data.chat import ChatTemplate
from components.progress import progress
from components.training.launch import worker_cores
from components.training.settings import ScaleConfig

TABLE = "reference_logprobs"


class ScoringConfig(Config):
    """How the reference model is run over the pairs."""

    actors: int = Field(1, ge=1, description="Ray Data actors, each with its own copy of the model")
    cpus_per_actor: int | None = Field(None, ge=1, description="cores of an actor; none shares out the cluster's")
    gpu: bool | None = Field(None, description="give each actor a GPU; none: if training's workers have one")
    batch_pairs: int = Field(32, ge=1, description="pairs handed to an actor at once; written to the table together")
    max_batch_tokens: int = Field(2048, ge=1, description="tokens of one forward pass, padding included")

    def beside(self, trains_on_gpu: bool) -> "ScoringConfig":
        """Return this with ``gpu`` as training's, where it was left open."""
        return self if self.gpu is not None else self.model_copy(update={"gpu": trains_on_gpu})

    def cores(self) -> int:
        """Return the cores of each actor on the cluster at hand.

        Raises:
            UserError: no host has room for one.
        """
        scale = ScaleConfig(workers=self.actors, cpus_per_worker=self.cpus_per_actor, gpu=bool(self.gpu))
        return worker_cores(scale)


@dataclass(frozen=True)
class Reference:
    """Which model, read through which template, in which number format, a log-probability belongs to."""

    model: Path
    digest: str
    template_digest: str
    dtype: str
    nf4: bool = False  # linear layers in 4 bits, as a QLoRA policy's are: it is its own reference without its adapter

    def key(self, row: Mapping[str, Any]) -> str:
        """Return the key of a pair's row in the table; it depends on the tokens, should two pairs share an id."""
        tokens = [list(row[side]) for side in ("prompt_ids", "chosen_ids", "rejected_ids")]
        parts = [row["pair_id"], self.digest, self.dtype, self.template_digest, tokens]
        return hashlib.sha256(json.dumps(parts + ["nf4"] * self.nf4).encode()).hexdigest()


PAIR_COLUMNS = ("pair_id", "prompt", "chosen", "rejected")


def pair_ids(template: ChatTemplate) -> Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]]:
    """Return the function that makes a preference row its ids, and counts the tokens of its longer side."""

    def convert(row: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        pair = template.pair(row["prompt"], row["chosen"], row["rejected"])
        ids = {
            "pair_id": row["pair_id"],
            "prompt_ids": pair.prompt_ids,
            "chosen_ids": pair.chosen_ids,
            "rejected_ids": pair.rejected_ids,
        }
        return ids, len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))

    return convert


def reference_logprobs(
    uri: str, rows: Sequence[Mapping[str, Any]], reference: Reference, config: ScoringConfig
) -> tuple[dict[str, tuple[float, float]], int]:
    """Return {pair_id: (chosen, rejected)} sums of natural-log probabilities, and how many had to be computed.

    Rows are ``pair_ids``'. What the table in ``uri`` lacks is computed and kept there batch by batch, so that
    a run that is killed goes on where it was. Needs a Ray session if anything is missing.

    Raises:
        UserError: two pairs share an id, and their log-probabilities could be taken for one another's.
    """
    from components.data.records import REFERENCE_LOGPROB

    keys: dict[str, str] = {}
    for row in rows:
        key = reference.key(row)
        if keys.setdefault(row["pair_id"], key) != key:
            raise UserError(f"two different pairs have the pair_id {row['pair_id']!r}: give each pair an id of its own")
    known = _known(uri, keys, reference)
    missing = [row for row in rows if row["pair_id"] not in known]
    for done, batch in _score(missing, reference, config):
        records = [_record(row, keys[row["pair_id"]], reference) for row in batch]
        store.write(uri, TABLE, records, schema=REFERENCE_LOGPROB, key="key")
        known |= {row["pair_id"]: (row["chosen_logprob"], row["rejected_logprob"]) for row in batch}
        progress(done, len(missing), "reference pairs")
    return known, len(missing)


@dataclass
class Cache:
    """The kept log-probabilities of one reference model, in the table of ``uri``."""

    uri: str
    reference: Reference
    config: ScoringConfig
    computed: int = 0  # pairs that the table lacked
    seconds: float = 0.0  # that looking up took, or computing

    def look_up(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, tuple[float, float]], int]:
        """As ``reference_logprobs``."""
        started_s = time.monotonic()
        found, computed = reference_logprobs(self.uri, rows, self.reference, self.config)
        self.computed, self.seconds = self.computed + computed, self.seconds + time.monotonic() - started_s
        return found, computed

    @property
    def figures(self) -> dict[str, float]:
        """Return what has been computed so far, and the time that it and looking up took."""
        return {"rows/scored": float(self.computed), "time/reference": self.seconds}


class Scorer:
    """A Ray Data actor that holds the reference model."""

    def __init__(
        self, model: str, dtype: str, nf4: bool, pad_id: int, max_batch_tokens: int, threads: int, gpu: bool
    ) -> None:
        from components.models.load import load_model, set_threads
        from components.models.output_head import check_head

        set_threads(threads)
        self.model = load_model(model, dtype, nf4=nf4)  # type: ignore[arg-type]
        check_head(self.model)
        if gpu:
            self.model = self.model.to("cuda")
        self.pad_id, self.max_batch_tokens = pad_id, max_batch_tokens

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add ``chosen_logprob`` and ``rejected_logprob`` to a batch of pairs."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        scores = score_pairs(self.model, rows, self.pad_id, self.max_batch_tokens)
        return {
            "pair_id": batch["pair_id"],
            "chosen_logprob": [chosen for chosen, _ in scores],
            "rejected_logprob": [rejected for _, rejected in scores],
        }


def score_pairs(
    model: Any, rows: Sequence[Mapping[str, Any]], pad_id: int, max_batch_tokens: int
) -> list[tuple[float, float]]:
    """Return (chosen, rejected) sums of log-probabilities of each pair, in the order given."""
    import torch

    from components.models.logprobs import batches_by_length
    from components.models.packing import can_share_prompt
    from components.training.completion_head import completion_forward
    from components.training.preference_rows import collate_pairs

    share = 2 if can_share_prompt(model) else 1
    lengths = [sum(len(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")) for row in rows]
    scores: list[tuple[float, float]] = [(0.0, 0.0)] * len(rows)
    for numbers in batches_by_length(lengths, max_batch_tokens):
        batch = collate_pairs([rows[number] for number in numbers], pad_id)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        with torch.inference_mode():
            sums = completion_forward(model, **batch, share=share).log_probs.sum(1).tolist()
        for at, number in enumerate(numbers):
            scores[number] = (sums[at], sums[len(numbers) + at])
    return scores


def _known(uri: str, keys: Mapping[str, str], reference: Reference) -> dict[str, tuple[float, float]]:
    ref = store.make_ref(uri, TABLE)
    if not store.exists(ref):
        return {}
    condition = f"reference_digest = '{reference.digest}' and template_digest = '{reference.template_digest}'"
    wanted = {key: pair_id for pair_id, key in keys.items()}
    rows = store.read(ref, where=condition)
    return {
        wanted[row["key"]]: (row["chosen_logprob"], row["rejected_logprob"]) for row in rows if row["key"] in wanted
    }


def _score(missing: Sequence[Mapping[str, Any]], reference: Reference, config: ScoringConfig) -> Any:
    """Yield (pairs done, rows with their log-probabilities), a batch at a time."""
    if not missing:
        return
    import ray.data

    from components.config import CPU_ENV

    cores = config.cores()
    pad_id = ChatTemplate.from_folder(reference.model).pad_id
    how = (reference.dtype, reference.nf4)
    arguments = (str(reference.model), *how, pad_id, config.max_batch_tokens, cores, bool(config.gpu))
    missing = sorted(missing, key=lambda row: len(row["prompt_ids"]))  # rows of like length share a batch
    scored = ray.data.from_items(missing, override_num_blocks=-(-len(missing) // config.batch_pairs)).map_batches(
        Scorer,
        fn_constructor_args=arguments,
        batch_size=config.batch_pairs,
        compute=ray.data.ActorPoolStrategy(size=config.actors),
        num_cpus=cores,
        num_gpus=1 if config.gpu else None,
        runtime_env={"env_vars": {**CPU_ENV, "OMP_NUM_THREADS": str(cores)}},
    )
    done = 0
    for batch in scored.iter_batches(batch_size=config.batch_pairs, batch_format="pyarrow"):
        rows = batch.to_pylist()
        done += len(rows)
        yield done, rows


def _record(row: Mapping[str, Any], key: str, reference: Reference) -> dict[str, Any]:
    return {
        "key": key,
        "pair_id": row["pair_id"],
        "reference_digest": reference.digest,
        "template_digest": reference.template_digest,
        "chosen_logprob": row["chosen_logprob"],
        "rejected_logprob": row["rejected_logprob"],
    }
