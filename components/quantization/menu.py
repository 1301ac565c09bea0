"""Looks a quantization method up by its file's name."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import field_validator

from components.config import Config, Field, UserError


def names() -> list[str]:
    """Return the names of the methods: the files of the folder."""
    from components.quantization import methods

    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


class MethodConfig(Config):
    """Which method makes the smaller model."""

    name: str = Field("w8a8_int8", description="a file of components/quantization/methods")

    smoothing: float = Field(
        0.65, ge=0, le=1, description="how much of the activations' outliers the weights take over; 0 for none"
    )

    keep: tuple[str, ...] = Field(
        (),
        description="linear layers that keep their format, by the ends of their names, as [mlp.down_proj]; q_proj, "
        "k_proj and v_proj only together, as gate_proj and up_proj",
    )

    @field_validator("name")
    @classmethod
    def _is_on_the_menu(cls, name: str) -> str:
        if name not in names():
            raise ValueError(f"there is no such quantization method: choose one of {', '.join(names())}")
        return name


def quantize(source: Path, target: Path, texts: Sequence[Sequence[int]], config: MethodConfig) -> None:
    """Write the model in ``source`` to the new folder ``target`` by the method that ``config`` names.

    Args:
        texts: token ids of some texts like those that the model will read.

    Raises:
        UserError: the model is quantized already, has no layer that ``config.keep`` names, or
            engines could not load it with those layers alone kept.
    """
    import json

    known = json.loads((source / "config.json").read_text()).get("quantization_config")
    if known is not None:
        kind = known.get("quant_method", "unknown")
        raise UserError(f"{source} is quantized already ({kind}): give the model that it was made from")
    module = importlib.import_module(f"components.quantization.methods.{config.name}")
    method: Callable[..., None] = getattr(module, config.name)
    method(source, target, texts, smoothing=config.smoothing, keep=config.keep)
