"""The tiny model with its one key-value head twice, so that pooling them must give it back."""

from pathlib import Path

from components.models.load import load_model, load_tokenizer


def with_heads_twice(model: Path, folder: Path) -> Path:
    from transformers import LlamaForCausalLM

    one = load_model(model, "stored")
    two = LlamaForCausalLM(type(one.config).from_dict(one.config.to_dict() | {"num_key_value_heads": 2}))
    doubled = {
        name: weight.repeat(2, 1) if name.endswith(("k_proj.weight", "v_proj.weight")) else weight
        for name, weight in one.state_dict().items()
    }
    two.load_state_dict(doubled)
    two.save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return folder
