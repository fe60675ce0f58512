"""From the words of a command line to checked configurations: Hydra's compose API over the dataclasses of `config.py`.

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
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from shunted_lab.commands import AttentionConfig, ConvertConfig, CostConfig, DashboardConfig, EvaluateConfig
from shunted_lab.config import PRESETS, Config, ConfigError, RunConfig, nearest, unknown

C = TypeVar("C")
FOLDERS = ("folder", "imagenet", "inat2018", "inat2019")  # what can be converted to shards
VARIED = ("model", "data", "recipe")  # what a variant may change
OF_RUN = "of_run"  # the choice of a group that is the configuration of the run at hand


@dataclass(frozen=True)
class Experiment:
    """A composed command: the configuration, and for each variant the one that its runs are trained with."""

    config: Config
    variants: dict[str, RunConfig]  # name -> configuration with the seed of the first run
    paper: dict[str, RunConfig]  # the same changes applied to the paper's model; empty without `paper:`
    change: Callable[[dict[str, Any]], RunConfig]  # the base configuration with dotted keys changed


def experiment_files() -> dict[str, Path]:
    """Name -> file. A file in ./experiments wins over the shipped one of the same name."""
    package = Path(__file__).parent
    folders = [package / "experiments", package.parent / "experiments", Path("experiments")]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def compose(words: list[str]) -> Experiment:
    """Compose `key=value` words into an experiment.

    Raises:
        ConfigError: for anything a user can get wrong in the words or in the experiment's file.
    """
    chosen = _choices(words)
    name = chosen.get("experiment")
    if name is None:
        raise ConfigError(f"experiment: none is named; experiment=NAME with one of: {', '.join(experiment_files())}")
    composer = _Composer(_register(name))
    config = composer.config(words)
    _check_variants(config, chosen, composer.path)
    config = _expand(config, composer.path)
    variants = {key: composer.variant(words, key, changes) for key, changes in config.variants.items()}
    paper = {}
    if config.paper is not None:
        scale = [f"experiment={name}", f"model={config.paper.model}"]
        paper = {key: composer.variant(scale, key, changes) for key, changes in config.variants.items()}
    return Experiment(config, variants, paper, lambda changes: composer.variant(words, None, changes))


def compose_cost(words: list[str]) -> CostConfig:
    """Compose `key=value` words into the configuration of the cost command.

    Raises:
        ConfigError: for anything a user can get wrong in the words.
    """
    _store_groups()
    return _compose_as(CostConfig, words)


def compose_attention(words: list[str]) -> AttentionConfig:
    """Compose `key=value` words into the configuration of the attention command; errors as in `compose_cost`."""
    _store_groups()
    return _compose_as(AttentionConfig, words)


def compose_convert(words: list[str]) -> ConvertConfig:
    """Compose `key=value` words into the configuration of the shards command; errors as in `compose_cost`."""
    if (data := _choices(words).get("data", FOLDERS[0])) not in FOLDERS:
        raise ConfigError(f"data: '{data}' is no folder of images; choices: {', '.join(FOLDERS)}")
    _store_groups()
    return _compose_as(ConvertConfig, words)


def compose_dashboard(words: list[str]) -> DashboardConfig:
    """Compose `key=value` words into the configuration of the dashboard; errors as in `compose_cost`."""
    return _compose_as(DashboardConfig, words)


def value_of(key: str, words: list[str]) -> str | None:
    """What a key is given as on the command line; None if it is not."""
    if key not in _choices(words):
        return None
    given = [OverridesParser.create().parse_override(word) for word in words]
    return [str(word.value()) for word in given if word.key_or_group == key][-1]


def compose_evaluate(words: list[str], run: RunConfig | None = None) -> EvaluateConfig:
    """Compose `key=value` words into the configuration of the evaluate command; errors as in `compose_cost`.

    Args:
        run: what the checkpoint was trained as, if it is a run's: it gives the model and the data, and words change
            the data.

    Raises:
        ConfigError: also for words that name another model than the run's.
    """
    _store_groups()
    if run is None:
        return _compose_as(EvaluateConfig, words)
    for group, node in (("model", run.model), ("data", run.data)):
        ConfigStore.instance().store(group=group, name=OF_RUN, node=node)
    chosen = _choices(words)
    config = _compose_as(EvaluateConfig, words, [f"{key}={OF_RUN}" for key in ("model", "data") if key not in chosen])
    names = [f.name for f in dataclasses.fields(run.model) if f.metadata.get("result", True)]
    for name in names:
        given, own = getattr(config.model, name), getattr(run.model, name)
        if given != own:
            raise ConfigError(f"model.{name}: {given} is not the run's, {own}; leave model=... out")
    return config


def _compose_as(schema: type[C], words: list[str], groups: Sequence[str] = ()) -> C:
    """`groups` are further words, which the command has chosen."""
    names = [f.name for f in dataclasses.fields(schema) if f.name != "defaults"]  # type: ignore[arg-type]
    if "model.checkpoint" in _choices(words):
        raise ConfigError("model.checkpoint: is what a training begins with, and nothing is trained here")
    for key in _choices(words):
        if key in PRESETS and key not in names:
            raise ConfigError(f"{key}: no such key; {nearest(key, names)}")
    ConfigStore.instance().store(name="command", node=schema)
    try:
        with hydra.initialize(version_base=None, config_path=None):
            node = hydra.compose("command", overrides=[*groups, *words])
        return OmegaConf.to_object(node)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise _one_line(error) from None


def _choices(words: list[str]) -> dict[str, str]:
    """Key -> value as text; a malformed word is refused. Groups must name a preset."""
    chosen: dict[str, str] = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"'{word}' is not of the form key=value, e.g. seeds=[0,1,2] ({reason})") from None
        if override.is_add() or override.is_delete() or override.is_force_add():
            raise ConfigError(f"'{word}': keys cannot be added or deleted; write key=value")
        if override.is_sweep_override():
            raise ConfigError(f"'{word}': sweeps are not taken here; vary it in the experiment's variants")
        key, value = override.key_or_group, override.get_value_element_as_str()
        if key in PRESETS and value not in PRESETS[key]:
            raise unknown(key, value, PRESETS[key])
        chosen[key] = value
    return chosen


def _register(name: str) -> Path:
    """Put the schema, the presets and the one experiment that is asked for into Hydra's store."""
    files = experiment_files()
    if name not in files:
        raise unknown("experiment", name, files)
    path = files[name]
    try:
        node = OmegaConf.load(path)
    except (YAMLError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{path}: an experiment is a mapping of keys to values")
    _store_groups()
    store = ConfigStore.instance()
    store.store(name="config", node=Config)
    node["name"] = name
    store.store(group="experiment", name=name, node=node, package="_global_")
    return path


def _store_groups() -> None:
    for group, presets in PRESETS.items():
        for preset, instance in presets.items():
            ConfigStore.instance().store(group=group, name=preset, node=instance)


class _Composer:
    """Composes configurations of one experiment's file; words that were composed before are not composed again."""

    def __init__(self, path: Path):
        self.path = path
        self._nodes: dict[tuple[str, ...], DictConfig] = {}

    def config(self, words: list[str], changes: Mapping[str, Any] | None = None) -> Config:
        """The checked configuration of `words`, with dotted keys (`changes`) set on top."""
        try:
            node = copy.deepcopy(self._node(tuple(words)))
            for key, value in (changes or {}).items():
                OmegaConf.update(node, key, value, merge=False)
            return OmegaConf.to_object(node)  # type: ignore[return-value]  # the schema is Config
        except (HydraException, OmegaConfBaseException) as error:
            raise _one_line(error, self.path) from None

    def variant(self, words: list[str], name: str | None, changes: dict[str, Any]) -> RunConfig:
        """The runs' configuration of one variant, or of a search's point (None).

        Groups (`model: shunted_t`) are composed, dotted keys set on top.
        """
        groups = [f"{key}={value}" for key, value in changes.items() if key in PRESETS]
        dotted = {key: value for key, value in changes.items() if key not in PRESETS}
        try:
            _choices(groups)
            config = self.config([*words, *groups], dotted)
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


def _expand(config: Config, path: Path) -> Config:
    """Every variant in every setting of `across`, as a variant of its own: `VARIANT-SETTING`."""
    if not config.across:
        return config
    for name, changes in config.across.items():
        for variant, own in config.variants.items():
            for key in sorted(own.keys() & changes.keys()):
                raise ConfigError(f"{path}: across.{name}: {key} is varied by variant '{variant}' already")
    variants = {
        f"{variant}-{setting}": own | changes
        for setting, changes in config.across.items()
        for variant, own in config.variants.items()
    }
    return dataclasses.replace(config, variants=variants)


def _check_changes(kind: str, name: str, changes: Mapping[str, Any], path: Path) -> None:
    """Refuse a name that is no name of a folder, and a key that cannot vary."""
    if not name or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ConfigError(f"{path}: {kind}: '{name}' is no name for a folder; letters, digits, '_', '-' and '.'")
    for key in changes:
        if key.split(".")[0] not in VARIED:
            raise ConfigError(f"{path}: {kind}.{name}: '{key}' cannot vary; it begins with one of {VARIED}")


def _check_variants(config: Config, chosen: dict[str, str], path: Path) -> None:
    """Refuse an experiment without variants or baseline, and a word that would overrule what is varied."""
    if not config.variants:
        raise ConfigError(f"{path}: variants: is empty; write at least one NAME: {{dotted key: value}}")
    if config.baseline is None:
        raise ConfigError(f"{path}: baseline: is missing; choices: {', '.join(config.variants)}")
    if config.baseline not in config.variants:
        raise unknown("baseline", config.baseline, config.variants)
    rows = [("variants", *row) for row in config.variants.items()] + [("across", *row) for row in config.across.items()]
    for kind, name, changes in rows:
        _check_changes(kind, name, changes, path)
        for key in changes:
            for word in chosen:
                if word == key or word.startswith(key + ".") or (key.startswith(word + ".") and word not in PRESETS):
                    raise ConfigError(f"{word}={chosen[word]}: variant '{name}' of {path} varies {key}; edit it there")
    if config.search is not None:
        for key in config.search.space:
            for word in chosen:
                if word == key or (key == "rates" and word == "model.rates"):
                    raise ConfigError(f"{word}={chosen[word]}: {path} searches {key}; edit it there")
    if config.paper is not None:
        _check_paper(config, path)


def _check_paper(config: Config, path: Path) -> None:
    paper = config.paper
    assert paper is not None
    if paper.model not in PRESETS["model"]:
        raise unknown(f"{path}: paper.model", paper.model, PRESETS["model"])
    for name, row in paper.rows.items():
        if name not in config.variants:
            raise unknown(f"{path}: paper.rows", name, config.variants)
        for key, value in row.items():
            if key not in ("top1", "params", "flops"):
                raise unknown(f"{path}: paper.rows.{name}", key, ("top1", "params", "flops"))
            if not isinstance(value, int | float):
                raise ConfigError(f"{path}: paper.rows.{name}.{key}: '{value}' is not a number")
    if paper.rows and not paper.source:
        raise ConfigError(f"{path}: paper.source: is missing; numbers in paper.rows need a source")
