"""Adapters: attaching changes nothing at first, merging changes nothing at all, and misfits are refused."""

import pytest
import torch

from components.config import UserError
from components.models.adapters import AdapterConfig, merge, peft_config
from components.models.load import load_model

PROBES = [[5, 9, 17, 30, 4], [8, 8, 21]]


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory):
    """An adapter whose matrices are random, as training would leave them."""
    from peft import get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(load_model(tiny_model_dir, "float32"), peft_config(AdapterConfig(rank=4, alpha=8)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


def test_none_means_no_adapter():
    assert peft_config(AdapterConfig(name="none")) is None


def test_a_fresh_adapter_changes_nothing(tiny_model_dir):
    from peft import get_peft_model

    plain = logits(load_model(tiny_model_dir, "float32"), PROBES[0])
    fresh = get_peft_model(load_model(tiny_model_dir, "float32"), peft_config(AdapterConfig()))
    assert torch.equal(logits(fresh, PROBES[0]), plain)


def test_every_linear_layer_but_the_head_is_adapted(tiny_model_dir):
    from peft import get_peft_model

    model = get_peft_model(load_model(tiny_model_dir, "float32"), peft_config(AdapterConfig()))
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_merged_computes_what_attached_computes(tiny_model_dir, adapter, tmp_path):
    report = merge(tiny_model_dir, adapter, tmp_path / "merged", PROBES, dtype="float32")
    assert report.parity < 1e-4 and report.rounded_kl < 1e-6 and report.probe_tokens == 8
    attached = load_model(tiny_model_dir, "float32", adapter)
    merged = load_model(tmp_path / "merged", "float32")
    torch.testing.assert_close(logits(merged, PROBES[1]), logits(attached, PROBES[1]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(merged, PROBES[1]), logits(load_model(tiny_model_dir, "float32"), PROBES[1]))


def test_merged_folder_is_bfloat16_with_the_chat_template(tiny_model_dir, adapter, tmp_path):
    from components.data.chat import ChatTemplate

    report = merge(tiny_model_dir, adapter, tmp_path / "merged", PROBES)
    assert 0 < report.rounded_kl < 1e-3
    assert load_model(tmp_path / "merged").config.dtype == torch.bfloat16
    assert ChatTemplate.from_folder(tmp_path / "merged").digest == ChatTemplate.from_folder(tiny_model_dir).digest


def test_a_merge_that_changes_the_model_is_refused(tiny_model_dir, adapter, tmp_path, monkeypatch):
    from peft import PeftModel

    def wrong(self):
        return self.unload()

    monkeypatch.setattr(PeftModel, "merge_and_unload", wrong, raising=False)
    with pytest.raises(RuntimeError, match="not merged"):
        merge(tiny_model_dir, adapter, tmp_path / "merged", PROBES)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_shape_is_refused(adapter, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="does not fit"):
        merge(tmp_path / "other", adapter, tmp_path / "merged", PROBES)
