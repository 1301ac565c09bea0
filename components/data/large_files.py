"""Own preference files that memory does not hold: read, cleaned and written in parts, by Ray Data.

Pieces of files → rows → shuffled into parts → filters within a part → contamination and mix over all parts → tables.

All pairs with one prompt, whatever its case and white space, are in one part. So the filters that look for equal texts
decide as they do over all pairs at once, and what they need in memory is a part.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.config import UserError
from components.data import clean as cleaning
from components.data import data_card, preference_files, records, store, worker_tasks
from components.data.build import Built
from components.data.clean import CleanConfig
from components.data.curation import contamination, row_filters
from components.data.curation.row_filters import Verdicts
from components.data.curation.texts import normal, said
from components.data.row_files import Piece, piece_rows, pieces
from components.progress import progress

MOST_EVALUATED = 100_000  # test pairs whose texts and n-grams each worker holds: about 1 GB
_ROWS_PER_BLOCK = 4096
_LEAST_PARTITIONS = 200  # of the shuffle: as many as Ray Data makes if nobody asks
_LAST = 2**31  # sorts after every file
_READ = pa.schema(
    [
        ("part", pa.int32()),
        ("file", pa.int32()),
        ("order", pa.int64()),  # of its line within the file
        ("where", pa.string()),
        ("row", pa.large_string()),  # JSON of a row of `preferences`; null: the line makes none
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Job:
    """What the workers know; plain data."""

    parts: int
    config: CleanConfig
    test_share: float
    salt: str
    scratch: str  # LanceDB folder of the tables of each part


def write_files(
    uri: str, files: Mapping[str, Path], job: Job, session: Callable[[], AbstractContextManager[None]]
) -> Built:
    """Write what ``build.write_files`` writes, in parts.

    The tables hold the same rows, part by part; ``Built.pairs`` stays empty. The driver holds the ids of all training
    pairs where there is a mix, the votes of all pairs, and the lines that make no pair; otherwise a few numbers a pair.

    Args:
        session: connects to Ray, when all that can be refused has been.

    Raises:
        UserError: as ``build.write_files``; vectors would be compared, or too many test pairs with all others.
    """
    _refuse_vectors(job.config)
    contamination.evaluated_texts([], job.config.decontaminate)  # a table that is not there is told now
    work = list(_work(files))
    known = [piece.size for _, _, piece in work]
    if None not in known:
        _refuse_evaluated(int(sum(size or 0 for size in known) * job.test_share), job)
    try:
        with session():
            read = _read(work, job)
            for number, path in enumerate(files.values()):
                if not any(part["usable"].get(str(number)) for part in read):
                    left_out = sum(file == number for part in read for file, _, _ in part["left_out"])
                    raise UserError(preference_files.nothing_in(path, left_out))
            return _finish(uri, read, *_verdicts(read, job), job)
    finally:
        store.drop_all(job.scratch)


def _refuse_vectors(config: CleanConfig) -> None:
    """Raise a UserError where filters compare every pair with all others."""
    if config.uses_vectors:
        raise UserError(
            "in parts, pairs are compared by their words and not by vectors, which would be compared across all parts: "
            "set clean.duplicates.near=false clean.decontaminate.near=false, or parts=0 to clean all pairs at once"
        )


def _refuse_evaluated(pairs: int, job: Job) -> None:
    if job.config.decontaminate.test_split and pairs > MOST_EVALUATED:
        raise UserError(
            f"every worker would compare its pairs with about {pairs:,} test pairs, at most {MOST_EVALUATED:,}: "
            "make file_test_share smaller, or set clean.decontaminate.test_split=false"
        )


def _work(files: Mapping[str, Path]) -> Iterator[tuple[int, str, Piece]]:
    """Yield (number of the file, source, piece). Raises UserError where a file has none, or as ``pieces``."""
    for number, (source, path) in enumerate(files.items()):
        found = pieces(path)
        if not found:
            raise UserError(preference_files.nothing_in(path, 0))
        yield from ((number, source, piece) for piece in found)


def _read(work: Sequence[tuple[int, str, Piece]], job: Job) -> list[dict[str, Any]]:
    """Write a table of each part and of what was dropped from it; return the parts' counts."""
    tasks = [
        {"file": file, "source": source, "number": number, "of": len(work), "piece": asdict(piece)}
        for number, (file, source, piece) in enumerate(work, 1)
    ]
    rows = worker_tasks.as_dataset(tasks).map_batches(read_pieces, fn_kwargs={"job": job}, batch_size=1)
    shuffled = rows.groupby("part", num_partitions=max(_LEAST_PARTITIONS, job.parts))
    parts = shuffled.map_groups(clean_part, fn_kwargs={"job": job}, batch_format="pyarrow")
    return worker_tasks.results(parts, job.parts, "parts read")


def read_pieces(batch: Mapping[str, Any], job: Job) -> Iterator[pa.Table]:
    """Yield the rows of pieces of files, each with its part; runs on a worker."""
    for task in map(json.loads, batch["task"]):
        file, piece, rows = task["file"], Piece(**task["piece"]), list[dict[str, Any]]()
        for order, (where, record) in enumerate(piece_rows(piece), piece.before):
            made = preference_files.read_pair(record, where, job.test_share, job.salt, task["source"])
            text = where if isinstance(made, str) else normal(said(made["prompt"]))
            part = int(records.content_hash(text)[:8], 16) % job.parts
            told = {"row": None, "reason": made} if isinstance(made, str) else {"row": json.dumps(made), "reason": None}
            rows.append({"part": part, "file": file, "order": order, "where": where, **told})
            if len(rows) == _ROWS_PER_BLOCK:
                yield pa.Table.from_pylist(rows, schema=_READ)
                rows = []
        yield pa.Table.from_pylist(rows, schema=_READ)
        progress(task["number"], task["of"], "pieces of files")


def clean_part(group: pa.Table, job: Job) -> pa.Table:
    """Clean all that belongs to one part, as far as that can be done within it; runs on a worker."""
    part = group.column("part")[0].as_py()
    lines: dict[int, list[tuple[str, Any]]] = defaultdict(list)
    places = {}
    for line in group.sort_by([("file", "ascending"), ("order", "ascending")]).to_pylist():
        lines[line["file"]].append((line["where"], json.loads(line["row"]) if line["row"] else line["reason"]))
        places[line["where"]] = (line["file"], line["order"])
    found = preference_files.together([preference_files.collect(own) for own in lines.values()])
    cleaned = cleaning.clean_exactly(found.rows, job.config, found.copies)
    store.overwrite(job.scratch, f"read_{part}", cleaned.rows, records.PREFERENCE)
    store.overwrite(job.scratch, f"read_dropped_{part}", cleaned.dropped, records.DROPPED)
    usable = {str(file): sum(not isinstance(made, str) for _, made in own) for file, own in lines.items()}
    tests = sum(row["split"] == "test" for row in cleaned.rows)
    left_out = [(*places.get(item["where"], (_LAST, 0)), item) for item in found.left_out]
    return worker_tasks.told(part=part, conflicts=cleaned.conflicts, left_out=left_out, usable=usable, tests=tests)


def _verdicts(read: Sequence[Mapping[str, Any]], job: Job) -> tuple[dict[int, Verdicts], int]:
    """(part → what the filters over all parts drop, the number of evaluated answers that were set aside)."""
    _refuse_evaluated(sum(part["tests"] for part in read), job)
    numbers = [part["part"] for part in read]
    wanted = job.config.decontaminate
    compared = numbers if wanted.test_split else []
    tests = [row for part in compared for row in store.read(_ref(job, "read", part), where="split = 'test'")]
    evaluated = contamination.evaluated_texts(sorted(tests, key=lambda row: row["pair_id"]), wanted)
    by_part, phrases = _contaminated(numbers, evaluated, job) if evaluated else ({}, 0)
    if job.config.mix:
        left = [
            row | {"part": part}
            for part in numbers
            for row in store.read(_ref(job, "read", part), columns=["pair_id", "split", "source"])
            if row["pair_id"] not in by_part.get(part, ())
        ]
        mixed = row_filters.mix(left, job.config.mix, job.salt)
        for row in left:
            if row["pair_id"] in mixed:
                by_part.setdefault(row["part"], {})[row["pair_id"]] = mixed[row["pair_id"]]
    return by_part, phrases


def _contaminated(
    numbers: Sequence[int], evaluated: Sequence[contamination.Evaluated], job: Job
) -> tuple[dict[int, Verdicts], int]:
    """(part → what shows an evaluated text, the number of evaluated answers that were set aside)."""
    import ray

    asked = [{"part": part} for part in numbers]
    cpus = int(ray.cluster_resources().get("CPU", 1))
    found = worker_tasks.as_dataset(asked).map_batches(
        Matcher,
        fn_constructor_kwargs={"evaluated": ray.put(evaluated), "job": job},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(cpus, len(asked))),
    )
    matches, part_of = list[contamination.Match](), dict[str, int]()
    for told in sorted(worker_tasks.results(found, len(asked), "parts compared"), key=lambda told: told["part"]):
        for pair_id, prompt_id, item, reason, detail in told["matches"]:
            matches.append(contamination.Match(pair_id, prompt_id, evaluated[item], reason, detail))
            part_of[pair_id] = told["part"]
    verdicts, phrases = contamination.verdicts_of(matches)
    by_part: dict[int, Verdicts] = defaultdict(dict)
    for pair_id, verdict in verdicts.items():
        by_part[part_of[pair_id]][pair_id] = verdict
    return by_part, phrases


class Matcher:
    """Compares parts with what is evaluated; an actor, as the index of that takes a while to make."""

    def __init__(self, evaluated: Any, job: Job) -> None:
        import ray

        items = ray.get(evaluated)
        self._words, self._job = contamination.ByWords(items, job.config.decontaminate), job
        self._places = {(item.text, item.is_prompt): place for place, item in enumerate(items)}

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[pa.Table]:
        """Yield what was found in each part."""
        for task in map(json.loads, batch["task"]):
            rows = store.stream(_ref(self._job, "read", task["part"]))
            found = contamination.but_phrases(self._words.matches(rows))
            matches = [
                (one.pair_id, one.prompt_id, self._places[one.item.text, one.item.is_prompt], one.reason, one.detail)
                for one in found
            ]
            yield worker_tasks.told(part=task["part"], matches=matches)


def _finish(
    uri: str, read: Sequence[Mapping[str, Any]], verdicts: Mapping[int, Verdicts], phrases: int, job: Job
) -> Built:
    """Sort out what the verdicts say, part by part, and write the three tables, each in one commit."""
    numbers = sorted(part["part"] for part in read)
    tasks = [{"part": part, "verdicts": verdicts.get(part, {})} for part in numbers]
    done = worker_tasks.results(
        worker_tasks.as_dataset(tasks).map_batches(finish_part, fn_kwargs={"job": job}, batch_size=1),
        len(tasks),
        "parts sorted out",
    )
    splits, reasons = Counter[str](), Counter[str]()
    for part in done:
        splits.update(part["splits"])
        reasons.update(part["reasons"])
    cleaning.refuse_nothing(splits, reasons)
    tables = {
        output: store.overwrite_in_parts(uri, name, (store.read_arrow(_ref(job, output, n)) for n in numbers), schema)
        for output, name, schema in (
            ("preferences", "preferences", records.PREFERENCE),
            ("dropped", "preferences_dropped", records.DROPPED),
            ("demonstrations", "demonstrations", records.DEMONSTRATION),
        )
    }
    found = {"conflicts": sum(part["conflicts"] for part in read), "common_answers": phrases}
    lines = sorted((line for part in read for line in part["left_out"]), key=lambda line: line[:2])
    left_out = [item for _, _, item in lines]
    pairs, dropped = store.stream(tables["preferences"]), store.stream(tables["dropped"])
    card = data_card.describe(pairs, dropped, left_out, tables["preferences"], found)
    counts = preference_files.figures(Counter(item["reason"] for item in left_out), splits)
    return Built(tables, {**counts, **cleaning.figures(reasons, found), **data_card.figures(card)}, card, [], left_out)


def finish_part(batch: Mapping[str, Any], job: Job) -> Iterator[pa.Table]:
    """Write a part's share of the three tables; runs on a worker."""
    for task in map(json.loads, batch["task"]):
        part = task["part"]
        sorted_out = cleaning.sort_out(store.read(_ref(job, "read", part)), task["verdicts"])
        dropped = store.read(_ref(job, "read_dropped", part)) + sorted_out.dropped
        demonstrations = preference_files.demonstrations_of(sorted_out.rows)
        store.overwrite(job.scratch, f"preferences_{part}", sorted_out.rows, records.PREFERENCE)
        store.overwrite(job.scratch, f"dropped_{part}", dropped, records.DROPPED)
        store.overwrite(job.scratch, f"demonstrations_{part}", demonstrations, records.DEMONSTRATION)
        splits = Counter(row["split"] for row in sorted_out.rows)
        yield worker_tasks.told(part=part, splits=splits, reasons=Counter(row["reason"] for row in dropped))


def _ref(job: Job, name: str, part: int) -> str:
    return store.make_ref(job.scratch, f"{name}_{part}")
