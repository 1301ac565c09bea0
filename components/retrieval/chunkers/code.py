"""Pieces of source code that keep to its syntax: whole classes, functions and statements where they fit."""

import importlib
from typing import Any, Literal

from components.config import Field
from components.data.readers import suffix_of
from components.retrieval.chunkers import ChunkerConfig, Embed, Place, Places
from components.retrieval.chunkers._spans import chunk_with
from components.retrieval.chunkers.tokens import Tokens, tokens

Language = Literal["python", "javascript", "typescript", "tsx", "java", "go", "rust", "c", "cpp"]
_GRAMMARS = {  # language → (module, function that returns the grammar)
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "java": ("tree_sitter_java", "language"),
    "go": ("tree_sitter_go", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
}
_SUFFIXES = {
    **dict.fromkeys((".py", ".pyi"), "python"),
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx"), "javascript"),
    **dict.fromkeys((".ts", ".mts", ".cts"), "typescript"),
    **dict.fromkeys((".tsx",), "tsx"),
    **dict.fromkeys((".java",), "java"),
    **dict.fromkeys((".go",), "go"),
    **dict.fromkeys((".rs",), "rust"),
    **dict.fromkeys((".c", ".h"), "c"),
    **dict.fromkeys((".cpp", ".cc", ".cxx", ".hpp", ".hh"), "cpp"),
}


class Code(ChunkerConfig):
    """Pieces of source code."""

    name: Literal["code"]
    language: Language | None = Field(
        None, description="language of all documents; none tells it by a document's name, and cuts other text by tokens"
    )


def code(tokenizer: Any, config: Code, embed: Embed | None = None) -> Places:
    """Return the function that cuts a document by its language's syntax tree, of which broken code has one, too."""
    from semantic_text_splitter import CodeSplitter

    plain = tokens(tokenizer, Tokens(max_tokens=config.max_tokens, overlap=config.overlap))
    splitters: dict[str, Any] = {}

    def places(text: str, name: str) -> list[Place]:
        language = config.language or _SUFFIXES.get(suffix_of(name))
        if language is None:
            return list(plain(text, name))
        if language not in splitters:
            splitters[language] = CodeSplitter.from_huggingface_tokenizer(
                _grammar(language), tokenizer, config.max_tokens, overlap=config.overlap
            )
        return chunk_with(splitters[language], text)

    return places


def _grammar(language: str) -> Any:
    module, function = _GRAMMARS[language]
    return getattr(importlib.import_module(module), function)()
