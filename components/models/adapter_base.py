"""The page that travels in an adapter's folder and says which base it was trained on: it loads on no other."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models.folder import digest, write_whole

FILE = "base.json"
_LINEAGE = "lineage.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterBase:
    """What ``base.json`` holds."""

    base: str  # the folder that was trained on
    base_digest: str
    kind: str  # adapter.name
    quantization: str | None = None  # "nf4" where the base was in 4 bits while training

    def write(self, folder: Path) -> None:
        """Write the page, whole or not at all."""
        write_whole(folder / FILE, json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, folder: Path) -> "AdapterBase | None":
        """Return what an adapter's folder says of its base; none where it was made elsewhere and does not say.

        Where there is only a lineage page, its facts say the same.
        """
        if (folder / FILE).is_file():
            return cls(**json.loads((folder / FILE).read_text()))
        if not (folder / _LINEAGE).is_file():
            return None
        page = json.loads((folder / _LINEAGE).read_text())
        facts: dict[str, Any] = page.get("facts", {})
        first: dict[str, Any] = next(iter(page.get("parents", [])), {})
        if "base_digest" not in facts:
            return None
        adapter = facts.get("adapter") or {}
        base = first.get("reference") or f"the {first.get('kind', 'model')} of run {first.get('run_id', 'unknown')}"
        kind = adapter.get("name", "lora")
        return cls(base, facts["base_digest"], kind, "nf4" if kind == "qlora" else None)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter in PEFT's format."""
    return (Path(folder) / "adapter_config.json").is_file()


def check_base(adapter: Path, base: Path, cache: Path | None = None) -> AdapterBase | None:
    """Return the adapter's page if it was trained on ``base``; none, with a warning, where it does not say.

    Raises:
        UserError: there is no adapter, or it was trained on another model.
    """
    if not is_adapter(adapter):
        raise UserError(f"no adapter at {adapter}: expected a folder with adapter_config.json")
    page = AdapterBase.read(Path(adapter))
    if page is None:
        logger.warning("%s does not say which model it was trained on: it is taken to fit %s", adapter, base)
        return None
    found = digest(Path(base), cache)
    if found != page.base_digest:
        raise UserError(
            f"{adapter} was trained on a model with digest {page.base_digest[:12]} ({page.base}), "
            f"{base} has {found[:12]}: use it with the model it was trained on"
        )
    return page


def registry_tags(adapter: Path, base: Path, cache: Path | None = None) -> dict[str, str]:
    """Return what a registry shall say of an adapter: its kind, and the one base that it may be put on.

    Raises:
        UserError: it was trained on another base, or does not say on which.
    """
    page = check_base(adapter, base, cache)
    if page is None:
        raise UserError(f"{adapter} does not say which model it was trained on, so it cannot be registered: merge it")
    kept = {"adapter": page.kind, "base": page.base, "base_digest": page.base_digest}
    return kept | ({"base_quantization": page.quantization} if page.quantization else {})


@dataclass(frozen=True)
class Carrier:
    """A model that is served, and which adapters its engine carries; plain data."""

    digest: str
    max_rank: int  # the engine has room for
    quantized_from: str | None = None  # digest of the model that it was made from by quantizing
    smoothed: bool = False  # quantizing scaled its channels, too
    inexact: bool = False  # also carries what was trained on the same weights in another number format


def check_served(adapter: Path, carrier: Carrier) -> AdapterBase:
    """Return the page of an adapter that the engine of ``carrier`` may carry.

    Raises:
        UserError: it was trained on another base or does not say on which, or is of a kind that engines do not carry.
    """
    if not is_adapter(adapter):
        raise UserError(f"no adapter at {adapter}: expected a folder with adapter_config.json")
    page = AdapterBase.read(adapter)
    if page is None:
        raise UserError(
            f"{adapter} does not say which model it was trained on ({FILE}), so it is not served on one: merge it"
        )
    if page.base_digest not in (carrier.digest, carrier.quantized_from):
        raise UserError(
            f"{adapter} was trained on a model with digest {page.base_digest[:12]} ({page.base}), and the one that is "
            f"served has {carrier.digest[:12]}: serve it on the model it was trained on"
        )
    is_same = page.base_digest == carrier.digest
    if carrier.smoothed and not is_same:
        raise UserError(
            f"{adapter} was trained on the served model before quantizing scaled the channels that its matrices read: "
            "serve it merged, or quantize the model with method.smoothing=0"
        )
    format_then = "in 4 bits" if page.quantization else "before it was quantized"
    if (page.quantization or not is_same) and not carrier.inexact:
        raise UserError(
            f"{adapter} was trained on the served model {format_then}, and computes something else on it as it is now: "
            "serve it merged, or measure that (merge_adapter) and set engine.adapters.inexact=true"
        )
    if reason := _not_carried(json.loads((adapter / "adapter_config.json").read_text()), carrier.max_rank):
        raise UserError(f"{adapter} {reason}")
    return page


def _not_carried(config: dict[str, Any], max_rank: int) -> str:
    """Return why engines do not carry an adapter with this ``adapter_config.json``; empty where they do."""
    merge = "serve it merged (workflows.merge_adapter)"
    if config.get("modules_to_save") or config.get("task_type") not in (None, "CAUSAL_LM"):
        return f"trains whole layers beside its low-rank matrices, which engines do not carry: {merge}"
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
        kind = "DoRA" if config.get("use_dora") else str(config.get("peft_type"))
        return f"is a {kind} adapter, and engines carry lora, rslora and loraplus only: {merge}"
    rank = max([int(config["r"]), *(config.get("rank_pattern") or {}).values()])
    return f"has rank {rank}, more than engine.adapters.max_rank={max_rank}: raise it" if rank > max_rank else ""


def check_on_trunk(adapter: Path, base_digest: str) -> None:
    """Refuse an adapter that several-on-one-trunk (PPO's policy, critic and rewards) would compute wrongly with.

    One that was trained on another base is a model of its own there, and may be of any kind.

    Raises:
        UserError: it is on this base, but not a plain low-rank adapter, or its base was in 4 bits.
    """
    page = AdapterBase.read(adapter)
    if not is_adapter(adapter) or page is None or page.base_digest != base_digest:
        return
    known = json.loads((adapter / "adapter_config.json").read_text())
    others = set(known.get("modules_to_save") or []) - {"score", "classifier"}
    if known["peft_type"] != "LORA" or known.get("use_dora") or others or page.quantization:
        raise UserError(
            f"{adapter} is a {page.kind} adapter on the policy's own base, and its trunk carries lora, rslora and "
            "loraplus only: train that one with one of these"
        )
