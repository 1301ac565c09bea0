"""The int8 artefact: codes and scales against arithmetic, and what transformers computes from them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.config import UserError, parse
from components.models.load import load_model
from components.quantization import menu

PLAIN = menu.MethodConfig(smoothing=0)


@pytest.fixture(scope="module")
def quantized(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "model"
    menu.quantize(tiny_model_dir, folder, [], PLAIN)
    return folder


def test_codes_are_within_half_a_step_of_the_weights(tiny_model_dir: Path, quantized: Path) -> None:
    before, after = load_file(tiny_model_dir / "model.safetensors"), load_file(quantized / "model.safetensors")
    linears = [name for name in before if "proj.weight" in name]
    assert len(linears) == 14
    for name in linears:
        codes, scale = after[name], after[f"{name}_scale"]
        assert codes.dtype == torch.int8
        assert scale.dtype == torch.float32
        assert scale.shape == (codes.shape[0], 1)
        assert torch.allclose(scale[:, 0], before[name].abs().amax(1) / 127.5)
        assert ((codes * scale - before[name]).abs() <= 0.5001 * scale).all()
        assert (codes.int().abs().amax(1) >= 127).all()  # each channel uses its whole range


def test_everything_else_is_untouched(tiny_model_dir: Path, quantized: Path) -> None:
    before, after = load_file(tiny_model_dir / "model.safetensors"), load_file(quantized / "model.safetensors")
    others = {name for name in before if "proj.weight" not in name}
    assert "model.embed_tokens.weight" in others
    assert set(after) == set(before) | {f"{name}_scale" for name in set(before) - others}
    assert all(torch.equal(after[name], before[name]) for name in others)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (quantized / name).is_file()
    assert (quantized / "chat_template.jinja").read_text() == (tiny_model_dir / "chat_template.jinja").read_text()
    assert json.loads((quantized / "config.json").read_text())["quantization_config"]["ignore"] == ["lm_head"]


def test_transformers_rounds_activations_per_token_when_it_computes(quantized: Path) -> None:
    """y = (round(x/s)·s) W with s = max|x| / 127.5 of each token, which the kernels of a server compute too."""
    model = load_model(quantized, "stored")
    seen = {}
    layer = model.model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output))
    with torch.no_grad():
        model(input_ids=torch.tensor([[7, 8, 9, 10]]))
    saved = load_file(quantized / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    weight = saved[name].double() * saved[f"{name}_scale"].double()
    x = seen["x"].double()
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    rounded = (x / scale).round().clamp(-128, 127) * scale
    to_rounded = (seen["y"].double() - rounded @ weight.T).abs().mean()
    to_unrounded = (seen["y"].double() - x @ weight.T).abs().mean()
    assert to_rounded < 0.1 * to_unrounded  # not 0: in float32 a tie may fall to the other side


def test_bfloat16_weights_are_rounded_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Dividing in bfloat16 would move codes by up to a quarter of a step more."""
    from components.models.load import load_tokenizer

    source = tmp_path / "bfloat16"
    model = load_model(tiny_model_dir, "bfloat16")
    model.save_pretrained(source)
    load_tokenizer(tiny_model_dir).save_pretrained(source)
    menu.quantize(source, tmp_path / "quantized", [], PLAIN)
    name = "model.layers.1.mlp.up_proj.weight"
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "quantized" / "model.safetensors")
    weight = before[name].double()
    codes = (weight / (weight.abs().amax(1, keepdim=True) / 127.5)).round().clamp(-128, 127)
    off = (after[name].double() - codes).abs()
    in_bfloat16 = (before[name] / (before[name].abs().amax(1, keepdim=True) / 127.5)).round().double()
    assert off.max() <= 1
    assert (off > 0).double().mean() < 0.005  # ties, which may fall to either side
    assert ((in_bfloat16 - codes).abs() > 0).double().mean() > 0.05
    assert after["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_an_output_head_of_its_own_is_left_alone(tmp_path: Path, tiny_model_dir: Path) -> None:
    from transformers import LlamaForCausalLM

    from components.models.load import load_tokenizer

    config = load_model(tiny_model_dir, "float32").config
    config.tie_word_embeddings = False
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    load_tokenizer(tiny_model_dir).save_pretrained(tmp_path / "untied")
    menu.quantize(tmp_path / "untied", tmp_path / "quantized", [], PLAIN)
    assert load_file(tmp_path / "quantized" / "model.safetensors")["lm_head.weight"].dtype == torch.float32


def test_named_layers_keep_their_values(tiny_model_dir: Path, tmp_path: Path) -> None:
    menu.quantize(tiny_model_dir, tmp_path / "model", [], menu.MethodConfig(smoothing=0, keep=("mlp.down_proj",)))
    before, after = load_file(tiny_model_dir / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    down = {f"model.layers.{number}.mlp.down_proj.weight" for number in (0, 1)}
    assert all(torch.equal(after[name], before[name]) for name in down)
    assert {name for name in after if after[name].dtype == torch.int8} == {n for n in before if "proj" in n} - down
    model = load_model(tmp_path / "model", "stored")  # transformers reads it without a layer that it misses
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[7, 8, 9]])).logits.isfinite().all()


def test_a_layer_to_keep_that_is_not_there_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method.keep names 'fc2'.* end in down_proj, gate_proj"):
        menu.quantize(tiny_model_dir, tmp_path / "model", [], menu.MethodConfig(smoothing=0, keep=("fc2",)))


@pytest.mark.parametrize(
    ("keep", "advice"),
    [
        (("q_proj",), r"write method.keep=\[q_proj,k_proj,v_proj\]"),
        (("0.self_attn.k_proj", "v_proj"), r"'0.self_attn.k_proj' without 0.self_attn.q_proj,? "),
        (("mlp.down_proj", "mlp.up_proj"), r"method.keep=\[mlp.down_proj,mlp.up_proj,mlp.gate_proj\]"),
    ],
)
def test_layers_that_engines_join_are_kept_together(tiny_model_dir: Path, tmp_path: Path, keep, advice) -> None:
    with pytest.raises(UserError, match=advice):
        menu.quantize(tiny_model_dir, tmp_path / "model", [], menu.MethodConfig(smoothing=0, keep=keep))
    assert not (tmp_path / "model").exists()
    both = menu.MethodConfig(smoothing=0, keep=("mlp.gate_proj", "mlp.up_proj"))
    menu.quantize(tiny_model_dir, tmp_path / "model", [], both)


def test_quantizing_twice_is_refused(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantized already"):
        menu.quantize(quantized, tmp_path / "again", [], PLAIN)
    assert not (tmp_path / "again").exists()


def test_a_method_that_is_not_on_the_menu_is_refused() -> None:
    with pytest.raises(UserError, match=r"'name' got 'fp8'.*choose one of w8a8_int8"):
        parse(menu.MethodConfig, {"name": "fp8"})
