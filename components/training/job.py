"""One training job from tokenized rows to a published folder; what SFT and preference training share."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models.adapter_base import AdapterBase
from components.models.adapters import adalora_schedule, check_blocks
from components.models.folder import digest
from components.models.memory import adapts_nothing, read_shape
from components.models.shifted import check_supported
from components.tracking.lineage import write_lineage
from components.tracking.run import Run
from components.training import cost, full_steps
from components.training.launch import FOLDER, launch
from components.training.rows import Tokenized, batch_order, steps_of, write_rows
from components.training.settings import Recipe, group_sizes, trainer_arguments, weight_dtype


def train(
    loop: Callable[[dict[str, Any]], dict[str, Any]],
    recipe: Recipe,
    *,
    model: Path | None,
    train_rows: Tokenized,
    eval_rows: Tokenized | None,
    run_dir: Path,
    identity: dict[str, str],
    payload: dict[str, Any],
) -> dict[str, Any]:
    """Run the loop on Ray Train workers and return its figures; the result lies in ``trained_folder``.

    With ``recipe.full_steps`` the loop then runs so many steps without the adapter, whose memory and time are figures.

    Args:
        model: folder of the model that is trained; none: the loop makes what it trains.
        identity: digests that a checkpoint must share with this job to be gone on from.
        payload: what this loop needs besides what every loop gets; plain data.

    Raises:
        UserError: the cluster is too small, or the run's folder holds checkpoints of something else.
        Breach: an invariant of training broke.
    """
    optim, scale = recipe.optim, recipe.scale
    steps = steps_of(len(train_rows.rows), optim.epochs, optim.batch_size)
    order = batch_order(train_rows.lengths, steps, optim.batch_size, recipe.seed, window=optim.length_window)
    dtype = weight_dtype(optim.dtype, scale.gpu)
    arguments = trainer_arguments(recipe, bf16=dtype == "bfloat16", steps=steps, checkpoints=run_dir / FOLDER)
    whole = {
        "model": str(model) if model else None,
        "adapter": recipe.adapter.model_dump(),
        "arguments": arguments,
        "dtype": dtype,
        "seed": recipe.seed,
        "train": write_rows([train_rows.rows[row] for row in order], run_dir / "rows" / "train.parquet"),
        "eval": write_rows(eval_rows.rows, run_dir / "rows" / "eval.parquet") if eval_rows else None,
        "out": str(trained_folder(run_dir)),
        "evidence": str(run_dir / "evidence.json"),
        **payload,
    }
    if model:
        check_adapter(recipe, model, steps)
    settings = json.dumps([arguments, recipe.adapter.model_dump(), dtype, steps], sort_keys=True)
    marks = {**identity, "settings": hashlib.sha256(settings.encode()).hexdigest()[:16]}
    figures = launch(loop, whole, scale, run_dir, marks, group_sizes(optim, scale))
    if model is None:
        return figures | cost.measured(run_dir)
    if recipe.adapter.name != "none":
        quantization = "nf4" if recipe.adapter.quantizes else None
        base = identity.get("base_digest") or digest(model)
        AdapterBase(str(model), base, recipe.adapter.name, quantization).write(trained_folder(run_dir))
    sides = 2 if "chosen_ids" in train_rows.rows[0] else 1
    batch_tokens = optim.micro_batch_size * sides * max(train_rows.lengths)
    figures |= cost.figures(run_dir, model, recipe, batch_tokens, dtype)
    if recipe.full_steps:
        full = full_steps.measure(loop, whole, recipe, run_dir, train_rows, order)
        figures |= full | full_steps.saved(figures, full)
    return figures


def check_adapter(recipe: Recipe, model: Path, steps: int) -> None:
    """Refuse an adapter that this model or this number of steps does not allow.

    Raises:
        UserError: with the reason.
    """
    check_blocks(recipe.adapter, read_shape(model).layers)
    if recipe.adapter.name != "none" and adapts_nothing(model, recipe.adapter):
        targets = recipe.adapter.target_modules
        wanted = f"adapter.target_modules=[{targets}]" if isinstance(targets, str) else "names that end so"
        raise UserError(
            f"adapter.target_modules={targets if isinstance(targets, str) else list(targets)} names no layer of "
            f"{model.name} from block {recipe.adapter.first_layer} on: give {wanted}, or all-linear"
        )
    if recipe.adapter.name == "adalora":
        adalora_schedule(recipe.adapter, steps)
    if recipe.adapter.name == "longlora":
        check_supported(model)


def trained_folder(run_dir: Path) -> Path:
    """Return where a loop leaves what it trained, until it is published."""
    return run_dir / ".trained"


def publish(
    run: Run, recipe: Recipe, model: Path, table: str, facts: dict[str, Any], *, name: str | None = None
) -> dict[str, str]:
    """Move what was trained to its final name, in one step, and drop what only a restart would need.

    Returns:
        the workflow's outputs: ``{"adapter", "base"}``, or ``{"model"}`` where all weights were trained; or what
        ``name`` says.
    """
    trained, target = trained_folder(run.dir), run.dir / (name or recipe.output)
    write_lineage(trained, kind=name or recipe.output, run=run, parents=[model, table], facts=facts)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(trained, target)
    if recipe.adapter.name != "none":  # small enough to be in MLflow, too: runs:/<id>/adapter
        run.log_artifact(target)
    discard(run.dir)  # last: an upload that fails loses no checkpoint
    if name:
        return {name: str(target)}
    return {recipe.output: str(target)} | ({"base": str(model)} if recipe.output == "adapter" else {})


def discard(run_dir: Path) -> None:
    """Remove what was trained and not published, and what only a restart would need."""
    for leftover in (trained_folder(run_dir), run_dir / FOLDER, run_dir / "rows"):
        shutil.rmtree(leftover, ignore_errors=True)
