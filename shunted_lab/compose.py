"""From overrides to checked configurations: Hydra's compose API over the dataclasses of `config.py`.

Nothing heavy is imported, so that a mistake is answered at once. Hydra's and OmegaConf's exceptions become one line.
"""

from __future__ import annotations

import copy
import dataclasses
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from shunted_lab import variants
from shunted_lab.commands import AttentionConfig, ConvertConfig, CostConfig, DashboardConfig, EvaluateConfig
from shunted_lab.config import PRESETS, Config, ConfigError, RunConfig, nearest, unknown
from shunted_lab.experiment_file import experiment_files, find_experiment, read_experiment
from shunted_lab.overrides import choices, keys_of, literal
from shunted_lab.paths import resolve_paths
from shunted_lab.suggestions import no_such_key

C = TypeVar("C")
FOLDERS = ("folder", "imagenet", "inat2018", "inat2019")  # what can be converted to shards
SECTIONS = ("paper", "search", "confirm")  # of an experiment's file; null where it has none
OF_RUN = "of_run"  # the choice of a group that is the configuration of the run at hand


@dataclass(frozen=True)
class Experiment:
    """A composed command: the configuration, and for each variant the one that its runs are trained with."""

    config: Config
    variants: dict[str, RunConfig]  # name -> configuration with the seed of the first run
    paper: dict[str, RunConfig]  # the same changes applied to the paper's model; empty without `paper:`
    change: Callable[[dict[str, Any]], RunConfig]  # the base configuration with dotted keys changed


def compose(words: Sequence[str]) -> Experiment:
    """Compose `key=value` overrides into an experiment. Paths are expanded, and those of data and weights absolute.

    Raises:
        ConfigError: for anything a user can get wrong in the overrides or in the experiment's file.
    """
    words = literal(words, Config)
    chosen = choices(words, Config)
    name = chosen.get("experiment")
    if name is None:
        raise ConfigError(f"experiment: is missing; write experiment=NAME; choices: {', '.join(experiment_files())}")
    path, content = _register(name)
    _check_sections(name, content, chosen)
    composer = _Composer(path)
    config = variants.flatten(composer.config(words), composer.path)
    variants.check(config, chosen, composer.path)
    config = variants.expand(config, composer.path)
    if config.confirm is None:  # its variants are not known yet
        variants.chosen(config)
    _resolve_choices(config)
    runs = {key: composer.variant(words, key, changes) for key, changes in config.variants.items()}
    paper = {}
    if config.paper is not None:
        scale = [*literal([f"experiment={name}"], Config), f"model={config.paper.model}"]
        paper = {key: composer.variant(scale, key, changes) for key, changes in config.variants.items()}
    return Experiment(config, runs, paper, lambda changes: composer.variant(words, None, changes))


def _check_sections(name: str, content: Mapping[str, Any], chosen: Mapping[str, str]) -> None:
    """Refuse an override of a section that the experiment's file does not have: nothing could be merged into it."""
    for key, value in chosen.items():
        section = key.split(".")[0]
        if section in SECTIONS and content.get(section) is None and value.lower() != "null":
            others = [other for other, path in experiment_files().items() if section in _sections_of(path)]
            have = f"; those with one: {', '.join(sorted(others))}" if others else ""
            raise ConfigError(f"{key}: experiment={name} has no section `{section}:` in its file{have}")


def _sections_of(path: Path) -> Mapping[str, Any]:
    try:
        return read_experiment(path)
    except ConfigError:
        return {}


def _resolve_choices(config: Config) -> None:
    """Resolve the paths among the choices of a search, as they are resolved in the configurations of its runs."""
    keys = keys_of(Config)
    for key, choice in config.search.space.items() if config.search is not None else ():
        listed = choice.get("choices") if isinstance(choice, dict) else choice
        if key in keys and isinstance(listed, list):
            listed[:] = [keys[key].resolve(value) if isinstance(value, str) else value for value in listed]


def compose_cost(words: Sequence[str]) -> CostConfig:
    """Compose `key=value` overrides into the configuration of the cost command.

    Raises:
        ConfigError: for anything a user can get wrong in the overrides.
    """
    return _compose_as(CostConfig, literal(words, CostConfig))


def compose_attention(words: Sequence[str]) -> AttentionConfig:
    """Compose `key=value` overrides into the configuration of the attention command; errors as in `compose_cost`."""
    return _compose_as(AttentionConfig, literal(words, AttentionConfig))


def compose_convert(words: Sequence[str]) -> ConvertConfig:
    """Compose `key=value` overrides into the configuration of the shards command; errors as in `compose_cost`."""
    words = literal(words, ConvertConfig)
    if (data := choices(words, ConvertConfig).get("data", FOLDERS[0])) not in FOLDERS:
        raise ConfigError(f"data: '{data}' cannot be converted; choices: {', '.join(FOLDERS)}")
    return _compose_as(ConvertConfig, words)


def compose_dashboard(words: Sequence[str]) -> DashboardConfig:
    """Compose `key=value` overrides into the configuration of the dashboard; errors as in `compose_cost`."""
    return _compose_as(DashboardConfig, literal(words, DashboardConfig))


def compose_evaluate(words: Sequence[str], run: RunConfig | None = None) -> EvaluateConfig:
    """Compose `key=value` overrides into the configuration of the evaluate command; errors as in `compose_cost`.

    Args:
        run: what the checkpoint was trained as, if it is a run's: it gives the model and the data. Overrides change
            the data; other data are seen at the run's image size unless `data.image_size` is given.

    Raises:
        ConfigError: also for overrides that name another model than the run's.
    """
    words = literal(words, EvaluateConfig)
    if run is None:
        return _compose_as(EvaluateConfig, words)
    for group, node in (("model", run.model), ("data", run.data)):
        ConfigStore.instance().store(group=group, name=OF_RUN, node=node)
    chosen = choices(words, EvaluateConfig)
    of_run = [f"{key}={OF_RUN}" for key in ("model", "data") if key not in chosen]
    config = _compose_as(EvaluateConfig, words, [*of_run, f"data.image_size={run.data.image_size}"])
    names = [f.name for f in dataclasses.fields(run.model) if f.metadata.get("result", True)]
    for name in names:
        given, own = getattr(config.model, name), getattr(run.model, name)
        if given != own:
            raise ConfigError(f"model.{name}: {given} differs from the run's, {own}; leave model=... out")
    return config


def value_of(key: str, words: Sequence[str]) -> str | None:
    """What overrides of the evaluate command give for a key, before they are composed; None if they do not."""
    given = choices(literal(words, EvaluateConfig), EvaluateConfig).get(key)
    return None if given is None else keys_of(EvaluateConfig)[key].resolve(given)


def _compose_as(schema: type[C], words: Sequence[str], defaults: Sequence[str] = ()) -> C:
    """`defaults` are overrides that the command has chosen; those of the user win over them."""
    chosen = choices(words, schema)
    if "model.checkpoint" in chosen:
        raise ConfigError("model.checkpoint: initializes a training, and this command trains nothing; leave it out")
    _store_groups()
    ConfigStore.instance().store(name="command", node=schema)
    with _in_one_line(schema):
        with hydra.initialize(version_base=None, config_path=None):
            node = hydra.compose("command", overrides=[*defaults, *words])
        config = OmegaConf.to_object(node)
    resolve_paths(config)
    return config  # type: ignore[return-value]


def _register(name: str) -> tuple[Path, dict[str, Any]]:
    """Put the schema, the presets and the one experiment that is asked for into Hydra's store.

    Returns:
        The experiment's file and its content.
    """
    path = find_experiment(name)
    content = read_experiment(path)
    try:
        node = OmegaConf.create(content | {"name": name})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_one_line(error, Config)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: an alias (*NAME) refers to a node that contains it") from None
    _store_groups()
    store = ConfigStore.instance()
    store.store(name="config", node=Config)
    store.store(group="experiment", name=name, node=node, package="_global_")
    return path, content


def _store_groups() -> None:
    for group, presets in PRESETS.items():
        for preset, instance in presets.items():
            ConfigStore.instance().store(group=group, name=preset, node=instance)


class _Composer:
    """Composes configurations of one experiment's file; overrides that were composed before are not composed again."""

    def __init__(self, path: Path):
        self.path = path
        self._nodes: dict[tuple[str, ...], DictConfig] = {}

    def config(self, words: list[str], changes: Mapping[str, Any] | None = None) -> Config:
        """The checked configuration of `words`, with dotted keys (`changes`) set on top."""
        with _in_one_line(Config, self.path):
            node = copy.deepcopy(self._node(tuple(words)))
            for key, value in (changes or {}).items():
                OmegaConf.update(node, key, value, merge=False)
            config: Config = OmegaConf.to_object(node)  # type: ignore[assignment]  # the schema is Config
        resolve_paths(config)
        return config

    def variant(self, words: list[str], name: str | None, changes: dict[str, Any]) -> RunConfig:
        """The runs' configuration of one variant, or of a search's point (None).

        Groups (`model: shunted_t`) are composed, dotted keys set on top.
        """
        groups = {key: value for key, value in changes.items() if key in PRESETS}
        dotted = {key: value for key, value in changes.items() if key not in PRESETS}
        try:
            for key, value in groups.items():
                if not isinstance(value, str) or value not in PRESETS[key]:
                    raise unknown(key, value, PRESETS[key])
            config = self.config([*words, *(f"{key}={value}" for key, value in groups.items())], dotted)
        except ConfigError as error:
            where = f"variants.{name}" if name is not None else "search"
            raise ConfigError(f"{self.path}: {where}: {str(error).removeprefix(f'{self.path}: ')}") from None
        run = RunConfig(config.model, config.data, config.recipe, config.launch, config.seeds[0])
        return run.smoke() if config.smoke else run

    def _node(self, words: tuple[str, ...]) -> DictConfig:
        if words not in self._nodes:
            with hydra.initialize(version_base=None, config_path=None):
                self._nodes[words] = hydra.compose("config", overrides=list(words))
        return self._nodes[words]


@contextmanager
def _in_one_line(schema: type, path: Path | None = None) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into one line, also where it is not an exception of their own classes.

    An exception from elsewhere, as a check of this package that fails itself, keeps its traceback.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _one_line(error, schema, path) from None
    except ConfigError:
        raise
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("hydra", "omegaconf"):
            raise
        raise ConfigError(f"the overrides cannot be composed: {_first_line(error)}") from None


def _one_line(error: Exception, schema: type, path: Path | None = None) -> ConfigError:
    """What Hydra or OmegaConf found, as one line with the key and its choices."""
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"{error.full_key}: has no value; give it as {error.full_key}=...")
    where = f"{path}: " if "experiment/" in str(error) else ""
    cause = next((e for e in _chain(error) if isinstance(e, OmegaConfBaseException)), None)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        key = cause.full_key or str(cause.key)
        if dataclasses.is_dataclass(cause.object_type):
            return ConfigError(f"{where}{_no_such_key(key, cause.object_type, schema)}")
        if cause.parent_node is not None:
            section, _, name = key.rpartition(".")
            known = f"; {nearest(name, cause.parent_node)}" if len(cause.parent_node) else ""
            return ConfigError(f"{where}{key}: no such entry of {section}; the experiment's file adds entries{known}")
    first = _first_line(error)
    if cause is not None:
        first = f"{cause.full_key}: {_first_line(cause)}"
        if cause.object_type is not None and isinstance(error, HydraException) and "override" in str(error):
            first += f" (in {_first_line(error).removeprefix('Error merging override ')})"
    return ConfigError(where + first)


def _no_such_key(key: str, section: Any, schema: type) -> ConfigError:
    """The error for a key that a section lacks; another preset of its group may have it."""
    names = [f.name for f in dataclasses.fields(section) if f.name != "defaults"]
    group, _, name = key.partition(".")
    having = [n for n, preset in PRESETS.get(group, {}).items() if name in {f.name for f in dataclasses.fields(preset)}]
    if having and group in ("data", "launch"):  # the groups whose presets have keys of their own
        belongs = f"it belongs to {group}={', '.join(having)}"
        return ConfigError(f"{key}: no such key for {group}={section.name}; {belongs}")
    return no_such_key(key, list(keys_of(schema)), names)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
