"""Reward models: scalar heads on a language model's trunk, read at the last real token or at the end of each step.

A reward model is a folder that transformers and PEFT can read (a sequence classifier, or an adapter for one,
with one label a head) beside ``reward.json``, which says what the heads mean. One model may have several heads,
trained on resampled pairs: their disagreement tells where a reward is a guess.

Shapes: B sequences, T tokens, N completion tokens, K heads.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config, Field, UserError
from components.models.adapter_base import AdapterBase, is_adapter
from components.models.folder import write_whole
from components.models.packing import can_share_prompt, collate, hidden_states, pack

if TYPE_CHECKING:
    import torch

FILE = "reward.json"
Kind = Literal["outcome", "process"]


class CombineConfig(Config):
    """How several heads or models make one reward."""

    name: Literal["mean", "min", "mean_minus_std", "quantile"] = Field(
        "mean", description="mean, min, mean - lambda x standard deviation, or a quantile of the heads"
    )
    penalty: float = Field(1.0, ge=0, description="lambda of mean_minus_std")
    quantile: float = Field(0.25, ge=0, le=1, description="which quantile: 0 is the lowest head, 1 the highest")


def combine(values: Sequence[float], config: CombineConfig) -> float:
    """Return one reward from the normalised rewards of K heads; the deviation is the population's.

    Source: conservative ensembles against over-optimization, Coste et al. 2023 (arXiv 2310.02743), section 3.
    """
    mean = math.fsum(values) / len(values)
    if config.name == "mean":
        return mean
    if config.name == "min":
        return min(values)
    if config.name == "mean_minus_std":
        return mean - config.penalty * disagreement(values)
    ordered = sorted(values)
    place = config.quantile * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def disagreement(values: Sequence[float]) -> float:
    """Return the standard deviation of the heads' rewards; 0 with one head."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


@dataclass(frozen=True)
class RewardInfo:
    """What ``reward.json`` holds.

    ``mean`` and ``std`` are each head's on held-out answers, as trained; a process model's are of single steps, and
    ``worst_mean`` and ``worst_std`` those of an answer's worst step, in units of the former; none leaves it in them.
    """

    kind: Kind
    heads: int
    base: str
    base_digest: str
    template_digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    worst_mean: tuple[float, ...] = ()
    worst_std: tuple[float, ...] = ()

    @classmethod
    def unscaled(cls, kind: Kind, heads: int, base: str, base_digest: str, template_digest: str) -> "RewardInfo":
        """Return the page of a model whose rewards were not measured yet: they stay as they are."""
        return cls(kind, heads, base, base_digest, template_digest, (0.0,) * heads, (1.0,) * heads)

    def write(self, folder: Path) -> None:
        """Write the page, whole or not at all."""
        write_whole(folder / FILE, json.dumps(asdict(self), indent=2))

    @classmethod
    def read_for(cls, folder: Path, template_digest: str) -> "RewardInfo":
        """As ``read``; also refuses a reward model that was trained with another chat template than the model's."""
        info = cls.read(folder)
        if info.template_digest != template_digest:
            raise UserError(f"the reward model {folder} was trained with another chat template than the model's")
        return info

    @classmethod
    def read(cls, folder: Path) -> "RewardInfo":
        """Return what a reward model's folder says of itself.

        Raises:
            UserError: the folder is no reward model.
        """
        if not (folder / FILE).is_file():
            raise UserError(f"{folder} is not a reward model: it has no {FILE} (workflows.train_reward makes one)")
        page: dict[str, Any] = json.loads((folder / FILE).read_text())
        lists: dict[str, Any] = {name: tuple(value) for name, value in page.items() if isinstance(value, list)}
        return cls(**{**page, **lists})


def load_base(folder: Path, heads: int, dtype: str, seed: int, *, nf4: bool = False) -> Any:
    """Return the chat model in ``folder`` as a sequence classifier with ``heads`` fresh scalar heads (``start_heads``).

    With ``nf4`` its linear layers are 4-bit ones, and it is on the GPU where there is one.

    The heads of a model that ZeRO-3 divides as it loads are not whole here: they are for the caller to start.
    """
    from transformers import AutoModelForSequenceClassification, logging

    from components.models import nf4 as quantized
    from components.models.folder import check_folder
    from components.models.load import torch_dtype

    number_format = torch_dtype(dtype)  # type: ignore[arg-type]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that the heads are fresh, as they must be
    try:
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            check_folder(folder),
            num_labels=heads,
            dtype=number_format,
            **(quantized.loading(number_format) if nf4 else {}),
        )
    finally:
        logging.set_verbosity(verbosity)
    if nf4:
        quantized.keep_exact(model)
    if not hasattr(model.score.weight, "ds_id"):
        start_heads(model, seed)
    return model


def start_heads(model: Any, seed: int) -> None:
    """Give the heads their first weights, near zero: N(0, 1 / (hidden + 1)), so that their first loss is near ln 2.

    Source: the initial reward head of Ziegler et al. 2019 (arXiv 1909.08593), section 2.
    """
    import torch

    weight = model.score.weight
    fresh = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) / math.sqrt(weight.shape[1] + 1)
    weight.data.copy_(fresh.to(weight.dtype))


def attach(model: Any, share: int) -> None:
    """Make ``model(input_ids=…, attention_mask=…, completion_mask=…)`` return rewards, whatever the padding side.

    With ``at`` (True at the last token of each step) it returns those steps' rewards instead of the answers'.
    Returns float32 [B, K], or [steps, K] in the order of the batch.
    """

    def forward(
        input_ids: "torch.Tensor",
        attention_mask: "torch.Tensor",
        completion_mask: "torch.Tensor",
        at: "torch.Tensor | None" = None,
        **_: Any,
    ) -> "torch.Tensor":
        packed = pack(input_ids, attention_mask, completion_mask, model.dtype, share)
        places = packed.last_B if at is None else packed.holds_N[at[completion_mask]]
        return model.score(hidden_states(model, packed)[places]).float()

    model.forward = forward


class RewardModel:
    """A trained reward model, loaded for scoring; rewards are normalised by the held-out mean and deviation."""

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: str = "auto",
        max_batch_tokens: int = 4096,
        device: str | None = None,
        quiet: bool = False,
    ) -> None:
        """Load the model in ``folder``, on this process's GPU if it has one, unless ``device`` says otherwise.

        A ``quiet`` one, as a server needs it, shows no progress.

        Raises:
            UserError: it is no reward model, or its base has changed since.
        """
        from transformers import AutoModelForSequenceClassification

        from components.models.folder import digest
        from components.models.load import torch_device, torch_dtype

        folder = Path(folder)
        self.info = RewardInfo.read(folder)
        self.max_batch_tokens, self.quiet = max_batch_tokens, quiet
        if is_adapter(folder):
            from peft import PeftModel

            if digest(Path(self.info.base)) != self.info.base_digest:
                raise UserError(f"{folder} was trained on {self.info.base}, which has changed since: train it again")
            page = AdapterBase.read(folder)
            nf4 = page is not None and page.quantization == "nf4"
            self.model = load_base(Path(self.info.base), self.info.heads, dtype, 0, nf4=nf4)
            self.whole: Any = PeftModel.from_pretrained(self.model, str(folder))
        else:
            number_format = torch_dtype(dtype)  # type: ignore[arg-type]
            self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=number_format)
            self.whole = self.model
        self.device = device or torch_device()
        self.whole.eval().to(self.device)
        self.model.score.float()  # in bfloat16 a reward would have three digits, and rewards that are close would tie

    def score(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]:
        """Return the K rewards of each answer to each prompt (token ids); answers to one prompt are read together."""
        return self._score(prompts, answers, None)

    def score_steps(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        ends: Sequence[Sequence[int]],
    ) -> list[list[list[float]]]:
        """Return the K rewards of each step; ``ends`` holds the place of each step's last token in its answer."""
        return [own[0] for own in self._score(prompts, [[answer] for answer in answers], ends)]

    def _score(self, prompts: Any, answers: Any, ends: Any) -> list:
        from components.models.logprobs import batches_by_length
        from components.progress import progress

        sizes = [len(prompt) + sum(len(answer) for answer in own) for prompt, own in zip(prompts, answers, strict=True)]
        found: list = [None] * len(prompts)
        done = 0
        for numbers in batches_by_length(sizes, self.max_batch_tokens):
            alike: dict[int, list[int]] = {}
            for number in numbers:
                alike.setdefault(len(answers[number]), []).append(number)
            for count, group in alike.items():
                own_ends = [ends[number] for number in group] if ends is not None else None
                values = self._forward([prompts[n] for n in group], [answers[n] for n in group], count, own_ends)
                for number, value in zip(group, values, strict=True):
                    found[number] = value
            done += len(numbers)
            if not self.quiet:
                progress(done, len(prompts), "prompts scored")
        return found

    def _forward(self, prompts: list, answers: list, count: int, ends: list | None) -> list:
        """Return, for each prompt, the rewards of each of its ``count`` answers (or of its one answer's steps)."""
        import torch

        share = count if count > 1 and can_share_prompt(self.model) else 1
        rows = [(prompt, own[k]) for k in range(count) for prompt, own in zip(prompts, answers, strict=True)]
        batch = {name: value.to(self.device) for name, value in collate(rows, 0).items()}
        with torch.inference_mode():
            packed = pack(batch["input_ids_BT"], batch["attention_BT"], batch["completion_BT"], self.model.dtype, share)
            hidden = hidden_states(self.model, packed)
            if ends is None:
                values_BK = self._normalised(hidden[packed.last_B])
                return values_BK.view(count, len(prompts), -1).transpose(0, 1).tolist()
            per_row = packed.holds_N.split(batch["completion_BT"].sum(1).tolist())
            return [
                [self._normalised(hidden[places[torch.tensor(own, dtype=torch.long, device=self.device)]]).tolist()]
                for places, own in zip(per_row, ends, strict=True)
            ]

    def _normalised(self, hidden: "torch.Tensor") -> "torch.Tensor":
        import torch

        raw = self.model.score(hidden.float())
        return (raw - torch.tensor(self.info.mean, device=raw.device)) / torch.tensor(self.info.std, device=raw.device)


def held_out_statistics(values_K: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return each head's mean and standard deviation (at least 1e-6) over held-out rewards [N][K]."""
    heads = list(zip(*values_K, strict=True))
    means = tuple(math.fsum(head) / len(head) for head in heads)
    stds = tuple(max(disagreement(head), 1e-6) for head in heads)
    return means, stds
