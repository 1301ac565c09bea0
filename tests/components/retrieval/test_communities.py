"""Groups of passages: what holds them together, what is written of them, and how a search brings them."""

from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.models.sources import digest
from components.retrieval import communities, facts
from components.retrieval.communities import Communities, divide
from components.retrieval.embed import Embedder
from components.retrieval.graph import Named
from components.retrieval.retrieve import RetrieveConfig, Retriever

MODEL = {"url": "http://127.0.0.1:9/v1", "model": "writer"}


def _clique(head: str, names: list[str], n: int) -> list[Named]:
    """Passages of which each mentions all of the names."""
    return [Named(f"{head}{number}", (), tuple(names)) for number in range(n)]


def test_passages_that_share_names_are_a_group_and_one_link_does_not_join_two() -> None:
    passages = [*_clique("ice", ["glacier", "moraine"], 4), *_clique("bread", ["flour", "yeast"], 5)]
    passages.append(Named("both", (), ("glacier", "yeast")))
    passages.append(Named("alone", (), ("nothing else",)))
    found = divide(passages, smallest=3, largest=40)
    own = [{passages[place].passage_id for place in group.places} - {"both"} for group in found]
    assert own == [{f"ice{n}" for n in range(4)}, {f"bread{n}" for n in range(5)}]
    assert [set(group.names) for group in found] == [{"glacier", "moraine"}, {"flour", "yeast"}]
    assert {(group.level, group.parent) for group in found} == {(0, None)}
    assert divide(passages, smallest=3, largest=40) == found


def test_small_groups_are_left_out_and_a_corpus_without_names_has_none() -> None:
    passages = [*_clique("ice", ["glacier", "moraine"], 4), *_clique("bread", ["flour", "yeast"], 5)]
    assert [len(group.places) for group in divide(passages, smallest=5, largest=40)] == [5]
    assert divide([Named("a", (), ()), Named("b", ("x",), ())], smallest=2, largest=40) == []


def test_a_large_group_is_divided_again_into_parts_of_it() -> None:
    """In a ring of 60 small cliques modularity joins neighbours, as each is less than sqrt(2m) of all links."""
    passages = []
    for number in range(60):
        passages += _clique(f"{number}.", [f"{number}a", f"{number}b"], 3)
        passages.append(Named(f"{number}-", (), (f"{number}a", f"{(number + 1) % 60}a")))
    found = divide(passages, smallest=3, largest=5)
    tops = [group for group in found if group.level == 0]
    assert max(len(group.places) for group in tops) > 5
    parts = [(place, group) for place, group in enumerate(found) if group.parent is not None]
    assert parts
    for place, group in parts:
        parent = found[group.parent]
        assert group.parent < place and group.level == parent.level + 1
        assert set(group.places) < set(parent.places) and len(parent.places) > 5
    assert divide(passages, smallest=3, largest=240) == tops


def test_of_a_dotted_name_and_its_last_part_one_is_kept() -> None:
    passages = _clique("p", ["shutil.copy2", "copy2", "stat"], 4)
    (group,) = divide(passages, smallest=3, largest=40)
    assert sorted(len(name.split(".")) for name in group.names if "copy2" in name) in ([1], [2])
    assert "stat" in group.names and len(group.names) == 2


TEXTS = {
    "ice": [
        "A `glacier` is a river of ice. It ends in a `moraine`.",
        "The `moraine` is what a `glacier` has left behind.",
        "Where a `glacier` meets the sea, its `moraine` is drowned.",
        "No `glacier` without a `moraine` is known.",
    ],
    "bread": [
        "A `sourdough` needs flour, and a `starter` that is fed.",
        "The `starter` of a `sourdough` lives on flour and water.",
        "Old `sourdough` is used as a `starter` for new bread.",
        "A cold `starter` makes the `sourdough` rise slowly.",
    ],
    "other": ["Nothing is named here."],
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> str:
    rows = []
    for name, texts in TEXTS.items():
        start = 0
        for text in texts:
            shared = dict.fromkeys(PASSAGE.names, name) | {"corpus": "c", "embedder": digest(minilm), "symbol": None}
            own = {"passage_id": f"{name}:{start}", "text": text, "metadata": "{}", "n_tokens": len(text.split())}
            rows.append(shared | own | {"start": start, "end": start + len(text)})
            start += len(text) + 2
    vectors = Embedder(minilm, "float32").documents([row["text"] for row in rows])
    rows = [row | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
    uri = str(tmp_path_factory.mktemp("db"))
    store.write(uri, "passages", rows, schema=passage_schema(384), key="passage_id")
    return search.create_fulltext(f"{uri}#passages", "text")


@pytest.fixture
def made(index: str, minilm: Path) -> str:
    communities.build(index, minilm, Communities())
    return index


def _ids(head: str, texts: list[str]) -> list[str]:
    places = np.cumsum([0, *(len(text) + 2 for text in texts[:-1])])
    return [f"{head}:{place}" for place in places]


def test_a_summary_is_kept_with_its_passages_and_with_who_wrote_it(made: str) -> None:
    fact = facts.read(made, communities.KIND)
    assert {key: fact[key] for key in ("communities", "left_out", "by", "model")} == {
        "communities": 2,
        "left_out": 0,
        "by": "sentences",
        "model": None,
    }
    rows = {row["source"].rpartition(" ")[2]: row for row in store.read(communities.table_of(made))}
    assert set(rows) == {"ice", "bread"}
    assert sorted(rows["ice"]["members"]) == sorted(_ids("ice", TEXTS["ice"]))
    assert rows["ice"]["source"] == "4 passages of ice" and rows["ice"]["corpus"] == "c"
    assert set(rows["ice"]["title"].split(", ")) == {"glacier", "moraine"}
    sentences = {f"{one.rstrip('.')}." for text in TEXTS["ice"] for one in text.split(". ")}
    told = [f"{one.rstrip('.')}." for one in rows["ice"]["text"].split(". ")]
    assert len(told) > 1 and set(told) <= sentences and len(rows["ice"]["text"].split()) <= 45
    assert abs(np.linalg.norm(rows["ice"]["vector"]) - 1) < 1e-3


def test_a_model_writes_each_summary_and_what_it_leaves_empty_is_counted(index: str, minilm: Path, caplog) -> None:
    config = Communities(by="model", language_model=MODEL)
    asked = []

    def generate(instruction: str) -> str:
        asked.append(instruction)
        return "Ice that moves, and what it leaves." if "glacier" in instruction else ""

    (row,) = store.read(communities.build(index, minilm, config, generate))
    assert row["text"] == "Ice that moves, and what it leaves." and len(asked) == 2
    fact = facts.read(index, communities.KIND)
    assert (fact["communities"], fact["left_out"], fact["by"], fact["model"]) == (1, 1, "model", "writer")
    assert "1 of 2 groups have no summary" in caplog.text


def test_what_cannot_be_made_is_refused_and_what_was_there_stays(made: str, minilm: Path, tmp_path: Path) -> None:
    before = communities.table_of(made)

    def silent(instruction: str) -> str:
        return ""

    def broken(instruction: str) -> str:
        raise UserError("the language model does not answer")

    config = Communities(by="model", language_model=MODEL)
    for generate, message in ((None, "there is none"), (silent, "wrote none of 2"), (broken, "does not answer")):
        with pytest.raises(UserError, match=message):
            communities.build(made, minilm, config, generate)
    with pytest.raises(UserError, match="share too few names for groups of 9"):
        communities.build(made, minilm, Communities(smallest=9))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="another embedder"):
        communities.build(made, tmp_path, Communities())
    assert communities.table_of(made) == before


def test_a_part_is_summarized_before_what_it_is_part_of() -> None:
    """The parent reads its parts' summaries in place of its passages."""
    import pyarrow as pa

    groups = [
        communities.Community((0, 1, 2, 3), ("all",), 0, None),
        communities.Community((0, 1), ("first",), 1, 0),
        communities.Community((2, 3), ("second",), 1, 0),
    ]
    passages = pa.table(
        {
            "passage_id": list("abcd"),
            "corpus": ["c", "c", "d", "d"],
            "source": [None, "s", "s", "s"],
            "text": [f"text {letter}" for letter in "abcd"],
            "n_tokens": [1] * 4,
            "vector": pa.array(np.eye(4, dtype=np.float32).tolist(), pa.list_(pa.float32(), 4)),
        }
    )
    asked = []

    def generate(instruction: str) -> str:
        asked.append(instruction)
        return f"Summary {len(asked)}."

    config = Communities(by="model", language_model=MODEL)
    whole, first, second = communities._rows(groups, passages, config, generate)
    assert "text c" in asked[0] and "text a" in asked[1]
    assert "- Summary 2.\n- Summary 1." in asked[2] and "text" not in asked[2].partition("\n\n- ")[2]
    assert (whole["parent"], first["parent"], second["parent"]) == (None, whole["passage_id"], whole["passage_id"])
    assert (whole["corpus"], first["corpus"], first["level"]) == ("", "c", 1) and len(whole["members"]) == 4
    assert len({row["passage_id"] for row in (whole, first, second)}) == 3


def test_a_search_brings_the_summaries_that_fit_before_the_passages(made: str, minilm: Path) -> None:
    hybrid = Retriever(made, minilm, RetrieveConfig())
    query = "What is there to know about a glacier and its ice?"
    way = hybrid.with_config(RetrieveConfig(mode="communities", communities=1, k=4))
    first, *rest = way.search(query)
    assert first.passage_id.startswith("community:") and first.source == "4 passages of ice"
    assert (first.start, first.end, first.doc_id) == (0, len(first.text), first.passage_id)
    plain = hybrid.search(query, k=3)
    assert [hit.passage_id for hit in rest] == [hit.passage_id for hit in plain]
    assert first.score >= rest[0].score
    both = hybrid.with_config(RetrieveConfig(mode="communities", k=4)).search(query)
    assert [hit.source for hit in both[:2]] == ["4 passages of ice", "4 passages of bread"]
    assert not both[2].passage_id.startswith("community:")


def test_summaries_go_through_the_other_stages(made: str, minilm: Path) -> None:
    hybrid = Retriever(made, minilm, RetrieveConfig())
    query = "What is there to know about a glacier?"
    for options in ({"novelty": 0.5}, {"expand": "neighbours"}, {"fusion": "weighted", "novelty": 0.3}):
        hits = hybrid.with_config(RetrieveConfig(mode="communities", k=5, **options)).search(query)
        own = [hit for hit in hits if hit.passage_id.startswith("community:")]
        texts = [row["text"] for row in store.read(communities.table_of(made))]
        assert own and all(hit.text in texts for hit in own)


def test_a_summary_of_which_a_passage_is_hidden_is_hidden(made: str, minilm: Path) -> None:
    way = Retriever(made, minilm, RetrieveConfig(mode="communities", k=9))
    assert sum(hit.passage_id.startswith("community:") for hit in way.search("glacier and sourdough")) == 2
    one = _ids("ice", TEXTS["ice"])[2]
    hits = way.search("glacier and sourdough", where=f"passage_id != '{one}'")
    assert [hit.source for hit in hits if hit.passage_id.startswith("community:")] == ["4 passages of bread"]
    assert one not in {hit.passage_id for hit in hits}
    assert way.search("glacier", where="doc_id = 'nothing'") == []


def test_without_summaries_the_mode_is_refused_with_what_makes_them(index: str, minilm: Path, tmp_path: Path) -> None:
    row = store.read(index)[0]
    bare = store.write(str(tmp_path), "bare", [row], schema=passage_schema(384), key="passage_id")
    search.create_fulltext(bare, "text")
    with pytest.raises(UserError, match=r"no summaries of communities.*exam_index with communities=true"):
        Retriever(bare.partition("@")[0], minilm, RetrieveConfig(mode="communities"))
