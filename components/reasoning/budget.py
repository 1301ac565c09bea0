"""How a client's token limit is shared between reasoning and answer."""


def reasoning_share(max_tokens: int | None, max_reasoning_tokens: int) -> int:
    """Return how many tokens reasoning may take: its own limit, and at most half of what the client allows."""
    if max_tokens is None:
        return max_reasoning_tokens
    return max(1, min(max_reasoning_tokens, max_tokens // 2))


def what_is_left(max_tokens: int | None, used: int) -> int | None:
    """Return what remains of the client's limit (no limit stays none); an answer gets one token at least."""
    return None if max_tokens is None else max(1, max_tokens - used)
