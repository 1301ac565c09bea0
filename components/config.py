"""Typed, frozen configuration: defaults < YAML < ``key=value``, with errors that name the key and the fix."""

import difflib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "AT_ONCE_VARIABLE",
    "CPU_ENV",
    "AdapterRef",
    "Config",
    "Field",
    "IndexRef",
    "InputPath",
    "Menu",
    "ModelRef",
    "RayConfig",
    "Reference",
    "StrategyOptions",
    "TableRef",
    "Unkeyed",
    "UserError",
    "WorkflowConfig",
    "check",
    "item_of",
    "leaves",
    "load",
    "parse",
    "read_raw",
    "section_of",
    "to_yaml",
]

# glibc gives freed tensors back to the system after every step and faults them in again at the next:
# keeping them nearly doubles training throughput on CPU. Read by the C library before Python starts,
# so it has to be in a process's environment, not set from within.
CPU_ENV = {"MALLOC_TRIM_THRESHOLD_": str(1 << 33), "MALLOC_MMAP_THRESHOLD_": str(1 << 33)}
# How many jobs like this one run beside each other: their workers share out the cluster's cores between them.
AT_ONCE_VARIABLE = "RAYLIGN_JOBS_AT_ONCE"


class UserError(ValueError):
    """Something that the user gave is wrong; the message is one sentence: got, expected, fix."""


class Config(BaseModel):
    """A frozen section of a workflow's YAML; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)


@dataclass(frozen=True)
class Reference:
    """Marks a string field whose target's content, not only its name, decides whether a step is done."""

    kind: Literal["path", "model", "adapter", "table"]
    beside: str | None = None  # ending of a table whose content, too, decides: what is known of this one
    only: tuple[str, ...] = ()  # of a dictionary that holds other things, too: the keys whose text points at something

    def covers(self, key: str, item: object) -> bool:
        """Return whether what stands at a key of the marked dictionary points at something."""
        return not self.only or (key in self.only and isinstance(item, str))


@dataclass(frozen=True)
class Menu:
    """Marks a section whose ``name`` decides which other keys it has: the config classes by that name."""

    entries: Callable[[], Mapping[str, type[Config]]]


@dataclass(frozen=True)
class Unkeyed:
    """Marks a field that says where or how to run, not what comes out: it stays out of the step key."""


InputPath = Annotated[str, Reference("path")]
ModelRef = Annotated[str, Reference("model")]
AdapterRef = Annotated[str, Reference("adapter")]
TableRef = Annotated[str, Reference("table")]
StrategyOptions = Annotated[dict[str, Any], Reference("path", only=("examples", "table"))]  # two of them name files
IndexRef = Annotated[str, Reference("table", beside="_facts")]  # where what is known of an index decides, too


class RayConfig(Config):
    """Which Ray cluster a workflow run by itself uses; inside a Ray job it is always the job's own."""

    address: str | None = Field(None, description="address of a running cluster; none starts a local one")
    num_cpus: int | None = Field(None, ge=1, description="CPUs of a local cluster; none takes what size says")
    size: str | None = Field(None, description="file with a local cluster's size, such as clusters/laptop.yaml")
    wait_for: dict[str, float] = Field(
        {}, description="what the cluster must have before work starts, as {GPU: 8}; an autoscaled one is asked for it"
    )
    wait_s: float = Field(
        900.0,
        gt=0,
        description="seconds that a running cluster may take to have it; pools on demand are asked after half of it",
    )


class WorkflowConfig(Config):
    """What every workflow's configuration has."""

    keyed: ClassVar[bool] = True  # whether a finished run of the same configuration stands for another one
    replaces: ClassVar[tuple[str, ...]] = ()  # the fields that name what a run replaces outside its own folder, if any

    storage: Annotated[str, Unkeyed()] = Field(
        "artifacts",
        description="folder, or address in an object store (s3://…, gs://…), of the tables, models, runs and caches",
    )
    experiment: Annotated[str, Unkeyed()] = Field("raylign", description="MLflow experiment of the run")
    seed: int = Field(0, ge=0, description="seed of everything random in the workflow")
    ray: Annotated[RayConfig, Unkeyed()] = Field(RayConfig(), description="which Ray cluster to use")

    def in_effect(self, outputs: Mapping[str, Any]) -> bool:
        """Return whether what a finished run did outside its own folder is still so: another may have undone it.

        Args:
            outputs: that run's.
        """
        return True


ConfigT = TypeVar("ConfigT", bound=Config)


def load(schema: type[ConfigT], yaml_path: str | None, overrides: list[str]) -> ConfigT:
    """Return ``schema`` filled from its defaults, the YAML file and the ``key=value`` overrides, in that order.

    Raises:
        UserError: the file is missing or no YAML mapping, an override has no ``=``, an interpolation
            fails, a key is unknown, or a value has the wrong type or bound.
    """
    return parse(schema, read_raw(yaml_path, overrides))


def read_raw(yaml_path: str | None, overrides: list[str]) -> Any:
    """Return the merged YAML and overrides as plain containers, interpolations resolved."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for override in overrides:
        if "=" not in override:
            raise UserError(f"'{override}' is not an override: write key=value, or give one .yaml file first")
    try:
        file = OmegaConf.create({}) if yaml_path is None else OmegaConf.load(_existing_file(yaml_path))
        if not isinstance(file, DictConfig):
            raise UserError(f"{yaml_path} must hold a mapping of keys to values")
        return OmegaConf.to_container(OmegaConf.merge(file, OmegaConf.from_dotlist(overrides)), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{yaml_path or 'overrides'}: {_one_line(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {yaml_path}: {_one_line(error)}") from error
    except Exception as error:  # the YAML parser's own errors have no common base that we may import
        if isinstance(error, UserError) or "yaml" not in type(error).__module__:
            raise
        raise UserError(f"{yaml_path} is not valid YAML: {_one_line(error)}") from error


def parse(schema: type[ConfigT], values: Any, where: str = "") -> ConfigT:
    """Return ``values`` as ``schema``; ``where`` is the dotted path that error messages start with.

    Raises:
        UserError: naming every wrong key, and for an unknown one the nearest valid key.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [_explain(schema, problem, where) for problem in error.errors()]
        raise UserError("; ".join(problems)) from error


def check(schema: type[Config], values: Any, where: str, pending: Callable[[Any], bool]) -> None:
    """Refuse what is wrong already, while some values (those that ``pending`` accepts) are not known yet.

    Raises:
        UserError: as ``parse`` does.
    """
    try:
        schema.model_validate(values)
    except ValidationError as error:
        problems = [_explain(schema, found, where) for found in error.errors() if not pending(found["input"])]
        if problems:
            raise UserError("; ".join(problems)) from error


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key → value of what nested mappings hold; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value
        found |= leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML; loading it again gives the same configuration."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def _existing_file(path: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"the configuration file {path} does not exist")
    return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(schema: type[Config], problem: Any, where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    dotted = where + ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{dotted}'{_suggestion(schema, path)}"
    if problem["type"] == "missing":
        return f"the key '{dotted}' is required: give it in the YAML or as {dotted}=…"
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # a validator's own sentence names the key already
        return str(cause)
    message = problem["msg"].removeprefix("Value error, ")
    return f"'{dotted}' got {problem['input']!r}: {message[:1].lower()}{message[1:]}"


def _suggestion(schema: type[Config], path: list[str]) -> str:
    section: type[Config] | None = schema
    for part in path[:-1]:
        field = section.model_fields.get(part) if section else None
        if field is not None:  # else it is a place in a list, or somebody's name for an item
            section = section_of(field.annotation) or item_of(field.annotation)
    if section is None:
        return ""
    names = list(section.model_fields)
    near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    return f": did you mean '{near[0]}'?" if near else f": valid keys are {', '.join(names)}"


def section_of(annotation: Any) -> type[Config] | None:
    """Return the config class inside an annotation (also inside ``X | None``), if there is just one."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        sections = [found for part in typing.get_args(annotation) if (found := section_of(_bare(part)))]
        return sections[0] if len(sections) == 1 else None
    return None


def item_of(annotation: Any) -> type[Config] | None:
    """Return the config class of what a list or a mapping holds, if it holds any."""
    if typing.get_origin(annotation) not in (list, tuple, dict):
        return None
    return next((found for part in typing.get_args(annotation) if (found := section_of(_bare(part)))), None)


def _bare(annotation: Any) -> Any:
    """Return the type inside ``Annotated``."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
