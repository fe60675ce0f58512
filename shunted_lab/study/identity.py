"""What makes two runs the same: everything that can change their numbers, and nothing else.

A fingerprint covers the configuration as far as it changes a result, the seed, which data and which weights, the
user's own code, and the version of this package's results (`RunConfig.fingerprint`). Names, folders, machines and
workers are not in it. Another configuration is another run. The same configuration with other code makes a finished
run stale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from shunted_lab import RESULTS_VERSION
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.nn.source import module_hash
from shunted_lab.output.files import digest_of, digest_of_values
from shunted_lab.study.folder import WEIGHTS, find_checkpoint

# Among the sources of a run, beside those of its components:
LAYOUT = "batch layout"  # how devices and parts share a batch, where numbers depend on it
RESULTS = "results version"  # of this package's code
PLACES = (WEIGHTS, "data.root")  # keys that no result depends on, but what lies there


def with_weights(config: RunConfig) -> RunConfig:
    """The same run with `model.checkpoint` as the full path of a file; a run's folder means the file that the run was
    tested with.

    Raises:
        ConfigError: if there is no such file, or if it is of a run that was trained on images which this one tests.
    """
    given = config.model.checkpoint
    if given is None:
        return config
    try:
        run, file = find_checkpoint(given)
    except ConfigError as error:
        raise ConfigError(f"{WEIGHTS}: {str(error).removeprefix('checkpoint: ')}") from None
    if run is not None and config.data.splits_otherwise(run.config.data):
        raise ConfigError(
            f"{WEIGHTS}: {given} was trained on data={run.config.data.name}, which splits the same pictures otherwise "
            f"than data={config.data.name}, so its weights have seen test images"
        )
    return replace(config, model=replace(config.model, checkpoint=str(file.absolute())))


def check_frozen(config: RunConfig) -> None:
    """Refuse to freeze the statistics of a network that begins with random weights.

    Raises:
        ConfigError: for `recipe.freeze_bn=true` without weights.
    """
    if config.recipe.freeze_bn and config.model.checkpoint is None:
        raise ConfigError("recipe.freeze_bn: True needs weights to begin with; set model.checkpoint, or null")


def sources_of(config: RunConfig) -> dict[str, str]:
    """What a run's numbers depend on beside its configuration and its data, by name.

    These are the version of this package's results, the files of components, of a data set and of a task that are the
    user's own, the content of the weights that training begins with (see `with_weights`), and the layout of a batch
    that is not trained as a whole.

    Raises:
        ConfigError: for a component that is not known.
    """
    found = {RESULTS: str(RESULTS_VERSION)} | component_sources(config.model)
    for group, name in (("data", config.data.name), ("task", config.task.name)):
        if "." in name:  # a class of the user's own
            found[f"{group}: {name}"] = module_hash(name.rpartition(".")[0])
    found |= {f"task: {path}": module_hash(path.rpartition(".")[0]) for path in config.task.sources}
    if config.model.checkpoint is not None:
        found[WEIGHTS] = digest_of(config.model.checkpoint)[:16]
    if config.launch.parts > 1:
        from shunted_lab.tasks.model import batch_layout  # torch: 2 s

        if layout := batch_layout(config):
            found[LAYOUT] = layout
    return found


def component_sources(model: ModelConfig) -> dict[str, str]:
    """The hashes of the user's files that a model is made of, by slot and name (`tasks.model.model_sources`)."""
    if not model.has_own_components:
        return {}
    from shunted_lab.tasks.model import model_sources  # torch: 2 s

    return model_sources(model)


def configuration_of(config: RunConfig, sources: Mapping[str, str]) -> str:
    """16 hex digits over all that a user has chosen for a run: the configuration as far as it changes a result, which
    data and weights, and the layout of a batch. Runs that share it and differ in their fingerprint differ in code or
    files.
    """
    flat = flatten(dataclasses.asdict(config))
    chosen = {key: value for key, value in flat.items() if affects_result(key) or key in PLACES}
    return digest_of_values([chosen, sources.get(LAYOUT)])[:16]


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What has changed since a stale run was trained, e.g. `the source of attn: ssa has changed`.

    Args:
        old, new: the sources of both runs.
    """
    return ", ".join(_changed(old, new)) or "the data have changed"


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        if name == RESULTS:
            yield f"this version of shunted_lab gives different numbers (results version {before}, now {now})"
        elif name == WEIGHTS:
            yield f"the content of {name} has changed (it was {before})"
        else:
            yield f"the source of {name} has changed"


def affects_result(key: str) -> bool:
    """Whether what a dotted key says can change a result; it is in the fingerprint then."""
    return not key.startswith("launch.") and key not in _keys_without_effect()


@lru_cache
def _keys_without_effect() -> frozenset[str]:
    """The keys of model, data and recipe that change no result, of all presets."""
    presets = [(group, preset) for group in ("model", "data", "task", "recipe") for preset in PRESETS[group].values()]
    fields = [(group, item) for group, preset in presets for item in dataclasses.fields(preset)]
    return frozenset(f"{group}.{item.name}" for group, item in fields if not item.metadata.get("affects_result", True))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
