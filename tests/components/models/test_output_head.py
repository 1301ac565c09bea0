"""Logits of architectures that scale or cap what their head makes, against their own forward pass."""

import pytest
import torch
import transformers

from components.config import UserError
from components.data.chat import IGNORED
from components.models.output_head import check_head, output_head
from components.training.completion_head import completion_forward

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
KINDS = {
    "Llama": {},
    "Granite": {"logits_scaling": 8.0},
    "Cohere": {"logit_scale": 0.0625},
    "Gemma2": {"final_logit_softcapping": 0.5, "head_dim": 8, "query_pre_attn_scalar": 8},
}


def tiny(kind, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | KINDS[kind] | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():  # a fresh model's logits are so small that a cap on them would not show
        for weights in {id(weights): weights for weights in model.parameters()}.values():
            weights.mul_(3)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_the_models_own_logits(kind):
    model, ids = tiny(kind), torch.randint(1, 97, (2, 12), generator=torch.Generator().manual_seed(1))
    check_head(model)
    labels = ids.clone()
    labels[:, :5] = IGNORED
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        bare = model.get_output_embeddings()(model.base_model(input_ids=ids).last_hidden_state)
        found = completion_forward(model, ids, torch.ones_like(ids), labels, share=1)
    assert (kind == "Llama") == torch.equal(bare, whole)
    expected = whole.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(found.log_probs[:, 4:], expected[:, 4:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.mean_logits[:, 4:], whole.mean(-1)[:, 4:-1], atol=1e-5, rtol=1e-4)


def test_a_cap_has_the_gradient_of_the_models_own_loss():
    model, ids = tiny("Gemma2"), torch.arange(1, 11)[None]
    gradients = []
    for loss in (
        lambda: model(input_ids=ids, labels=ids).loss,
        lambda: -completion_forward(model, ids, torch.ones_like(ids), ids, share=1).log_probs.mean(),
    ):
        model.zero_grad()
        loss().backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-3)


def test_a_plain_head_stays_the_module_that_it_is():
    model = tiny("Llama")
    assert output_head(model) is model.get_output_embeddings()


@pytest.mark.parametrize("kind", ["Llama", "Gemma2"])
def test_an_architecture_that_does_something_else_is_refused(kind):
    model = tiny(kind).train()
    forward = model.forward

    def shifted(**given):
        found = forward(**given)
        found.logits = found.logits - 3 * found.logits.clamp(min=0)
        return found

    model.forward = shifted
    with pytest.raises(UserError, match=f"{kind}ForCausalLM does more to its logits"):
        check_head(model)
    assert model.training
