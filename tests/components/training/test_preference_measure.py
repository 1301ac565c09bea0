"""Held-out figures: by hand, against slow loops, and equal before and after where nothing was trained."""

import shutil

import pytest
import torch

from components.models.load import load_model
from components.training.preference_measure import answer_kl, answer_logits, measure, preferred, sample

END = 2


def ids(length, seed):
    return torch.randint(3, 380, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


PROMPTS = [ids(5 + 3 * at, at) for at in range(4)]


def pair(at):
    return {"prompt_ids": PROMPTS[at], "chosen_ids": ids(6 - at, 10 + at), "rejected_ids": ids(3 + at, 20 + at)}


def payload(model, trained, **more):
    return {
        "model": str(model),
        "trained": str(trained),
        "is_adapter": False,
        "rows": [pair(at) for at in range(4)],
        "paired": True,
        "prompts": 3,
        "new_tokens": 7,
        "pad_id": END,
        "turn_end_id": END,
        "dtype": "float32",
        "nf4": False,
        "seed": 1,
        "gpu": False,
        **more,
    }


def save(model, like, folder):
    shutil.copytree(like, folder, dirs_exist_ok=True)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def moved_dir(tiny_model_dir, tmp_path_factory):
    """The tiny model with every weight a little elsewhere."""
    folder = tmp_path_factory.mktemp("moved")
    model = load_model(tiny_model_dir, "float32")
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    save(model, tiny_model_dir, folder)
    return folder


def test_preferences_by_hand():
    """Per token -1 against -2, -3 against -2, and a tie; the gains are (2, 0), (0, 1), (0, 0)."""
    lengths = [(2, 1), (1, 2), (1, 1)]
    rows = [{"chosen_ids": [1] * chosen, "rejected_ids": [1] * rejected} for chosen, rejected in lengths]
    before = [(-4.0, -2.0), (-3.0, -5.0), (-1.0, -1.0)]
    after = [(-2.0, -2.0), (-3.0, -4.0), (-1.0, -1.0)]
    assert preferred(before, after, rows, True) == {
        "heldout/pairs": 3.0,
        "heldout/accuracy/before": (0.5 + 0.0 + 0.5) / 3,
        "heldout/accuracy/after": (1.0 + 0.0 + 0.5) / 3,
        "heldout/reward_accuracy/after": (1.0 + 0.0 + 0.5) / 3,
        "heldout/margin/after": (2.0 - 1.0 + 0.0) / 3,
    }


def test_each_good_answer_is_compared_with_each_bad_one():
    rows = [{"chosen_ids": [1, 1], "rejected_ids": [1], "label": label} for label in (True, False, True, False)]
    sums = [(-2.0, 0.0), (-3.0, 0.0), (-6.0, 0.0), (-5.0, 0.0)]
    found = preferred(sums, sums, rows, False)
    assert (
        found["heldout/pairs"] == 4 and found["heldout/accuracy/after"] == 0.5
    )  # the first beats both, the third none
    assert preferred(sums[:1], sums[:1], rows[:1], False) == {"heldout/pairs": 0.0}


def test_an_untrained_model_is_where_it_was(tiny_model_dir):
    found = measure(payload(tiny_model_dir, tiny_model_dir))
    assert found["heldout/kl/after"] == pytest.approx(0, abs=1e-5) and found["heldout/kl/before"] == 0.0
    assert found["heldout/reward_accuracy/after"] == 0.5 and found["heldout/margin/after"] == 0.0
    for name in ("accuracy", "length", "finished"):
        assert found[f"heldout/{name}/before"] == found[f"heldout/{name}/after"]
    assert found["heldout/pairs"] == 4 and found["heldout/prompts"] == 3 and 1 <= found["heldout/length/after"] <= 7


def test_a_moved_model_is_elsewhere(tiny_model_dir, moved_dir):
    found = measure(payload(tiny_model_dir, moved_dir))
    assert found["heldout/kl/after"] > 0.01 and found["heldout/margin/after"] != 0.0
    assert "heldout/length/after" not in measure(payload(tiny_model_dir, moved_dir, prompts=0))


def test_an_adapter_is_measured_on_its_model(tiny_model_dir, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_model(tiny_model_dir, "float32"), LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 0.3
    adapted.save_pretrained(tmp_path / "adapter")
    save(adapted.merge_and_unload(), tiny_model_dir, tmp_path / "merged")
    attached = measure(payload(tiny_model_dir, tmp_path / "adapter", is_adapter=True))
    merged = measure(payload(tiny_model_dir, tmp_path / "merged"))
    assert attached == pytest.approx(merged, abs=1e-3) and attached["heldout/kl/after"] > 0.01


def test_kl_is_summed_over_tokens_and_taken_over_the_vocabulary(tiny_model_dir, moved_dir):
    policy, reference = load_model(moved_dir, "float32"), load_model(tiny_model_dir, "float32")
    answers = [ids(2 + at, 30 + at) for at in range(4)]
    expected = []
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        total = 0.0
        for at in range(len(answer)):
            seen = torch.tensor([[*prompt, *answer[:at]]])
            p, q = (m(input_ids=seen).logits[0, -1].double().log_softmax(-1) for m in (policy, reference))
            total += float((p.exp() * (p - q)).sum())
        expected.append(total)
    both = [answer_logits(model, PROMPTS, answers, END) for model in (policy, reference)]
    found = [answer_kl(*logits) for logits in zip(*both, strict=True)]
    assert found == pytest.approx(expected[::-1], rel=1e-3)  # the longest sequence, which is the last here, comes first


def test_a_sure_models_answers_are_its_greedy_ones_however_they_are_batched(tiny_model_dir):
    """Logits a thousand times as far apart leave one token to draw; a slow loop finds it, one prompt at a time."""
    model = load_model(tiny_model_dir, "float32")
    model.set_output_embeddings(torch.nn.Linear(64, 384, bias=False))
    torch.manual_seed(3)
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=1000)
    expected = []
    for prompt in PROMPTS:
        answer: list[int] = []
        while len(answer) < 7 and (not answer or answer[-1] != END):
            answer.append(int(model(input_ids=torch.tensor([prompt + answer])).logits[0, -1].argmax()))
        expected.append(answer)
    assert sample(model, PROMPTS, payload("", "")) == expected
    model.generation_config.update(repetition_penalty=50.0, min_p=0.9, no_repeat_ngram_size=1)  # as a model may bring
    assert sample(model, PROMPTS, payload("", "")) == expected, "these are samples of the model, and nothing else"
    stop = expected[0][3]  # what comes fourth ends the answer there, or where it came before
    cut = sample(model, PROMPTS, payload("", "", turn_end_id=stop))
    assert cut[0] == expected[0][: expected[0].index(stop) + 1]
