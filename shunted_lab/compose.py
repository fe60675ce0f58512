"""From overrides to checked configurations: Hydra's compose API over the dataclasses of `config.py`.

Nothing heavy is imported, so that a mistake is answered at once. Hydra's and OmegaConf's exceptions become one line.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
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

C = TypeVar("C")
FOLDERS = ("folder", "imagenet", "inat2018", "inat2019")  # what can be converted to shards
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
        raise ConfigError(f"experiment: none is named; experiment=NAME with one of: {', '.join(experiment_files())}")
    composer = _Composer(_register(name))
    config = variants.flatten(composer.config(words), composer.path)
    variants.check(config, chosen, composer.path)
    config = variants.expand(config, composer.path)
    _resolve_choices(config)
    runs = {key: composer.variant(words, key, changes) for key, changes in config.variants.items()}
    paper = {}
    if config.paper is not None:
        scale = [*literal([f"experiment={name}"], Config), f"model={config.paper.model}"]
        paper = {key: composer.variant(scale, key, changes) for key, changes in config.variants.items()}
    return Experiment(config, runs, paper, lambda changes: composer.variant(words, None, changes))


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
        raise ConfigError(f"data: '{data}' is not a folder of images; choices: {', '.join(FOLDERS)}")
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
            raise ConfigError(f"model.{name}: {given} is not the run's, {own}; leave model=... out")
    return config


def value_of(key: str, words: Sequence[str]) -> str | None:
    """What overrides of the evaluate command give for a key, before they are composed; None if they do not."""
    given = choices(literal(words, EvaluateConfig), EvaluateConfig).get(key)
    return None if given is None else keys_of(EvaluateConfig)[key].resolve(given)


def _compose_as(schema: type[C], words: Sequence[str], defaults: Sequence[str] = ()) -> C:
    """`defaults` are overrides that the command has chosen; those of the user win over them."""
    names = [f.name for f in dataclasses.fields(schema) if f.name != "defaults"]  # type: ignore[arg-type]
    chosen = choices(words, schema)
    if "model.checkpoint" in chosen:
        raise ConfigError("model.checkpoint: initializes a training, and this command trains nothing; leave it out")
    for key in chosen:
        if key in PRESETS and key not in names:
            raise ConfigError(f"{key}: no such key; {nearest(key, names)}")
    _store_groups()
    ConfigStore.instance().store(name="command", node=schema)
    try:
        with hydra.initialize(version_base=None, config_path=None):
            node = hydra.compose("command", overrides=[*defaults, *words])
        config = OmegaConf.to_object(node)
    except (HydraException, OmegaConfBaseException) as error:
        raise _one_line(error) from None
    resolve_paths(config)
    return config  # type: ignore[return-value]


def _register(name: str) -> Path:
    """Put the schema, the presets and the one experiment that is asked for into Hydra's store."""
    path = find_experiment(name)
    try:
        node = OmegaConf.create(read_experiment(path) | {"name": name})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: an alias (*NAME) stands inside of what it refers to") from None
    _store_groups()
    store = ConfigStore.instance()
    store.store(name="config", node=Config)
    store.store(group="experiment", name=name, node=node, package="_global_")
    return path


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
        try:
            node = copy.deepcopy(self._node(tuple(words)))
            for key, value in (changes or {}).items():
                OmegaConf.update(node, key, value, merge=False)
            config: Config = OmegaConf.to_object(node)  # type: ignore[assignment]  # the schema is Config
        except (HydraException, OmegaConfBaseException) as error:
            raise _one_line(error, self.path) from None
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


def _one_line(error: Exception, path: Path | None = None) -> ConfigError:
    """What Hydra or OmegaConf found, as one line with the key and its choices."""
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"{error.full_key}: has no value; give it as {error.full_key}=...")
    where = f"{path}: " if "experiment/" in str(error) else ""
    cause = next((e for e in _chain(error) if isinstance(e, OmegaConfBaseException)), None)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and dataclasses.is_dataclass(cause.object_type):
        names = [f.name for f in dataclasses.fields(cause.object_type) if f.name != "defaults"]
        key = cause.full_key or str(cause.key)
        return ConfigError(f"{where}{key}: no such key; {nearest(key.rpartition('.')[2], names)}")
    first = str(error).splitlines()[0]
    if cause is not None:
        first = f"{cause.full_key}: {str(cause).splitlines()[0]}"
        if cause.object_type is not None and isinstance(error, HydraException) and "override" in str(error):
            first += f" (in {str(error).splitlines()[0].removeprefix('Error merging override ')})"
    return ConfigError(where + first)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
