"""From overrides to checked configurations: OmegaConf over the dataclasses of this package.

A configuration is made in layers, of which the later wins: the presets of its groups, the experiment's file, the
overrides of the command line, the changes of a variant. Nothing heavy is imported, so that a mistake is answered at
once. What OmegaConf refuses becomes one line.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from shunted_lab.config import variants
from shunted_lab.config.experiment import Config
from shunted_lab.config.experiment_file import ExperimentFile, experiment_files, find_experiment, read_experiment
from shunted_lab.config.groups import PRESETS, task_for
from shunted_lab.config.overrides import groups_of, keys_of, parse
from shunted_lab.config.paths import resolve_paths
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError, nearest, unknown
from shunted_lab.config.suggestions import no_such_key
from shunted_lab.config.task import Goal

C = TypeVar("C")
# Of an experiment's file; null where it has none.
SECTIONS = ("paper", "search", "confirm", "begin_with", "leave_one_out")


@dataclass(frozen=True)
class Experiment:
    """A composed command: the configuration, and for each variant the one that its runs are trained with."""

    config: Config
    variants: dict[str, RunConfig]  # name -> configuration with the seed of the first run
    paper: dict[str, RunConfig]  # the same changes applied to the paper's model; empty without `paper:`
    change: Callable[[dict[str, Any]], RunConfig]  # the base configuration with dotted keys changed

    @property
    def goal(self) -> Goal:
        """What all variants are measured by."""
        run = next(iter(self.variants.values()))
        return run.task.goal(run.data)


def compose(overrides: Sequence[str]) -> Experiment:
    """Compose `key=value` overrides into an experiment. Paths are expanded, and those of data and weights absolute.

    Raises:
        ConfigError: for anything a user can get wrong in the overrides or in the experiment's file.
    """
    name = value_of("experiment", overrides, Config)
    file = read_experiment(find_experiment(name)) if name is not None else None
    given = parse(overrides, Config, file.groups if file else {})
    if file is None:
        raise ConfigError(f"experiment: is missing; write experiment=NAME; choices: {', '.join(experiment_files())}")
    del given["experiment"]
    _check_sections(file, given)
    base = _Base(file, given)
    config = variants.flatten(base.config(), file.path)
    variants.check(config, given, file.path)
    config = variants.expand(config, file.path)
    if config.confirm is None:  # its variants are not known yet
        variants.chosen(config)
    _resolve_choices(config)
    runs = {key: base.variant(key, changes) for key, changes in config.variants.items()}
    _check_goals(file, runs)
    if config.race is not None:
        run = next(iter(runs.values()))
        leading = run.task.goal(run.data).leading
        config.race.margin_in(leading.unit, leading.label)
    paper = {}
    if config.paper is not None:
        head = {} if config.paper.head is None else {"task.head": config.paper.head}
        of_data = {key: value for key, value in given.items() if key.split(".")[0] == "data"}  # it has no say in costs
        published = _Base(file, {**of_data, "model": config.paper.model, **head})
        paper = {key: published.variant(key, changes) for key, changes in config.variants.items()}
    return Experiment(config, runs, paper, lambda changes: base.variant(None, changes))


def change_run(config: Config, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run with dotted keys changed, e.g. a search's point; without the experiment's file.

    Raises:
        ConfigError: for a value that its key does not take.
    """
    parts = {}
    for name in ("model", "data", "task", "recipe", "launch"):
        own = {key.partition(".")[2]: value for key, value in changes.items() if key.startswith(f"{name}.")}
        part = getattr(config, name)
        if own:
            with _in_one_line(type(part)):
                part = _made(_update(OmegaConf.structured(part), own))
        parts[name] = part
    run = RunConfig(**parts, seed=config.all_seeds[0])
    return run.smoke() if config.smoke else run


def compose_as(schema: type[C], overrides: Sequence[str], defaults: Mapping[str, Any] | None = None) -> C:
    """Compose `key=value` overrides into the configuration of a command that reads no experiment.

    Args:
        schema: the command's dataclass.
        defaults: dotted keys that the command sets before the overrides; of a group, a configuration.

    Raises:
        ConfigError: for anything a user can get wrong in the overrides.
    """
    before = dict(defaults or {})
    chosen = {name: before[name].name for name in groups_of(schema) if name in before}
    given = parse(overrides, schema, chosen)
    if "model.checkpoint" in given:
        raise ConfigError("model.checkpoint: initializes a training, and this command trains nothing; leave it out")
    with _in_one_line(schema):
        node = _update(_groups(schema, before | given), _dotted(schema, before))
        return _made(_update(node, _dotted(schema, given)))


def value_of(key: str, overrides: Sequence[str], schema: type) -> str | None:
    """What overrides of a command give for a key that takes text, before they are composed; None if they do not.

    The other overrides are not read: which keys there are may depend on this one, as on the run of a checkpoint.
    """
    given = parse([text for text in overrides if text.startswith(f"{key}=")], schema).get(key)
    return None if given is None else keys_of(schema)[key].resolve(given)


def _check_sections(file: ExperimentFile, given: Mapping[str, Any]) -> None:
    """Refuse an override of a section that the experiment's file does not have: nothing could be merged into it."""
    for key, value in given.items():
        section = key.split(".")[0]
        if section in SECTIONS and file.content.get(section) is None and value is not None:
            others = [other for other, path in experiment_files().items() if section in _sections_of(path)]
            have = f"; those with one: {', '.join(sorted(others))}" if others else ""
            raise ConfigError(f"{key}: experiment={file.name} has no section `{section}:` in its file{have}")


def _check_goals(file: ExperimentFile, runs: Mapping[str, RunConfig]) -> None:
    """Refuse variants that are not measured by one metric: they cannot be rows of one table."""
    metrics = {name: run.task.goal(run.data).leading for name, run in runs.items()}
    first, *others = metrics
    for name in others:
        if metrics[name] != metrics[first]:
            raise ConfigError(
                f"{file.path}: variants.{name}: is measured by {metrics[name].key}, and '{first}' by "
                f"{metrics[first].key}; the variants of an experiment share the leading metric of their task"
            )


def _sections_of(path: Any) -> Mapping[str, Any]:
    try:
        return read_experiment(path).content
    except ConfigError:
        return {}


def _resolve_choices(config: Config) -> None:
    """Resolve the paths among the choices of a search, as they are resolved in the configurations of its runs."""
    keys = keys_of(Config, {"data": config.data.name, "task": config.task.name})
    for key, choice in config.search.space.items() if config.search is not None else ():
        listed = choice.get("choices") if isinstance(choice, dict) else choice
        if key in keys and isinstance(listed, list):
            listed[:] = [keys[key].resolve(value) if isinstance(value, str) else value for value in listed]


@dataclass
class _Base:
    """The configurations of an experiment: its file, the overrides of the command line, and changes on top."""

    file: ExperimentFile
    given: dict[str, Any]
    _nodes: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)  # by the presets of the groups

    def config(self, changes: Mapping[str, Any] | None = None) -> Config:
        """The checked configuration, with `changes` (presets of groups and dotted keys) on top."""
        changes = changes or {}
        chosen = {name: preset for name, preset in changes.items() if name in PRESETS}
        with _in_one_line(Config):
            node = _update(copy.deepcopy(self._node(chosen)), _dotted(Config, changes))
            config: Config = _made(node)
        return config

    def variant(self, name: str | None, changes: dict[str, Any]) -> RunConfig:
        """The configuration of the runs of one variant, or of a search's point (None)."""
        try:
            for key in changes.keys() & PRESETS.keys():
                if not isinstance(changes[key], str) or changes[key] not in PRESETS[key]:
                    raise unknown(key, changes[key], PRESETS[key])
            config = self.config(changes)
        except ConfigError as error:
            where = f"variants.{name}" if name is not None else "search"
            raise ConfigError(f"{self.file.path}: {where}: {error}") from None
        run = RunConfig(config.model, config.data, config.task, config.recipe, config.launch, config.all_seeds[0])
        return run.smoke() if config.smoke else run

    def _node(self, chosen: Mapping[str, str]) -> DictConfig:
        """Without the changes of a variant, but for its presets (`chosen`)."""
        key = tuple(f"{name}={preset}" for name, preset in sorted(chosen.items()))
        if key not in self._nodes:
            node = _groups(Config, self.file.groups | self.given | dict(chosen))
            content = self.file.content | {"name": self.file.name}
            try:
                if "seeds" in content:  # a mapping would not be merged into the list of the default
                    OmegaConf.update(node, "seeds", content.pop("seeds"), merge=False)
                merged = OmegaConf.merge(node, OmegaConf.create(content))
            except OmegaConfBaseException as error:
                raise ConfigError(f"{self.file.path}: {_one_line(error, Config)}") from None
            except RecursionError:
                message = "an alias (*NAME) refers to a node that contains it"
                raise ConfigError(f"{self.file.path}: {message}") from None
            assert isinstance(merged, DictConfig)
            self._nodes[key] = _update(merged, _dotted(Config, self.given))
        return self._nodes[key]


def _groups(schema: type, chosen: Mapping[str, Any]) -> DictConfig:
    """The schema's defaults, with a preset for each group: the chosen one, or the command's own."""
    node = OmegaConf.structured(schema)
    data: Any = None
    for name, default in groups_of(schema).items():
        choice = chosen.get(name, default)
        if choice is None:  # `data` is before `task`
            choice = task_for(data)
        preset = PRESETS[name][choice] if isinstance(choice, str) else choice
        data = preset if name == "data" else data
        node[name] = OmegaConf.structured(preset)
    return node


def _dotted(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values without those that choose a preset."""
    return {key: value for key, value in values.items() if key not in groups_of(schema)}


def _update(node: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Set dotted keys. They must exist: the experiment's file alone adds entries to a mapping."""
    OmegaConf.set_struct(node, True)
    for key, value in values.items():
        found = OmegaConf.select(node, key)
        is_section = OmegaConf.is_dict(found) and OmegaConf.get_type(found) is not dict
        OmegaConf.update(node, key, value, merge=is_section and isinstance(value, dict))
    return node


def _made(node: DictConfig) -> Any:
    """The dataclass of a node, which its own checks have passed, with paths resolved."""
    config = OmegaConf.to_object(node)
    resolve_paths(config)
    return config


@contextmanager
def _in_one_line(schema: type) -> Iterator[None]:
    """Turn what OmegaConf raises into one line. Any other exception keeps its traceback."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise _one_line(error, schema) from None


def _one_line(error: OmegaConfBaseException, schema: type) -> ConfigError:
    """What OmegaConf found, as one line with the key and its choices."""
    key = error.full_key or str(error.key)
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"{key}: has no value; give it as {key}=...")
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        if dataclasses.is_dataclass(error.object_type):
            chosen = error.parent_node.get("name") if error.parent_node is not None else None
            return _no_such_key(key, error.object_type, schema, chosen)
        if error.parent_node is not None:
            section, _, name = key.rpartition(".")
            known = f"; {nearest(name, error.parent_node)}" if len(error.parent_node) else ""
            return ConfigError(f"{key}: no such entry of {section}; the experiment's file adds entries{known}")
    return ConfigError(f"{key}: {(str(error).splitlines() or [type(error).__name__])[0]}")


def _no_such_key(key: str, section: Any, schema: type, chosen: str | None) -> ConfigError:
    """The error for a key that a section lacks; another preset of its group may have it.

    Args:
        chosen: the preset of the group.
    """
    names = [f.name for f in dataclasses.fields(section) if f.metadata]
    group, _, name = key.partition(".")
    having = [n for n, preset in PRESETS.get(group, {}).items() if name in {f.name for f in dataclasses.fields(preset)}]
    if having and group in ("data", "launch"):  # the groups whose presets have keys of their own
        return ConfigError(f"{key}: no such key for {group}={chosen}; it belongs to {group}={', '.join(having)}")
    return no_such_key(key, list(keys_of(schema)), names)
