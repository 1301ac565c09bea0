"""How full fine-tuning scales to many GPUs, on paper: which ZeRO stage fits, and where the time of a step goes.

Arithmetic, not measurement: a step computes, then sums gradients, nothing overlaps (as our DeepSpeed config has it).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from components.models.memory import ModelShape, training_bytes
from components.training.deepspeed import DeepSpeedConfig

_GIB = 2**30
_BYTES = 2  # of a weight or gradient in bfloat16, as GPUs exchange them


@dataclass(frozen=True)
class Hardware:
    """GPUs and what joins them. Rates are of one GPU and one direction."""

    name: str
    memory_gib: float  # that a process can have
    flops: float  # dense bfloat16, per second, by the data sheet
    utilisation: float  # share of that which training reaches: an assumption
    gpus_per_node: int
    within_bytes_s: float  # between GPUs of a node
    between_bytes_s: float  # a GPU's share of its node's network


@dataclass(frozen=True)
class Scaled:
    """One number of GPUs: the lowest ZeRO stage that fits (none does: None), and a step's time."""

    gpus: int
    stage: int | None
    gib: float  # of a GPU, at that stage, or at stage 3 where none fits
    tokens_a_step: int
    compute_s: float
    exchange_s: float

    @property
    def efficiency(self) -> float:
        """The share of a step in which GPUs compute."""
        return self.compute_s / (self.compute_s + self.exchange_s)

    @property
    def tokens_per_s(self) -> float:
        """Tokens trained on by all GPUs together."""
        return self.tokens_a_step / (self.compute_s + self.exchange_s)


# Data sheets of H100 SXM (989 TFLOP/s dense, NVLink 4 at 450 GB/s each way); a 400 Gbit/s adapter for each GPU.
H100 = Hardware("8 x H100 80 GB, 400 Gbit/s a GPU", 74.0, 989e12, 0.4, 8, 450e9, 50e9)
# L40S (362 TFLOP/s dense, no NVLink: PCIe 4.0 x16); four of them share 100 Gbit/s.
L40S = Hardware("4 x L40S 48 GB, 100 Gbit/s a node", 44.0, 362e12, 0.4, 4, 25e9, 3.125e9)


def memory_bytes(shape: ModelShape, stage: int, gpus: int, batch_tokens: int) -> int:
    """Return one GPU's bytes: weights, gradients, float32 Adam, activations, logits.

    Source: Rajbhandari et al. 2020, "ZeRO", section 3.1, with K = 12: per parameter 2 bytes of weights, those of
    gradients, 12 of optimizer; stage 1 divides the last among the GPUs, 2 the gradients, too, 3 everything. Gradients
    take 2 bytes there, 4 here.
    """
    shards = DeepSpeedConfig.model_validate({"stage": stage}).shards(gpus)
    return training_bytes(shape, trained=shape.parameters, batch_tokens=batch_tokens, **shards)


def exchanged_bytes(shape: ModelShape, stage: int, gpus: int) -> float:
    """Return what a GPU sends in a step.

    Source: Rajbhandari et al. 2020, section 7: a ring's reduce-scatter and all-gather of the gradients, 2 values a
    parameter, for stages 0 to 2; with stage 3 the weights are gathered forward and backward, 3 values. At stage 1
    DeepSpeed's optimizer with float32 sums gives every GPU the whole sum, then gathers weights: 3 values, too.
    """
    return (3 if stage in (1, 3) else 2) * _BYTES * shape.parameters * (gpus - 1) / gpus


def scaled(shape: ModelShape, hardware: Hardware, gpus: int, tokens_per_gpu: int) -> Scaled:
    """Return the lowest stage that fits on so many GPUs, and a step's time by arithmetic.

    A step computes 6 operations a parameter and token (forward 2, backward 4), attention's own left out, and one pass
    makes it: more passes compute more between two exchanges.

    Args:
        tokens_per_gpu: of one pass.
    """
    fits = [
        stage
        for stage in (0, 1, 2, 3)
        if memory_bytes(shape, stage, gpus, tokens_per_gpu) <= hardware.memory_gib * _GIB and (gpus > 1 or stage == 0)
    ]
    stage = fits[0] if fits else None
    assumed = 3 if stage is None else stage
    rate = hardware.within_bytes_s if gpus <= hardware.gpus_per_node else hardware.between_bytes_s
    return Scaled(
        gpus=gpus,
        stage=stage,
        gib=memory_bytes(shape, assumed, gpus, tokens_per_gpu) / _GIB,
        tokens_a_step=gpus * tokens_per_gpu,
        compute_s=6 * shape.parameters * tokens_per_gpu / (hardware.flops * hardware.utilisation),
        exchange_s=exchanged_bytes(shape, assumed, gpus) / rate if gpus > 1 else 0.0,
    )


def table(
    shape: ModelShape, hardware: Hardware, tokens_per_gpu: int, gpus: Sequence[int] = (1, 8, 64, 512)
) -> list[str]:
    """Return the rows of a Markdown table, headings first."""
    lines = [
        "| GPUs | ZeRO | GiB a GPU | tokens a step | compute | exchange | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in gpus:
        row = scaled(shape, hardware, count, tokens_per_gpu)
        if row.stage is None:
            lines.append(f"| {count} | does not fit | {row.gib:.0f} | – | – | – | – |")
            continue
        lines.append(
            f"| {count} | {row.stage} | {row.gib:.0f} | {row.tokens_a_step:,} | {row.compute_s:.2f} s | "
            f"{row.exchange_s:.2f} s ({1 - row.efficiency:.0%}) | {row.tokens_per_s:,.0f} |"
        )
    return lines
