"""What transforms search for in a query's place: words by arithmetic, wordings from a language model's lines."""

import pytest

from components.config import UserError, parse
from components.retrieval.settings import RetrieveConfig
from components.retrieval.transforms import Probe, Tools, lines, transformed
from components.retrieval.transforms.decomposition import Decomposition
from components.retrieval.transforms.expansion import Expansion, feedback_words
from components.retrieval.transforms.hyde import Hyde
from components.retrieval.transforms.multi_query import MultiQuery


def _row(text: str, score: float) -> dict:
    return {"text": text, "score": score}


def test_feedback_words_are_weighted_by_passage_and_share() -> None:
    """P(passage) is 0.75 and 0.25. heat: 1/2 * 0.75 + 1/4 * 0.25; flow: 1/2 * 0.75 + 2/4 * 0.25; slab is in one."""
    passages = [_row("heat flow", 3.0), _row("the heat and flow in flow slab", 1.0)]
    assert feedback_words("wing", passages, 5) == ["flow", "heat"]
    assert feedback_words("Flow", passages, 5) == ["heat"]
    assert feedback_words("wing", passages[1:], 1) == ["flow"]  # of a single passage, what it says most
    assert feedback_words("wing", [], 5) == []


def test_expansion_searches_the_query_itself_as_well() -> None:
    tools = Tools(lambda query, n: [_row("heat flow", 2.0), _row("heat flow", 1.0)][:n], None)
    itself, longer = transformed("wing", tools, Expansion(name="expansion", words=1, weight=0.4))
    assert itself == Probe("wing", "wing")
    assert longer == Probe("wing flow", None, weight=0.4)
    assert transformed("wing", Tools(lambda *_: [], None), Expansion(name="expansion")) == [itself]


def test_wordings_and_parts_are_the_lines_of_the_answer() -> None:
    asked = []

    def generate(instruction: str) -> str:
        asked.append(instruction)
        return "Here they are:\n1. How hot is it?\n- How hot is it?\n\n2) Is it warm?\nthird"

    tools = Tools(lambda *_: [], generate)
    assert transformed("q", tools, MultiQuery(name="multi_query", wordings=2)) == [
        Probe(text, text) for text in ("q", "How hot is it?", "Is it warm?")
    ]
    assert len(transformed("q", tools, Decomposition(name="decomposition", parts=1))) == 2
    assert all("Question: q" in instruction for instruction in asked)
    assert lines("a\na\nb", 5) == ["a", "b"]


def test_an_invented_answer_is_searched_by_meaning_as_a_passage_is() -> None:
    tools = Tools(lambda *_: [], lambda _: " An answer. ")
    assert transformed("q", tools, Hyde(name="hyde"))[1] == Probe(None, "An answer.", as_document=True)
    assert transformed("q", Tools(lambda *_: [], lambda _: " "), Hyde(name="hyde")) == [Probe("q", "q")]


@pytest.mark.parametrize(
    "config", [Hyde(name="hyde"), MultiQuery(name="multi_query"), Decomposition(name="decomposition")]
)
def test_what_asks_a_language_model_says_so_where_there_is_none(config) -> None:
    with pytest.raises(UserError, match="asks a language model"):
        transformed("q", Tools(lambda *_: [], None), config)


def test_a_config_chooses_its_transform_and_refuses_what_does_nothing() -> None:
    config = parse(RetrieveConfig, {"transform": {"name": "expansion", "words": 3}})
    assert config.transform == Expansion(name="expansion", words=3)
    with pytest.raises(UserError, match="choose one of decomposition, expansion, hyde, multi_query"):
        parse(RetrieveConfig, {"transform": {"name": "magic"}})
    with pytest.raises(UserError, match="mode 'dense' searches none"):
        parse(RetrieveConfig, {"mode": "dense", "transform": {"name": "expansion"}})
