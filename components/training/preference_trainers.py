"""TRL's trainers for preferences, with what our rows and losses need beside what they do.

Both read rows that are prepared already (tokenized, scored by the reference, in batch order) and call the model as
``completion_head.attach`` leaves it. A loss that TRL's DPOTrainer has is computed by it. SimPO and ORPO are computed
here, on DPOTrainer, and not by ``trl.experimental``'s trainers: those tokenize in their constructor and can be handed
no ids, run the output head on every token of an unshared batch, and normalise ORPO's own loss over prompts, too.
KTO is TRL's KTOTrainer, but for the KL that its rewards are measured from: TRL's is of one forward pass, so that the
loss depends on how a batch is split; here it is of the whole optimizer step, over all workers.

Shapes: B sequences, P pairs, T tokens.
"""

from typing import TYPE_CHECKING, Any

from components.training.moving_reference import MovingReference
from components.training.preference_losses import LossConfig, own_loss

if TYPE_CHECKING:
    import torch
    from trl import DPOTrainer, KTOTrainer


def pair_trainer(loss: LossConfig, *, moves: bool = False) -> "type[DPOTrainer]":
    """Return TRL's DPOTrainer for prepared pairs; ``moves``: its ``reference`` is asked in the step, not the rows."""
    import torch
    from trl import DPOTrainer

    class PairTrainer(DPOTrainer):
        chosen_tokens = 1.0  # of the whole optimizer step, over all workers
        passes = 1  # forward passes of the optimizer step, over all workers
        reference: MovingReference | None = None

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            missing = {"ref_chosen_logps", "ref_rejected_logps"} - set(dataset.column_names)
            assert moves or not (missing and loss.has_reference), f"the {name} rows lack {missing}"
            return dataset

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = super().get_batch_samples(*args, **kwargs)
            if loss.sft_weight and batches:
                own = [_chosen_mask(batch["completion_mask"]).sum() for batch in batches]
                counts = torch.stack([torch.stack(own).sum(), torch.tensor(len(own), device=own[0].device)])
                tokens, passes = self.accelerator.reduce(counts.to(self.accelerator.device), "sum").tolist()
                self.chosen_tokens, self.passes = float(tokens), int(passes)
            return batches, items

        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            """Let TRL run the model and note its figures; add or put in its place what it has not."""
            heard: list[Any] = []

            def listened(**kwargs: Any) -> Any:
                heard.append(model(**kwargs))
                return heard[-1]

            if moves:
                assert self.reference is not None, "the trainer's reference is set after it is made"
                inputs = {**inputs, **self.reference.logprobs(inputs)}
            elif not loss.has_reference:
                none_P = torch.zeros(len(inputs["input_ids"]) // 2, device=inputs["input_ids"].device)
                inputs = {**inputs, "ref_chosen_logps": none_P, "ref_rejected_logps": none_P}
            total = super()._compute_loss(listened, inputs, False)
            logps_BT, mask_BT = heard[0].log_probs, inputs["completion_mask"][:, 1:]
            lengths_B = mask_BT.sum(1).clamp(min=1)
            self._note_lengths(lengths_B)
            if loss.trl_terms is None:
                total = self._own(logps_BT.sum(1), lengths_B, inputs)
            if loss.sft_weight:
                own = self._sft(logps_BT, lengths_B, inputs["completion_mask"])
                self._note("nll_loss", own)
                total = total + loss.sft_weight * own
            return total

        def _own(self, logps_B: "torch.Tensor", lengths_B: "torch.Tensor", inputs: dict[str, Any]) -> "torch.Tensor":
            """Return the mean over pairs of a loss that DPOTrainer has not."""
            chosen_P, rejected_P = (logps_B / lengths_B if loss.logprob == "mean" else logps_B).chunk(2)
            margin_P = chosen_P - rejected_P
            if loss.has_reference:
                margin_P = margin_P - (inputs["ref_chosen_logps"] - inputs["ref_rejected_logps"])
            else:
                assert loss.beta is not None
                self._note_rewards(loss.beta * chosen_P.detach(), loss.beta * rejected_P.detach())
            return own_loss(loss, chosen_P, rejected_P, margin_P).mean()

        def _sft(
            self, logps_BT: "torch.Tensor", lengths_B: "torch.Tensor", completion_BT: "torch.Tensor"
        ) -> "torch.Tensor":
            """Return this pass's part of the chosen answers' own loss: the mean of the parts is the step's loss."""
            pairs = len(logps_BT) // 2
            sums_P = -logps_BT[:pairs].sum(1)
            if loss.sft_mean == "answers":
                return (sums_P / lengths_B[:pairs]).mean()
            if not self.model.training:
                return sums_P.sum() / lengths_B[:pairs].sum()
            return sums_P.sum() * self.passes / self.chosen_tokens

        def _note_rewards(self, chosen_P: "torch.Tensor", rejected_P: "torch.Tensor") -> None:
            """Put a reference-free loss's own rewards in the place of those that TRL noted."""
            rewards = {
                "chosen": chosen_P,
                "rejected": rejected_P,
                "accuracies": (chosen_P > rejected_P).float(),
                "margins": chosen_P - rejected_P,
            }
            for name, values_P in rewards.items():
                noted = self._metrics["train" if self.model.training else "eval"][f"rewards/{name}"]
                noted[-1] = self.accelerator.gather(values_P).mean().item()

        def _note_lengths(self, lengths_B: "torch.Tensor") -> None:
            chosen_P, rejected_P = lengths_B.float().chunk(2)
            self._note("completions/chosen_length", chosen_P)
            self._note("completions/rejected_length", rejected_P)

        def _note(self, name: str, values: "torch.Tensor") -> None:
            mean = self.accelerator.gather(values.detach().reshape(-1)).mean().item()
            self._metrics["train" if self.model.training else "eval"][name].append(mean)

    return PairTrainer


def labelled_trainer(loss: LossConfig, *, paired: bool) -> "type[KTOTrainer]":
    """Return TRL's KTOTrainer for prepared answers, good or bad; ``paired``: a batch is good ones, then bad ones."""
    import torch
    from trl import KTOTrainer

    class LabelledTrainer(KTOTrainer):
        baseline: Any = None  # KL of the optimizer step that is being trained, a scalar tensor

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # The constructor is told of a loss without KL: with one it refuses passes of one row, which its own
            # estimate could not be made from.
            if loss.baseline != "zero":
                self.loss_type, self.calculate_KL = "kto", True

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            assert "ref_logps" in dataset.column_names, f"the {name} rows lack ref_logps"
            return dataset

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = super().get_batch_samples(*args, **kwargs)
            if self.calculate_KL and batches:
                self.baseline = self._measure(self.model_wrapped, [self._prepare_inputs(batch) for batch in batches])
            return batches, items

        def _measure(self, model: Any, batches: list[dict[str, Any]]) -> "torch.Tensor":
            """Return the mean of ln policy - ln reference over the KL's answers in all batches of all workers.

            It may be below 0, which no KL is: TRL cuts it off there.
            """
            total = torch.zeros(2, device=self.accelerator.device)
            for batch in batches:
                ratios_B = super()._compute_kl_logps(model, batch) - batch["ref_KL_logps"]
                total += torch.stack([ratios_B.sum(), torch.tensor(float(len(ratios_B)), device=total.device)])
            summed, count = self.accelerator.reduce(total, "sum")
            return summed / count

        def _compute_kl_logps(self, model: Any, batch: dict[str, Any]) -> Any:
            return self.baseline[None] if self.calculate_KL else None

        def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
            if self.calculate_KL:
                if not self.model.training:
                    self.baseline = self._measure(model, [inputs])
                # TRL takes the mean of the difference of these two: the baseline itself.
                inputs = {**inputs, "ref_KL_logps": torch.zeros(1, device=self.accelerator.device)}
            heard: list[Any] = []

            def listened(**kwargs: Any) -> Any:
                heard.append(model(**kwargs))
                return heard[-1]

            total = super()._compute_loss(listened, inputs, False)
            self._note_figures(inputs, heard[0].log_probs.detach().sum(1) - inputs["ref_logps"])
            return total

        def _note_figures(self, inputs: dict[str, Any], ratios_B: "torch.Tensor") -> None:
            """Note lengths and, of pairs, which answer has the higher reward: TRL's KTOTrainer does not."""
            noted = self._metrics["train" if self.model.training else "eval"]
            if paired:
                chosen_P, rejected_P = ratios_B.chunk(2)
                right = self.accelerator.gather((chosen_P > rejected_P).float())
                noted["rewards/accuracies"].append(right.mean().item())
            lengths_B = inputs["completion_mask"].sum(1).float()
            for name, of_B in (("chosen", inputs["label"]), ("rejected", ~inputs["label"])):
                own = torch.stack([(lengths_B * of_B).sum(), of_B.sum().float()])
                total, count = self.accelerator.reduce(own, "sum").tolist()
                if count:
                    noted[f"completions/{name}_length"].append(total / count)

    return LabelledTrainer


def _chosen_mask(completion_BT: "torch.Tensor") -> "torch.Tensor":
    return completion_BT[: len(completion_BT) // 2]
