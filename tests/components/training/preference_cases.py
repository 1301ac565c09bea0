"""Every preference loss with the rows of a tiny model, as its real trainer is given them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from components.data.chat import ChatTemplate
from components.models.load import load_model
from components.training import preference_rows
from components.training.preference import make_trainer
from components.training.preference_losses import LossConfig
from components.training.reference import pair_ids, score_pairs
from components.training.rows import tokenize, write_rows
from tests.components.training import several_processes
from tests.components.training.several_processes import Log

ARGUMENTS = {
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1e9,
    "use_cpu": True,
    "train_sampling_strategy": "sequential",
    "dataloader_pin_memory": False,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "report_to": [],
    "disable_tqdm": True,
    "max_length": None,
    "bf16": False,
    "gradient_checkpointing": False,
}
LOSSES = {
    "sigmoid": {},
    "sigmoid mean": {"logprob": "mean", "beta": 2.0},
    "sigmoid + tokens": {"sft": 0.7},
    "sigmoid + answers": {"sft": 0.7, "sft_mean": "answers"},
    "conservative": {"name": "conservative", "smoothing": 0.2},
    "robust": {"name": "robust", "smoothing": 0.2},
    "robust scaled": {"name": "robust", "smoothing": 0.2, "normalised": False},
    "ipo": {"name": "ipo"},
    "ipo sum": {"name": "ipo", "logprob": "sum"},
    "hinge": {"name": "hinge"},
    "simpo": {"name": "simpo"},
    "orpo": {"name": "orpo"},
    "orpo answers": {"name": "orpo", "sft_mean": "answers"},
    "kto": {"name": "kto", "desirable": 1.5},
    "kto batch": {"name": "kto", "baseline": "batch", "undesirable": 0.5},
    "kto zero": {"name": "kto", "baseline": "zero"},
    "kto labelled": {"name": "kto", "undesirable": 2.0},
}


def is_paired(which):
    return which != "kto labelled"


def make_tables(tiny_model_dir):
    """Twelve rows of each kind, as ids, and the tiny model's own log-probabilities of any."""
    template = ChatTemplate.from_folder(tiny_model_dir)
    model = load_model(tiny_model_dir, "float32")
    pairs, answers = [], []
    for number in range(12):
        prompt = [{"role": "user", "content": f"Which function joins {number} path names?" + " Say it." * (number % 4)}]
        good = [{"role": "assistant", "content": "It joins path names [1]." * (1 + number % 3)}]
        bad = [{"role": "assistant", "content": "I don't know." + " No." * (number % 5)}]
        pairs.append({"pair_id": f"p{number}", "prompt": prompt, "chosen": good, "rejected": bad})
        label = number % 3 != 0
        answers.append(
            {"answer_id": f"a{number}", "prompt": prompt, "completion": good if label else bad, "label": label}
        )

    def look_up(rows):
        scores = score_pairs(model, rows, 2, 2048)
        return {row["pair_id"]: pair for row, pair in zip(rows, scores, strict=True)}, len(rows)

    kinds = {True: (pairs, pair_ids(template)), False: (answers, preference_rows.labelled_ids(template))}
    return look_up, {
        paired: preference_rows.Preferences(tokenize(rows, convert, max_tokens=256, what="t"), None, paired)
        for paired, (rows, convert) in kinds.items()
    }


def prepared(which, tables):
    look_up, data = tables
    loss = LossConfig(**LOSSES[which])
    rows, _, _ = preference_rows.prepare(data[is_paired(which)], loss, look_up, max_tokens=256, seed=0)
    return loss, rows.rows


def payload_of(which, tables, model, folder: Path, *, micro=4, passes=None, steps=1, shift=None):
    """What ``make_trainer`` is given, and the rows; ``shift`` is added to what the reference says."""
    loss, rows = prepared(which, tables)
    if shift:
        rows = [shifted(row, number, shift) for number, row in enumerate(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    path = write_rows(rows * 2, folder / "rows.parquet")
    payload = {
        "loss": loss.model_dump(),
        "model": str(model),
        "dtype": "float32",
        "paired": is_paired(which),
        "adapter": {"name": "lora", "rank": 4, "alpha": 8.0},
        "train": path,
        "eval": path,
        "arguments": ARGUMENTS
        | {
            "output_dir": str(folder / "checkpoints"),
            "max_steps": steps,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": passes or 4 // micro,
        },
    }
    return payload, rows


def trainer_of(*args, **kwargs):
    """The real trainer of a loss, in this process."""
    payload, rows = payload_of(*args, **kwargs)
    log = Log()
    return make_trainer(payload, [log]), log, rows


def curves_in(processes, payloads, folder):
    """The losses of each payload's training in so many processes."""
    folder.mkdir(exist_ok=True)
    (folder / "payloads.json").write_text(json.dumps(payloads))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launch, several_processes.__file__, str(folder / "payloads.json"), str(folder / "curves.json")]
    own = {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "curves.json").read_text())


def shifted(row, number, by):
    """The row with another reference: rewards are no longer 0, nor the same for each answer."""
    row = dict(row)
    for key in ("ref_chosen_logps", "ref_rejected_logps"):
        if key in row:
            row[key] += by * (1 + number % 3) * (1 if "chosen" in key else -0.5)
    for key, share in (("ref_logps", 1.0), ("ref_kl_logps", -1.0)):
        if key in row:
            row[key] = [value + by * share * (1 + (number + at) % 3) for at, value in enumerate(row[key])]
    return row


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
