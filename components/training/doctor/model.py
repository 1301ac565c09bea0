"""What a model's files say about how it can be trained and served."""

import json
from pathlib import Path
from typing import Any

from components.data.chat import ChatTemplate
from components.models import memory
from components.models.adapters import AdapterConfig
from components.training.doctor.findings import Finding, fine, look, problem


def examine(folder: Path, template: ChatTemplate, adapter: AdapterConfig, *, longest: int) -> list[Finding]:
    """Return what there is to say of the model.

    Args:
        longest: tokens that the model is to read at once.

    Raises:
        UserError: its weights or its config cannot be read without loading them.
    """
    found = [_stops(folder, template), _padding(template), _positions(folder, longest)]
    if adapter.name != "none":
        trained = memory.adapter_parameters(folder, adapter)
        where = f"adapter.target_modules={adapter.target_modules}"
        if trained:
            found.append(fine("adapter", f"{adapter.name} of {trained / 1e6:.2f} M weights"))
        else:
            found.append(problem("adapter", f"{where} names no layer of the model: nothing would be trained"))
    return found


def _stops(folder: Path, template: ChatTemplate) -> Finding:
    """Whether a server stops at the token that training ends each answer with."""
    stops = _stop_ids(folder)
    end = template.tokenizer.convert_ids_to_tokens(template.turn_end_id)
    if template.turn_end_id in stops:
        return fine("turn end", f"{end} ends an answer in training, and generation stops at it")
    names = ", ".join(str(template.tokenizer.convert_ids_to_tokens(stop)) for stop in sorted(stops)) or "nothing"
    return problem(
        "turn end",
        f"answers end in {end}, and the model stops at {names}, so that it would talk on: add {template.turn_end_id} "
        "to eos_token_id in its generation_config.json",
    )


def _stop_ids(folder: Path) -> set[int]:
    """The ids at which generation stops, as engines read them: of generation_config.json, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        stops: Any = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        if stops is not None:
            return set(stops) if isinstance(stops, list) else {stops}
    return set()


def _padding(template: ChatTemplate) -> Finding:
    pad = template.tokenizer.convert_ids_to_tokens(template.pad_id)
    if template.pad_id == template.turn_end_id:
        return fine("padding", f"{pad}, which ends answers, too: masks, not ids, say what is padding here")
    return fine("padding", str(pad))


def _positions(folder: Path, longest: int) -> Finding:
    positions = memory.read_shape(folder).max_positions
    if not positions:
        return look("context", "the model's config does not say how much it reads")
    if longest > positions:
        return problem(
            "context", f"it reads {positions} tokens, and rows may have {longest}: lower that, or run extend_context"
        )
    return fine("context", f"it reads {positions} tokens, rows have at most {longest}")
