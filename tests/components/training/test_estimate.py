"""What a plan says of a training's memory and steps."""

from components.config import parse
from components.training.estimate import estimate
from workflows.train_sft import TrainSft


def test_a_plan_tells_of_the_full_steps_and_of_the_memory_that_they_take(tiny_model_dir, tmp_path):
    given = {"model": str(tiny_model_dir), "demonstrations": f"{tmp_path}#none", "storage": str(tmp_path)}
    plain, measured = (
        estimate(parse(TrainSft, {**given, "full_steps": steps}), str(tiny_model_dir), given["demonstrations"], sides=1)
        for steps in (0, 4)
    )
    name = "steps of full fine-tuning"
    assert name not in plain and measured[name] == "4 after those, measured and not kept"
    memory = "memory of a worker"
    assert measured[memory].startswith(plain[memory] + ", which is measured afterwards: at most ")
