"""Merged adapters compute what attached ones do, for every kind; what does not is refused, and so is another base."""

import json
import shutil

import pytest
import torch

from components.config import UserError
from components.models.adapter_base import AdapterBase, check_base, check_on_trunk
from components.models.adapters import AdapterConfig, peft_config
from components.models.folder import digest
from components.models.load import load_model, load_tokenizer
from components.models.merging import check_on, merge

PROBES = [[5, 9, 17, 30, 4], [8, 8, 21]]
KINDS = ("lora", "rslora", "dora", "loraplus", "adalora", "qlora", "longlora")


def make_adapter(base, folder, name):
    """An adapter whose weights are random, as training would leave them; AdaLoRA's has lost half of its ranks."""
    from peft import get_peft_model

    torch.manual_seed(1)
    config = AdapterConfig(name=name, rank=4, alpha=8)
    plain = load_model(base, "float32", nf4=config.quantizes)
    model = get_peft_model(plain, peft_config(config, model=plain, steps=10))
    pattern = {}
    for key, weight in model.named_parameters():
        if any(part in key for part in ("lora_A", "lora_B", "lora_E")):
            weight.data.normal_(std=0.1 if name != "adalora" else 0.5)
        elif weight.requires_grad:
            weight.data.add_(0.1 * torch.randn_like(weight))
        if "lora_E" in key:
            pattern[key.removeprefix("base_model.model.")] = [True, False] * (len(weight) // 2)
            weight.data[1::2] = 0
    if name == "adalora":
        model.peft_config["default"].rank_pattern = pattern
    attached = logits(model.eval(), PROBES[1])
    model.save_pretrained(folder)
    AdapterBase(str(base), digest(base), name, "nf4" if config.quantizes else None).write(folder)
    return attached


@pytest.fixture(scope="module")
def adapters(tiny_model_dir, tmp_path_factory):
    """Kind → (folder, logits of the second probe before it was saved)."""
    root = tmp_path_factory.mktemp("adapters")
    return {name: (root / name, make_adapter(tiny_model_dir, root / name, name)) for name in KINDS}


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("name", KINDS)
def test_saved_and_loaded_it_computes_the_same(tiny_model_dir, adapters, name):
    folder, before = adapters[name]
    loaded = logits(load_model(tiny_model_dir, "float32", folder), PROBES[1])
    torch.testing.assert_close(loaded, before, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "qlora"])
def test_merged_computes_what_attached_computes(tiny_model_dir, adapters, tmp_path, name):
    folder, attached = adapters[name]
    report = merge(tiny_model_dir, folder, tmp_path / "merged", PROBES, dtype="float32")
    assert report.parity < 1e-4 and abs(report.rounded_kl) < 1e-6 and report.probe_tokens == 8
    assert report.quantized_kl == {}
    merged = load_model(tmp_path / "merged", "float32")
    torch.testing.assert_close(logits(merged, PROBES[1]), attached, atol=1e-4, rtol=1e-4)
    plain = load_model(tiny_model_dir, "float32")
    assert (logits(merged, PROBES[1]) - logits(plain, PROBES[1])).abs().max() > 0.01
    assert {key: weight.shape for key, weight in merged.named_parameters()} == {
        key: weight.shape for key, weight in plain.named_parameters()
    }


@pytest.mark.parametrize("onto", ["original", "dequantized"])
def test_both_merges_of_a_qlora_adapter_are_measured_and_one_is_written(tiny_model_dir, adapters, tmp_path, onto):
    folder, trained = adapters["qlora"]
    report = merge(tiny_model_dir, folder, tmp_path / "merged", PROBES, dtype="float32", onto=onto)
    assert report.parity < 1e-4
    assert set(report.quantized_kl) == {"original", "dequantized"}
    assert abs(report.quantized_kl["dequantized"]) < 1e-6 < 1e-5 < report.quantized_kl["original"]
    merged = logits(load_model(tmp_path / "merged", "float32"), PROBES[1])
    same = torch.allclose(merged, trained, atol=1e-4, rtol=1e-4)
    assert same == (onto == "dequantized")
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_the_measured_distance_is_kl_of_what_was_trained(tiny_model_dir, adapters, tmp_path):
    folder, _ = adapters["qlora"]
    report = merge(tiny_model_dir, folder, tmp_path / "merged", PROBES, dtype="float32", onto="original")
    trained, merged = load_model(tiny_model_dir, "float32", folder), load_model(tmp_path / "merged", "float32")
    total = 0.0
    for ids in PROBES:
        p, q = (logits(model, ids)[0].double().softmax(-1) for model in (trained, merged))
        total += float((p * (p / q).log()).sum())
    assert report.quantized_kl["original"] == pytest.approx(total / 8, rel=1e-3)


def test_a_merge_too_far_from_what_was_trained_is_refused_and_names_the_other(tiny_model_dir, adapters, tmp_path):
    folder, _ = adapters["qlora"]
    with pytest.raises(RuntimeError, match=r"not merged; onto=dequantized gives"):
        merge(tiny_model_dir, folder, tmp_path / "merged", PROBES, max_kl=1e-6, onto="original")
    assert not (tmp_path / "merged").exists()
    merge(tiny_model_dir, folder, tmp_path / "merged", PROBES, max_kl=1e-6)  # into what it was trained on


def test_only_a_qlora_adapter_has_a_quantized_base(tiny_model_dir, adapters, tmp_path):
    with pytest.raises(UserError, match="nothing to de-quantize"):
        merge(tiny_model_dir, adapters["lora"][0], tmp_path / "merged", PROBES, onto="dequantized")


def test_merged_folder_is_bfloat16_with_the_chat_template(tiny_model_dir, adapters, tmp_path):
    from components.data.chat import ChatTemplate

    report = merge(tiny_model_dir, adapters["lora"][0], tmp_path / "merged", PROBES)
    assert 0 < report.rounded_kl < 1e-3 and report.rounded_kl < report.learned_kl / 10
    assert load_model(tmp_path / "merged", "stored").config.dtype == torch.bfloat16
    assert ChatTemplate.from_folder(tmp_path / "merged").digest == ChatTemplate.from_folder(tiny_model_dir).digest


def test_an_adapter_that_rounding_would_undo_is_refused_in_16_bits(tiny_model_dir, tmp_path):
    """A float32 base with large logits, whose rounding is further than what the adapter changes."""
    from safetensors.torch import load_file, save_file

    base, faint = tmp_path / "base", tmp_path / "adapter"
    plain = load_model(tiny_model_dir, "float32")
    torch.manual_seed(0)
    for name, weight in plain.named_parameters():
        if name.endswith("proj.weight") or "embed" in name:
            weight.data.normal_(0, 0.3)
    plain.save_pretrained(base)
    load_tokenizer(tiny_model_dir).save_pretrained(base)
    make_adapter(base, faint, "lora")
    weights = load_file(faint / "adapter_model.safetensors")
    save_file({key: weight * 0.03 for key, weight in weights.items()}, faint / "adapter_model.safetensors")
    with pytest.raises(RuntimeError, match="the adapter is not merged; set dtype=float32"):
        merge(base, faint, tmp_path / "merged", PROBES)
    assert not (tmp_path / "merged").exists()
    report = merge(base, faint, tmp_path / "merged", PROBES, dtype="float32")
    assert 1e-8 < report.learned_kl < 1e-3 and abs(report.rounded_kl) < 1e-6


def test_what_was_learned_is_kl_to_the_base(tiny_model_dir, adapters, tmp_path):
    report = merge(tiny_model_dir, adapters["dora"][0], tmp_path / "merged", PROBES, dtype="float32")
    base, merged = load_model(tiny_model_dir, "float32"), load_model(tmp_path / "merged", "float32")
    total = 0.0
    for ids in PROBES:
        p, q = (logits(model, ids)[0].double().softmax(-1) for model in (merged, base))
        total += float((p * (p / q).log()).sum())
    assert report.learned_kl == pytest.approx(total / 8, rel=1e-3)


def test_a_merge_that_changes_the_model_is_refused(tiny_model_dir, adapters, tmp_path, monkeypatch):
    from peft import PeftModel

    def wrong(self):
        return self.unload()

    monkeypatch.setattr(PeftModel, "merge_and_unload", wrong, raising=False)
    with pytest.raises(RuntimeError, match="not merged"):
        merge(tiny_model_dir, adapters["lora"][0], tmp_path / "merged", PROBES)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_on_a_quantized_base_is_measured(tiny_model_dir, adapters, tmp_path):
    from components.quantization.methods.w8a8_int8 import w8a8_int8

    w8a8_int8(tiny_model_dir, tmp_path / "int8", PROBES, smoothing=0.0)
    folder = adapters["lora"][0]
    distance = check_on(tiny_model_dir, tmp_path / "int8", folder, PROBES, max_kl=0.05)
    assert 0 < distance < 0.05
    with pytest.raises(RuntimeError, match="serve it merged"):
        check_on(tiny_model_dir, tmp_path / "int8", folder, PROBES, max_kl=distance / 2)


def test_an_adapter_of_a_4_bit_base_is_compared_with_what_was_trained(tiny_model_dir, adapters):
    """Put on the true base, it is not what it was on the 4-bit one."""
    folder, total = adapters["qlora"][0], 0.0
    trained, plain = (load_model(tiny_model_dir, "float32", folder, nf4=nf4) for nf4 in (True, False))
    for ids in PROBES:
        p, q = (logits(model, ids)[0].double().softmax(-1) for model in (trained, plain))
        total += float((p * (p / q).log()).sum())
    found = check_on(tiny_model_dir, tiny_model_dir, folder, PROBES, max_kl=1.0)
    assert found == pytest.approx(total / sum(map(len, PROBES)), rel=1e-3) and found > 1e-5


@pytest.fixture
def other(tiny_model_dir, tmp_path):
    """The same model but for one weight."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model_dir, tmp_path / "other")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_another_base_is_refused_by_both_names(tiny_model_dir, adapters, other, tmp_path):
    folder = adapters["dora"][0]
    for load in (
        lambda: load_model(other, "float32", folder),
        lambda: merge(other, folder, tmp_path / "merged", PROBES),
        lambda: check_base(folder, other),
    ):
        with pytest.raises(UserError, match="was trained on a model with digest") as refused:
            load()
        assert str(tiny_model_dir) in str(refused.value) and str(other) in str(refused.value)


def test_a_lineage_page_says_it_too(tiny_model_dir, adapters, other, tmp_path):
    folder = shutil.copytree(adapters["lora"][0], tmp_path / "adapter")
    (folder / "base.json").unlink()
    assert check_base(folder, other) is None  # it does not say
    page = {"facts": {"base_digest": digest(tiny_model_dir), "adapter": {"name": "qlora"}}}
    page["parents"] = [{"reference": str(tiny_model_dir)}]
    (folder / "lineage.json").write_text(json.dumps(page))
    assert AdapterBase.read(folder) == AdapterBase(str(tiny_model_dir), digest(tiny_model_dir), "qlora", "nf4")
    with pytest.raises(UserError, match="was trained on a model with digest"):
        check_base(folder, other)


@pytest.mark.parametrize("name", KINDS)
def test_a_shared_trunk_takes_plain_low_rank_adapters_only(tiny_model_dir, adapters, name):
    folder = adapters[name][0]
    check_on_trunk(folder, "another base")
    if name in ("lora", "rslora", "loraplus"):
        check_on_trunk(folder, digest(tiny_model_dir))
    else:
        with pytest.raises(UserError, match=f"is a {name} adapter on the policy's own base"):
            check_on_trunk(folder, digest(tiny_model_dir))


def test_an_adapter_of_another_shape_is_refused(adapters, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    folder = shutil.copytree(adapters["lora"][0], tmp_path / "adapter")
    (folder / "base.json").unlink()
    with pytest.raises(UserError, match="does not fit"):
        merge(tmp_path / "other", folder, tmp_path / "merged", PROBES)
