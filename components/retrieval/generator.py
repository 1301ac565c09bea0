"""A language model behind an OpenAI-compatible endpoint, for the query transforms that ask one."""

import os
from collections.abc import Callable

from components.config import Config, Field, UserError

Generate = Callable[[str], str]  # from an instruction to what a language model answers


class LanguageModel(Config):
    """Which endpoint is asked, for example our own."""

    url: str = Field(description="address up to /v1, as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="name of the model there")
    key: str | None = Field(None, description="environment variable with the API key; none where no key is asked for")
    max_tokens: int = Field(200, ge=1, description="longest answer, in tokens")
    timeout_s: float = Field(60, gt=0, description="longest wait for an answer, in seconds")


def generator(config: LanguageModel) -> Generate:
    """Return a function from an instruction to the model's likeliest answer.

    Raises:
        UserError: the environment variable for the key is not set; when it is called, the endpoint does not answer.
    """
    from openai import OpenAI, OpenAIError

    key = os.environ.get(config.key) if config.key else "none"
    if not key:
        raise UserError(f"language_model.key names the environment variable {config.key}, which is not set")
    client = OpenAI(base_url=config.url, api_key=key, timeout=config.timeout_s)

    def generate(instruction: str) -> str:
        try:
            answer = client.chat.completions.create(
                model=config.model,
                messages=[{"role": "user", "content": instruction}],
                temperature=0.0,
                max_tokens=config.max_tokens,
            )
        except OpenAIError as error:
            raise UserError(f"the language model at {config.url} does not answer: {error}") from error
        return answer.choices[0].message.content or ""

    return generate
