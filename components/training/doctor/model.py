"""What a model's files say about how it can be trained and served."""

from pathlib import Path

from components.data.chat import ChatTemplate
from components.models import memory
from components.models.adapters import AdapterConfig, check_blocks
from components.models.folder import stop_ids
from components.training.doctor.findings import Finding, fine, look, problem


def examine(folder: Path, template: ChatTemplate, adapter: AdapterConfig) -> list[Finding]:
    """Return what there is to say of the model, whatever it is trained on.

    Raises:
        UserError: its weights or its config cannot be read without loading them, or the adapter has no block.
    """
    shape = memory.read_shape(folder)
    check_blocks(adapter, shape.layers)
    found = [_stops(folder, template), _padding(template), _vocabulary(template, shape.vocabulary)]
    if adapter.name != "none":
        trained = memory.adapter_parameters(folder, adapter)
        where = f"adapter.target_modules={adapter.target_modules}"
        if trained:
            found.append(fine("adapter", f"{adapter.name} of {trained / 1e6:.2f} M weights"))
        else:
            found.append(problem("adapter", f"{where} names no layer of the model: nothing would be trained"))
    return found


def context(folder: Path, longest: int, unseen: int = 0) -> Finding:
    """Whether the model reads as much as the longest row has, and what is drawn after it.

    Args:
        unseen: how long rows may be that were not looked at.
    """
    positions = memory.read_shape(folder).max_positions
    if not positions:
        return look("context", "the model's config does not say how much it reads")
    if longest > positions:
        cure = "lower the limit on rows, or run extend_context"
        return problem("context", f"it reads {positions} tokens, and the longest row has {longest}: {cure}")
    text = f"it reads {positions} tokens, the longest row has {longest}"
    if unseen > positions:
        return look("context", f"{text} of those looked at, and others may have {unseen}")
    return fine("context", text)


def _stops(folder: Path, template: ChatTemplate) -> Finding:
    """Whether generation stops at the token that training ends each answer with."""
    name = template.tokenizer.convert_ids_to_tokens
    end, stops, own = name(template.turn_end_id), stop_ids(folder), template.tokenizer.eos_token_id
    if template.turn_end_id in stops:
        return fine("turn end", f"{end} ends an answer in training, and generation stops at it")
    others = ", ".join(str(name(stop)) for stop in sorted(stops)) or "nothing"
    cure = f"add {template.turn_end_id} to eos_token_id in its generation_config.json"
    if template.turn_end_id == own:  # vLLM stops at the tokenizer's end, too; transformers' generate does not
        return look("turn end", f"{end} ends an answer for vLLM, but for transformers it is {others}: {cure}")
    return problem(
        "turn end", f"answers end in {end}, and the model stops at {others}, so that it would talk on: {cure}"
    )


def _padding(template: ChatTemplate) -> Finding:
    pad = template.tokenizer.convert_ids_to_tokens(template.pad_id)
    if template.pad_id == template.turn_end_id:
        return fine("padding", f"{pad}, which ends answers, too: masks, not ids, say what is padding here")
    return fine("padding", str(pad))


def _vocabulary(template: ChatTemplate, embedded: int) -> Finding:
    """Whether each token has a row of the embedding: one that was added without it is an index error on a GPU."""
    known = len(template.tokenizer)
    if known > embedded:
        return problem(
            "vocabulary", f"the tokenizer has {known} tokens, and the model {embedded}: resize its embedding"
        )
    return fine("vocabulary", f"{known} tokens, {embedded} in the model")
