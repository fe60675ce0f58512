"""The file of an experiment: where it is found, and how its YAML is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from shunted_lab.config.groups import PRESETS
from shunted_lab.config.schema import ConfigError, unknown

SUFFIXES = (".yaml", ".yml")
NAMES = (("baseline",), ("confirm", "search"))  # where a value is the name of a variant or of an experiment
TEXT, MERGE, NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "null"))


def experiment_files() -> dict[str, Path]:
    """Name -> file. A file in ./experiments wins over the shipped one of the same name."""
    package = Path(__file__).parents[1]
    folders = [package / "experiments", package.parent / "experiments", Path("experiments")]
    files = [path for folder in folders for suffix in SUFFIXES for path in sorted(folder.glob(f"*{suffix}"))]
    return {path.stem: path for path in files}


def find_experiment(name: str) -> Path:
    """The file of an experiment.

    Raises:
        ConfigError: if there is none, or two in one folder.
    """
    files = experiment_files()
    if name not in files:
        raise unknown("experiment", name, files)
    twins = [path for path in (files[name].with_suffix(suffix) for suffix in SUFFIXES) if path.exists()]
    if len(twins) > 1:
        raise ConfigError(
            f"experiment: {' and '.join(map(str, twins))} are both '{name}'; remove or rename one of them"
        )
    return twins[0]


@dataclass(frozen=True)
class ExperimentFile:
    """What the file of an experiment says: `groups` are the presets that it names, `content` is the rest."""

    path: Path
    groups: dict[str, str]
    content: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem


def read_experiment(path: Path) -> ExperimentFile:
    """Read an experiment's file.

    Names are text as they are written: `on`, `1.0` and `null` as keys, or as the value of `baseline`, are variants
    called so. A variant without a value (`conv_stem:`) changes nothing. A group is a preset's name (`model: tiny`) or a
    mapping; dotted keys (`model.drop_rate: 0.2`) go beside either.

    Raises:
        ConfigError: if the file cannot be read as YAML, names an unknown preset, or has variants that are not mappings.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, ExperimentLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: an experiment is a mapping of keys to values")
    for kind in ("variants", "across"):
        if kind in content:
            content[kind] = _changes(kind, content[kind], path)
    groups = {name: content.pop(name) for name in PRESETS if name in content and not isinstance(content[name], dict)}
    for name, preset in groups.items():
        if not isinstance(preset, str) or preset not in PRESETS[name]:
            raise unknown(f"{path}: {name}", preset, PRESETS[name])
    return ExperimentFile(path, groups, _nested(content, path))


def _nested(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content with `{model: {drop_rate: 0.2}}` for dotted keys of the file, `model.drop_rate: 0.2`."""
    found = {key: value for key, value in content.items() if "." not in key}
    for key in (key for key in content if "." in key):
        section, _, name = key.partition(".")
        known = found.get(section) or {}
        if not isinstance(known, dict):
            raise ConfigError(f"{path}: {key}: {section} is '{known}', not a mapping")
        own = _nested({name: content[key]}, path)
        if both := own.keys() & known.keys():
            raise ConfigError(f"{path}: {section}.{min(both)} is given twice")
        found[section] = known | own
    return found


def _changes(kind: str, found: Any, path: Path) -> dict[str, dict[str, Any]]:
    form = f"{kind}: {{NAME: {{dotted key: value}}}}"
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"{path}: {kind}: '{found}' is not a mapping; write {form}")
    for name, changes in (found or {}).items():
        if changes is not None and not isinstance(changes, dict):
            raise ConfigError(f"{path}: {kind}.{name}: '{changes}' is not a mapping of changes; write {form}")
    return {name: changes or {} for name, changes in (found or {}).items()}


class ExperimentLoader(yaml.SafeLoader):
    """YAML 1.1, but `1e-3` is a number and a date is text; the keys of mappings, and the values at `NAMES`, are text as
    it is written."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        for place in NAMES:
            _make_text(root, place)
        return root

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        node.value = [(_as_text(key), value) for key, value in node.value]
        seen: set[str] = set()
        for key in (key for key, _ in node.value if key.tag == TEXT):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"found duplicate key {key.value}", key.start_mark)
            seen.add(key.value)
        return node


FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
ExperimentLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def _as_text(key: yaml.Node) -> yaml.Node:
    if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
        return key
    return yaml.ScalarNode(TEXT, key.value, key.start_mark, key.end_mark, key.style)


def _make_text(node: yaml.Node | None, place: tuple[str, ...]) -> None:
    """Make the scalar at a place of the document text, unless it is empty or `~`."""
    if not isinstance(node, yaml.MappingNode):
        return
    for i, (key, value) in enumerate(node.value):
        if key.value != place[0]:
            continue
        if len(place) > 1:
            _make_text(value, place[1:])
        elif isinstance(value, yaml.ScalarNode) and (value.tag != NULL or value.value not in ("", "~")):
            node.value[i] = (key, yaml.ScalarNode(TEXT, value.value, value.start_mark, value.end_mark, value.style))
