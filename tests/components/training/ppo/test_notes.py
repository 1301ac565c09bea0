"""What a run writes down: one line for each thing, and none of iterations that are run again."""

import json

from components.training.ppo.notes import Notes


def test_a_run_that_goes_on_forgets_what_it_will_do_again(tmp_path):
    notes = Notes(tmp_path / "scores" / "worker-0.jsonl")
    notes.forget_after(3)  # nothing was noted yet
    for iteration in (1, 2, 3):
        notes.add(iteration, [{"sample": sample} for sample in range(2)])
    with notes.path.open("a") as torn:
        torn.write('{"iteration": 2, "sam')  # a worker was killed in the middle of a line
    notes.forget_after(2)
    lines = [json.loads(line) for line in notes.path.read_text().splitlines()]
    assert [(line["iteration"], line["sample"]) for line in lines] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    notes.add(3, [{"sample": 9}])
    assert notes.path.read_text().count("\n") == 5
