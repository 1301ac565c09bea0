"""A name's lineage changes with whatever decides its answers, and with nothing else."""

from pathlib import Path

from components.serving.lineage import served_lineage
from components.serving.settings import SearchOptions, ServedName


def _id(model: Path, name: ServedName, summaries: str | None = None) -> str:
    return served_lineage(name, model, "digest", "db#passages@3", "embedder", None, summaries)["lineage_id"]


def test_the_table_of_summaries_that_a_name_reads_is_in_its_lineage(tmp_path: Path) -> None:
    """One version of an index may be summarized anew, by another model: its answers are others then."""
    (tmp_path / "config.json").write_text("{}")
    name = ServedName(name="n", search=SearchOptions(mode="communities"))
    ids = [_id(tmp_path, name, f"db#passages_communities@{version}") for version in (1, 2, 1)]
    assert ids[0] == ids[2] != ids[1]
    plain = ServedName(name="n", search=SearchOptions())
    assert _id(tmp_path, plain) == _id(tmp_path, plain, None) != _id(tmp_path, name)


def test_what_auto_means_is_in_the_lineage_of_names_that_say_so(tmp_path: Path) -> None:
    """A second exam of the same version may choose another way, or another threshold."""
    (tmp_path / "config.json").write_text("{}")

    def of(mode: str, threshold: float) -> str:
        name = ServedName(name="n", search=SearchOptions(mode=mode))
        chosen = {"config": {"mode": "text"}, "abstention": {"signal": "bm25", "threshold": threshold}}
        return served_lineage(name, tmp_path, "digest", "db#p@3", "embedder", chosen=chosen)["lineage_id"]

    assert of("auto", 1.0) == of("auto", 1.0) != of("auto", 2.0)
    assert of("hybrid", 1.0) == of("hybrid", 2.0)


def test_a_strategy_and_its_options_are_in_the_lineage(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    names = [
        ServedName(name="n", search=SearchOptions(), strategy=strategy, options=options)
        for strategy, options in (("self_rag", {}), ("agentic_rag", {}), ("agentic_rag", {"searches": 2}))
    ]
    assert len({_id(tmp_path, name) for name in names}) == 3
