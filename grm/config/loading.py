"""Configurations read from a preset or a YAML file, with overrides."""

import difflib
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..errors import ConfigError, shown
from ..files import open_regular
from .model import ModelConfig
from .schema import Config

# Of a configuration, characters (or bytes), and keys and values once aliases are followed; the presets have below 3,000
# and 200.
_LONGEST = 100_000
_MOST_NODES = 100_000


def presets() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _preset_folder().iterdir() if entry.name.endswith(".yaml")
    )


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: name of a preset (see `presets`), or path of a YAML file (ending in .yaml or .yml).
        overrides: "key.sub=value" each, as in "model.division.threshold=0.4"; the value is YAML. Later ones win.

    Raises:
        ConfigError: no such preset or file, not YAML, an unknown key, a value that does not fit.

    """
    if str(source).endswith((".yaml", ".yml")):
        path = Path(source)
    elif str(source) in presets():
        path = _preset_folder() / f"{source}.yaml"
    else:
        hint = _did_you_mean(str(source), presets())
        raise ConfigError(f"{source}: no such preset{hint}; there are {_listed(presets())} (or name a .yaml file)")
    try:
        with open_regular(path, ConfigError) as file:
            values = _parse_yaml(file.read(_LONGEST + 1).decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{source}: cannot be read as YAML: {_reason(error)}") from None
    return parse_config(values, overrides, name=str(source))


def parse_config(values: Any, overrides: Sequence[str] = (), *, name: str = "configuration") -> Config:
    """Checks a configuration given as nested dictionaries; arguments and errors as in `load_config`.

    Args:
        values: what the YAML says; None for an empty file, which is all defaults.
        overrides: as in `load_config`. `values` is left as it is.
        name: what messages call the configuration.

    """
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{name}: expected keys and values, got {type(values).__name__}")
    values = values or {}
    for override in overrides:
        values = _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{name}: {_explain(fault)}" for fault in error.errors())) from None


def overridden_model(config: ModelConfig, overrides: Sequence[str], *, name: str = "configuration") -> ModelConfig:
    """A changed copy of a model's configuration, checked; arguments and errors as of `parse_config`."""
    return parse_config({"model": config.model_dump(mode="json")}, overrides, name=name).model


def _preset_folder() -> Any:
    return files(__package__) / "presets"


class _Loader(yaml.SafeLoader):
    """YAML as its version 1.2 reads numbers: 010 is no octal and 1:30 no sexagesimal one. A key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a dictionary; raises a ConstructorError at a key that was there before."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


def _parse_yaml(text: str) -> Any:
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"it is longer than {_LONGEST} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if _size(node, {}) > _MOST_NODES:
            raise yaml.YAMLError(f"with its aliases it has more than {_MOST_NODES} keys and values")
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node | None, known: dict[int, float]) -> float:
    """How many nodes there would be without aliases, with which few lines stand for any number; a circle has no end."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inside = [one for pair in inside for one in pair]
        known[id(node)] = 1 + sum(_size(one, known) for one in inside)
    return known[id(node)]


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    mark = getattr(error, "problem_mark", None)
    return shown(f"{reason}, line {mark.line + 1}, column {mark.column + 1}" if mark else reason)


def _override(values: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"override {shown(repr(override))}: expected key.sub=value")
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {shown(repr(override))}: the value is not YAML: {_reason(error)}") from None
    values = dict(values)
    section = values
    for name in names[:-1]:
        inner = section.get(name) or {}
        if not isinstance(inner, dict):
            raise ConfigError(f"override {shown(repr(override))}: {name} has no keys, it is {shown(repr(inner))}")
        section[name] = dict(inner)
        section = section[name]
    section[names[-1]] = value
    return values


def _explain(fault: ErrorDetails) -> str:
    location = ".".join(map(str, fault["loc"]))
    if fault["type"] != "extra_forbidden":
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "value_error":
            keys = getattr(fault["ctx"]["error"], "keys", ())
            whole = [".".join(filter(None, (location, key))) for key in keys] or [location]
            return f"{', '.join(whole)}: {message}"
        got = "" if fault["type"] == "missing" else f", got {shown(repr(fault['input']))}"
        return f"{location}: {message[0].lower()}{message[1:]}{got}"
    section: Any = Config
    for name in fault["loc"][:-1]:
        in_dictionary = get_origin(section) is dict
        section = get_args(section)[1] if in_dictionary else section.model_fields[name].annotation
    valid = list(section.model_fields)
    hint = _did_you_mean(str(fault["loc"][-1]), valid)
    return f"{location}: unknown key{hint}; valid here: {_listed(valid)}"


def _did_you_mean(name: str, valid: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"
