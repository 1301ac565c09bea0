"""Which checkpoints count: only whole ones of the same job."""

import pytest

from components.config import UserError
from components.training.checkpoints import is_complete, latest, mark_complete, prepare

JOB = {"model": "a", "settings": "b"}


def checkpoint(folder, step, *, complete=True):
    made = folder / f"checkpoint-{step}"
    (made / "global_step").mkdir(parents=True)
    (made / "global_step" / "state.pt").write_bytes(b"x" * 100)
    (made / "trainer_state.json").write_text("{}")
    if complete:
        mark_complete(made, step)
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
