"""build_index as people run it, with a cluster of its own and on one that is there; what it says to wrong input."""

from pathlib import Path

import pytest

from components.data import search
from components.tracking.lineage import read_lineage
from tests.workflows import warm

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_is_indexed_and_indexing_it_again_embeds_nothing(tmp_path: Path, cluster: str) -> None:
    docs, storage = tmp_path / "docs", tmp_path / "storage"
    docs.mkdir()
    (docs / "tea.md").write_text("# Tea\n\nGreen tea is brewed at eighty degrees.")
    (docs / "scan.txt").write_bytes(b"\xff")
    config = str(ROOT / "workflows/configs/build_index/folder.yaml")
    arguments = (config, f"source.path={docs}", f"storage={storage}", "ray.num_cpus=2")
    code, line, log = warm.ask("build_index", *arguments)
    assert code == 0, log
    assert (line["workflow"], line["status"]) == ("build_index", "done")
    assert line["outputs"]["passages"] == line["outputs"]["embedded"] == line["metrics"]["embedded"] == 1
    assert line["metrics"]["parts_not_read"] == 1 and line["metrics"]["tokens_per_s"] > 0
    assert "progress 2/2 parts" in log
    ref = line["outputs"]["index"]
    assert ref.startswith(f"{storage}/lancedb#passages@")
    assert search.search_text(ref, "eighty degrees", 1)[0]["title"] == "Tea"
    page = read_lineage(next((storage / "build_index").iterdir()))
    assert page["facts"]["table"] == ref and page["kind"] == "index"

    code, line, log = warm.ask("build_index", *arguments, "--force", cluster=cluster)
    assert code == 0, log
    assert (line["outputs"]["embedded"], line["outputs"]["index"]) == (0, ref)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["source.name=folder", "source.path=/no/such/folder"], "does not exist"),
        (["source.name=folder", "source.path={tmp}/empty"], "holds no files"),
        (["source.name=jsonl", "source.path={tmp}/rows.jsonl"], "rows.jsonl, line 2: not valid JSON"),
        (["source.name=python_docs", "source.moduls=[os]"], "did you mean 'modules'"),
        (["source.name=python_docs", "chunker.name=tokens", "chunker.max_tokens=300"], "the embedder reads 254"),
        (["source.name=python_docs", "embed.model=/no/such/model"], "/no/such/model"),
        ([], "'source' is required"),
    ],
)
def test_wrong_input_gets_one_sentence_and_exit_2(
    tmp_path: Path, tmp_storage: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text"\n')
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    code, line, log = warm.ask("build_index", *filled, f"storage={tmp_storage}")
    assert code == 2, log
    assert line["status"] == "invalid" and says in line["outputs"]["error"]
    assert says in log and "Traceback" not in log
    assert not (tmp_storage / "lancedb").exists()
