"""Log-probabilities of completions: natural log, float32, only where the mask says so.

Shapes: B sequences, T tokens, V vocabulary, N selected positions.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from components.progress import progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_CHUNK_VALUES = 1 << 25


def token_logprobs(logits_NV: "torch.Tensor", targets_N: "torch.Tensor") -> "torch.Tensor":
    """Return log p(target) of each row in float32, in chunks of rows: [N, V] is never copied to float32 whole."""
    import torch

    rows = max(1, _CHUNK_VALUES // logits_NV.shape[-1])
    parts = []
    for logits, targets in zip(logits_NV.split(rows), targets_N.split(rows), strict=True):
        logits = logits.float()
        chosen = logits.gather(-1, targets[:, None]).squeeze(-1)
        parts.append(chosen - logits.logsumexp(-1))
    return torch.cat(parts) if parts else logits_NV.new_zeros(0, dtype=torch.float32)


def completion_logprobs(
    logits_BTV: "torch.Tensor", input_ids_BT: "torch.Tensor", completion_mask_BT: "torch.Tensor"
) -> "torch.Tensor":
    """Return the sum over each row's completion tokens of log p(token | what precedes it); float32 [B].

    True in the mask marks a completion token; logits at t predict token t + 1, so a first token that is
    masked in has nothing that predicts it and is left out. What stands outside the mask is not read.
    """
    mask = completion_mask_BT[:, 1:].bool()
    rows, columns = mask.nonzero(as_tuple=True)
    logprobs_N = token_logprobs(logits_BTV[rows, columns], input_ids_BT[rows, columns + 1])
    sums_B = logprobs_N.new_zeros(input_ids_BT.shape[0])
    return sums_B.index_add(0, rows, logprobs_N)


def score_completions(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad_id: int = 0,
    max_batch_tokens: int = 2048,
) -> list[float]:
    """Return the sum of log p(completion token) for each (prompt, completion) of token ids, in the order given.

    Sequences are sorted by length and padded on the right into batches of at most ``max_batch_tokens``
    (at least one sequence); logits are made only from the batch's first completion position on.
    """
    import torch

    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    assert all(len(p) > 0 for p in prompts), "a prompt has at least its template's tokens"
    scores = [0.0] * len(lengths)
    done = 0
    for batch in batches_by_length(lengths, max_batch_tokens):
        width = max(lengths[i] for i in batch)
        ids_BT = torch.full((len(batch), width), pad_id)
        attention_BT = torch.zeros((len(batch), width), dtype=torch.long)
        completion_BT = torch.zeros((len(batch), width), dtype=torch.bool)
        for row, i in enumerate(batch):
            ids_BT[row, : lengths[i]] = torch.tensor([*prompts[i], *completions[i]])
            attention_BT[row, : lengths[i]] = 1
            completion_BT[row, len(prompts[i]) : lengths[i]] = True
        first = min(len(prompts[i]) for i in batch) - 1
        ids_BT, attention_BT = ids_BT.to(model.device), attention_BT.to(model.device)
        with torch.inference_mode():
            logits_BTV = model(
                input_ids=ids_BT, attention_mask=attention_BT, use_cache=False, logits_to_keep=width - first
            ).logits
            sums = completion_logprobs(logits_BTV, ids_BT[:, first:], completion_BT[:, first:].to(model.device))
        for i, value in zip(batch, sums.tolist(), strict=True):
            scores[i] = value
        done += len(batch)
        progress(done, len(lengths), "sequences")
    return scores


def batches_by_length(lengths: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices of ``lengths``, longest first, in groups whose padded size stays within ``max_batch_tokens``.

    Longest first, so that a batch that does not fit in memory fails at once.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
