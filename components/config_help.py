"""What ``--help`` says of a configuration: every key with its type, default and meaning."""

import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from components.config import Config, Menu, item_of, section_of


def describe(schema: type[Config], prefix: str = "", default: Config | None = None) -> list[tuple[str, str, str, str]]:
    """Return (dotted key, type, default, description) for each field, sections unfolded.

    Args:
        default: the section where nobody gives it.
    """
    rows = []
    for name, field in schema.model_fields.items():
        dotted, section, item = prefix + name, section_of(field.annotation), item_of(field.annotation)
        required = field.is_required() and default is None
        value = getattr(default, name) if default else field.get_default(call_default_factory=True)
        if section is None or required:
            shown = "required" if required else _show(value)
            rows.append((dotted, _type_name(field.annotation), shown, field.description or ""))
        if section is not None:
            rows.extend(describe(section, f"{dotted}.", value if isinstance(value, Config) else None))
        elif item is not None:
            rows.extend(describe(item, f"{dotted}{_any_of(field.annotation)}."))
        if menu := _menu(field.annotation, field.metadata):
            rows.extend(_entries(menu, section or item, dotted if section else dotted + _any_of(field.annotation)))
    return rows


def _entries(menu: Menu, common: type[Config] | None, prefix: str) -> list[tuple[str, str, str, str]]:
    """Describe what each entry of a menu has beside the keys that all have."""
    rows = []
    for name, schema in menu.entries().items():
        for key, kind, default, description in describe(schema, f"{prefix}."):
            if common is None or key.removeprefix(f"{prefix}.").partition(".")[0] not in common.model_fields:
                rows.append((key, kind, default, f"with {prefix}.name={name}: {description}"))
    return rows


def _any_of(annotation: Any) -> str:
    """Return what stands in a dotted key for an item's place in a list, or its name in a mapping."""
    return ".<name>" if typing.get_origin(annotation) is dict else "[]"


def _menu(annotation: Any, marks: Iterable[Any]) -> Menu | None:
    """Return the menu marker of a field, or of what its list holds."""
    found = next((mark for mark in marks if isinstance(mark, Menu)), None)
    if found is None and typing.get_origin(annotation) in (list, tuple, typing.Union, types.UnionType):
        inner = (getattr(part, "__metadata__", ()) for part in typing.get_args(annotation))
        found = next((mark for own in inner for mark in own if isinstance(mark, Menu)), None)
    return found


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    if typing.get_origin(annotation) is Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(_type_name(part) for part in typing.get_args(annotation))
    if annotation is Ellipsis:
        return "…"
    if parts := typing.get_args(annotation):
        origin = typing.get_origin(annotation)
        return f"{getattr(origin, '__name__', origin)}[{', '.join(_type_name(part) for part in parts)}]"
    return "None" if annotation is types.NoneType else getattr(annotation, "__name__", str(annotation))


def _show(value: Any) -> str:
    if isinstance(value, Config):
        return "{…}"
    return "none" if value is None else repr(value)
