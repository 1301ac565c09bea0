"""Names in texts, the walk against a dense linear solve, and a link that no shared word makes."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from components.retrieval.entities import entities, forms
from components.retrieval.graph import Graph, Named, named, personalised_pagerank


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It calls os.path.join on each.", {"os.path.join", "join"}),
        ("Like `copy2()` but keeps links.", {"copy2"}),
        ("Raises OSError when read_bytes fails.", {"oserror", "read_bytes"}),
        ("The Bank of England and Marie Curie met.", {"bank of england", "marie curie"}),
        ("nothing here looks like a name", set()),
    ],
)
def test_names_are_what_looks_like_one(text: str, expected: set[str]) -> None:
    assert entities(text) == expected


def test_a_passage_is_about_its_symbol_and_mentions_the_rest() -> None:
    row = {"passage_id": "p", "symbol": "shutil.copytree", "title": "x", "text": "shutil.copytree()\n\nUses copy2()."}
    assert named(row) == Named("p", ("copytree", "shutil.copytree"), ("copy2",))
    assert forms("a.b.Long") == {"a.b.long", "long"}


@pytest.mark.parametrize("seed", range(3))
def test_the_walk_is_the_solution_of_its_equation(seed: int) -> None:
    """p = r s + (1 - r) S p, so that p = r (I - (1 - r) S)^-1 s, as long as every column of S sums to 1."""
    rng = np.random.default_rng(seed)
    dense = rng.random((9, 9)) * (rng.random((9, 9)) < 0.5) + np.eye(9) * 0.1
    dense /= dense.sum(axis=0)
    start = rng.random(9)
    start /= start.sum()
    expected = 0.3 * np.linalg.solve(np.eye(9) - 0.7 * dense, start)
    np.testing.assert_allclose(personalised_pagerank(csr_matrix(dense), start, 0.3), expected, atol=1e-7)


def test_a_walk_with_nowhere_to_go_starts_again() -> None:
    walked = personalised_pagerank(csr_matrix((2, 2)), np.array([0.25, 0.75]), 0.5)
    np.testing.assert_allclose(walked, [0.25, 0.75])


@pytest.fixture
def graph() -> Graph:
    """a names b's subject; c and d are about other things; a fifth mentions b's subject, too."""
    return Graph(
        [
            Named("a", ("walker",), ("helper",)),
            Named("b", ("helper",), ()),
            Named("c", ("other",), ("thing",)),
            Named("d", ("thing",), ("other",)),
            Named("e", (), ("helper", "walker")),
        ]
    )


def test_what_the_question_names_leads_to_what_that_refers_to(graph: Graph) -> None:
    ranked = dict(graph.rank("What does the function do that `walker` refers to?", {"a": 1.0}, 5))
    assert next(iter(ranked)) == "a"
    assert ranked["b"] > ranked.get("c", 0.0) == ranked.get("d", 0.0) == 0.0
    assert 0 < sum(ranked.values()) < 1  # the rest of the walk is at names


def test_a_subject_draws_more_than_a_mention(graph: Graph) -> None:
    """From "helper" alone: b is about it, a and e mention it."""
    ranked = dict(graph.rank("`helper`", {}, 5))
    assert ranked["b"] > ranked["a"] and ranked["b"] > ranked["e"]


def test_without_a_name_or_a_seed_there_is_nowhere_to_start(graph: Graph) -> None:
    assert graph.rank("what is it", {}, 5) == [] == graph.rank("what is it", {"unknown": 1.0}, 5)
    assert [key for key, _ in graph.rank("what is it", {"c": 1.0}, 2)] == ["c", "d"]


def test_names_that_are_everywhere_or_only_once_link_nothing() -> None:
    passages = [Named(f"p{n}", (), ("everywhere", f"once{n}")) for n in range(60)]
    assert [key for key, _ in Graph(passages).rank("`everywhere`", {"p0": 1.0}, 60)] == ["p0"]
