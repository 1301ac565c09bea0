"""Which checkpoints count: only whole ones of the same job."""

import shutil

import pytest

from components import storage
from components.config import UserError
from components.training.checkpoints import is_complete, latest, mark_complete, prepare
from tests.object_store import s3_server

JOB = {"model": "a", "settings": "b"}


def checkpoint(folder, step, *, complete=True):
    made = folder / f"checkpoint-{step}"
    (made / "global_step").mkdir(parents=True)
    (made / "global_step" / "state.pt").write_bytes(b"x" * 100)
    (made / "trainer_state.json").write_text("{}")
    if complete:
        mark_complete(made, step, workers=1)
    return made


def test_the_last_complete_one_counts_and_by_number_not_by_name(tmp_path):
    checkpoint(tmp_path, 9)
    whole = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, complete=False)
    assert latest(tmp_path) == whole


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_file_that_is_cut_or_gone_makes_it_incomplete(tmp_path, harm):
    made = checkpoint(tmp_path, 5)
    assert is_complete(made)
    state = made / "global_step" / "state.pt"
    state.write_bytes(b"x" * 99) if harm == "cut" else state.unlink()
    assert not is_complete(made)


def test_prepare_clears_half_written_ones_and_ray_trains_own_list(tmp_path):
    assert prepare(tmp_path, JOB) is None
    whole = checkpoint(tmp_path, 4)
    half = checkpoint(tmp_path, 8, complete=False)
    (tmp_path / "checkpoint_manager_snapshot.json").write_text('{"torn')
    assert prepare(tmp_path, JOB) == whole
    assert not half.exists() and not (tmp_path / "checkpoint_manager_snapshot.json").exists()


def test_checkpoints_of_another_job_are_refused_by_what_differs(tmp_path):
    prepare(tmp_path, JOB)
    checkpoint(tmp_path, 4)
    with pytest.raises(UserError, match="another model:"):
        prepare(tmp_path, {**JOB, "model": "other"})
    assert latest(tmp_path) is not None


def test_a_run_in_an_object_store_goes_on_from_its_last_whole_checkpoint_on_another_host(tmp_path, monkeypatch):
    monkeypatch.setenv(storage.SCRATCH_VARIABLE, str(tmp_path))
    place = "s3://team/demo"
    folder = storage.folder(place) / "train_sft" / "key" / "checkpoints"
    with s3_server("team"):
        assert prepare(folder, JOB, place) is None
        for step in (4, 8):
            mark_complete(checkpoint(folder, step, complete=False), step, place, workers=1)
        shutil.rmtree(folder / "checkpoint-4")  # as the trainer does with the oldest
        mark_complete(checkpoint(folder, 12, complete=False), 12, place, workers=1)
        assert {name.partition("/")[0] for name in storage.listing(f"{place}/train_sft/key/checkpoints")} == {
            *("identity.json", "checkpoint-8", "checkpoint-12")
        }
        assert prepare(folder, JOB, place) == folder / "checkpoint-12", "what is here is not fetched"
        shutil.rmtree(storage.folder(place))
        found = prepare(folder, JOB, place)
        assert found == folder / "checkpoint-12" and is_complete(found)
        shutil.rmtree(storage.folder(place))
        cut = f"{place}/train_sft/key/checkpoints/checkpoint-12/global_step/state.pt"
        storage.remove(cut)
        assert prepare(folder, JOB, place) == folder / "checkpoint-8", "an upload that was cut off does not count"
        shutil.rmtree(storage.folder(place))
        with pytest.raises(UserError, match="another model:"):
            prepare(folder, {**JOB, "model": "other"}, place)
