"""YAML to `TrainConfig`: every fault in one go, each with its line and the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from atlas_path.config.schema import TrainConfig
from atlas_path.errors import ConfigError

REMEDY = "correct these and run again; configs/ has commented examples"
PATH_KEYS = ("cohort", "out", "data.stores", "model.init_from")


def load_train_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a run's YAML file.

    Args:
        path: the YAML file; relative paths inside it are taken from its folder.
        overrides: `a.b=value` strings (`--set`), parsed as YAML values; they win over the file. Relative
            paths in them are taken from the working directory.

    Raises:
        ConfigError: with one line for every fault: `file:line: key: fault; did you mean ...?`.
    """
    path = Path(path)
    values, lines, faults = _read(path)
    set_keys = _apply_overrides(values, overrides, faults)
    config: TrainConfig | None = None
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        faults += [_fault(path, lines, item, set_keys) for item in error.errors()]
    if faults or config is None:
        raise ConfigError(path, "\n".join(sorted(faults, key=_line_of)), REMEDY)
    config._source, config._lines = path, lines
    _resolve_paths(config, path.parent, set_keys)
    return config


def dump_yaml(config: BaseModel) -> str:
    """The resolved settings as YAML, every default written out."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """Values, the line of every dotted key, and faults of the YAML itself."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            path, f"{path}: cannot be read ({error.__class__.__name__})", "give a YAML file"
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(path, f"{path}{line}: {what}", "correct the YAML") from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(path, f"{path}: not a list of 'key: value' lines", REMEDY)
    lines: dict[str, int] = {}
    faults: list[str] = []
    _walk(node, "", lines, faults, path)
    return values, lines, faults


def _walk(node: yaml.Node, prefix: str, lines: dict[str, int], faults: list[str], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = f"{prefix}{key_node.value}"
            line = key_node.start_mark.line + 1
            if key in lines:
                faults.append(f"{path}:{line}: {key}: given twice (first in line {lines[key]})")
            lines[key] = line
            _walk(value_node, f"{key}.", lines, faults, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            lines[f"{prefix}{i}"] = item.start_mark.line + 1
            _walk(item, f"{prefix}{i}.", lines, faults, path)


def _apply_overrides(values: dict[str, Any], overrides: Sequence[str], faults: list[str]) -> set[str]:
    keys = set()
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            faults.append(f"--set {item}: not of the form a.b=value")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            faults.append(f"--set {item}: the value is not YAML")
            continue
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
        keys.add(key)
    return keys


def _fault(path: Path, lines: dict[str, int], item: Any, set_keys: set[str]) -> str:
    """One line for one pydantic error."""
    loc = [str(part) for part in item["loc"]]
    key = ".".join(loc)
    known = next((k for n in range(len(loc), 0, -1) if (k := ".".join(loc[:n])) in lines), None)
    if any(key == k or key.startswith(f"{k}.") for k in set_keys):
        where = "--set"
    else:
        where = f"{path}:{lines[known]}" if known else str(path)
    if item["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key{_nearest(loc)}"
    if item["type"] == "missing":
        return f"{where}: {key}: required but not given"
    message = str(item["msg"]).removeprefix("Value error, ")
    value = item.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""
    return f"{where}: {key}: {message[0].lower()}{message[1:]}{shown}"


def _line_of(fault: str) -> int:
    found = re.search(r":(\d+): ", fault)
    return int(found[1]) if found else 1 << 30


def _nearest(loc: list[str]) -> str:
    """`; did you mean 'x'?`, looking in the same section first and then in all sections."""
    model: type[BaseModel] | None = TrainConfig
    for part in loc[:-1]:
        model = _section(model, part) if model else None
    here = difflib.get_close_matches(loc[-1], list(model.model_fields) if model else [], 1, 0.6)
    if here:
        return f"; did you mean '{here[0]}'?"
    everywhere = {key.rsplit(".", 1)[-1]: key for key in reversed(_all_keys(TrainConfig))}  # first wins
    close = difflib.get_close_matches(loc[-1], list(everywhere), 1, 0.75)
    return f"; did you mean '{everywhere[close[0]]}'?" if close else ""


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name in model.model_fields:
        keys.append(f"{prefix}{name}")
        section = _section(model, name)
        if section:
            keys += _all_keys(section, f"{prefix}{name}.")
    return keys


def _resolve_paths(config: TrainConfig, folder: Path, set_keys: set[str]) -> None:
    for key in PATH_KEYS:
        *parents, last = key.split(".")
        place: Any = config
        for parent in parents:
            place = getattr(place, parent)
        value = getattr(place, last)
        if value is not None:
            base = Path.cwd() if key in set_keys else folder
            setattr(place, last, (base / value.expanduser()).resolve())
