"""What an experiment varies: the changes of its variants and settings, and what is refused in them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shunted_lab.config.experiment import Config
from shunted_lab.config.groups import PRESETS
from shunted_lab.config.schema import ConfigError, unknown

VARIED = ("model", "data", "task", "recipe")  # what a variant may change
MOST_FACTORS = 5  # 32 variants
# What else stands in the folder of a study, beside a folder for each variant.
RESERVED = ("report", "incomplete", "jobs", "plans", "trials", "workers")


def flatten(config: Config, path: Path) -> Config:
    """The configuration with dotted keys for what is nested: `{model: {drop_rate: 0.2}}` is `{model.drop_rate: 0.2}`.

    Only the group is taken apart: the value of `model.attn` may be a mapping itself.

    Raises:
        ConfigError: for a key that is given in both forms.
    """
    variants = {name: _dotted(f"{path}: variants.{name}", own) for name, own in config.variants.items()}
    across = {name: _dotted(f"{path}: across.{name}", own) for name, own in config.across.items()}
    return dataclasses.replace(config, variants=variants, across=across)


def _dotted(where: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in _leaves(changes):
        if key in found:
            raise ConfigError(f"{where}: {key} is given twice, as a dotted key and nested")
        found[key] = value
    return found


def _leaves(changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        if key in VARIED and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def expand(config: Config, path: Path) -> Config:
    """Every variant in every setting of `across`, as a variant of its own, `VARIANT-SETTING`; all combinations of the
    factors of `factorial`, as `FACTOR-FACTOR`.
    """
    if config.factorial:
        named = {"-".join(of): of for of in combinations(config)}
        merged = {
            name: {key: value for factor in of for key, value in config.variants[factor].items()}
            for name, of in named.items()
            if of
        }
        return dataclasses.replace(config, variants=config.variants | merged)
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


def combinations(config: Config) -> list[tuple[str, ...]]:
    """All combinations of the factors of `factorial`, smallest first; the empty one is the baseline."""
    factors = config.factorial
    return [of for count in range(len(factors) + 1) for of in itertools.combinations(factors, count)]


def cells(config: Config) -> dict[frozenset[str], str]:
    """The factors that a variant has -> its name, of `factorial`."""
    assert config.baseline is not None
    return {frozenset(of): "-".join(of) or config.baseline for of in combinations(config)}


def chosen(config: Config) -> list[str]:
    """The variants that `only` chooses, all without it. With `across`, a variant's name chooses it in every setting.

    Raises:
        ConfigError: for a name that no variant has.
    """
    if config.only is None:
        return list(config.variants)
    wanted = [str(name) for name in (config.only if isinstance(config.only, list) else [config.only])]
    for name in wanted:
        if not any(_is_named(variant, name, config) for variant in config.variants):
            raise unknown("only", name, config.variants)
    return [variant for variant in config.variants if any(_is_named(variant, name, config) for name in wanted)]


def _is_named(variant: str, name: str, config: Config) -> bool:
    return variant == name or variant in {f"{name}-{setting}" for setting in config.across}


def check(config: Config, chosen: Mapping[str, str], path: Path) -> None:
    """Refuse an experiment without variants or baseline, and an override of what is varied.

    Args:
        chosen: the overrides of the command line, key -> value.

    Raises:
        ConfigError: with the file and the key.
    """
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
            for given in chosen:
                if (
                    given == key
                    or given.startswith(key + ".")
                    or (key.startswith(given + ".") and given not in PRESETS)
                ):
                    raise ConfigError(
                        f"{given}={chosen[given]}: variant '{name}' of {path} varies {key}; edit it there"
                    )
    if config.search is not None:
        for key in config.search.space:
            for given in chosen:
                if given == key or (key == "rates" and given == "model.rates"):
                    raise ConfigError(f"{given}={chosen[given]}: {path} searches {key}; edit it there")
    if config.paper is not None:
        _check_paper(config, path)
    if config.race is not None:
        _check_race(config, path)
    if config.leave_one_out is not None:
        parts = config.leave_one_out
        _check_design(
            "leave_one_out", [*parts.without, *([parts.none] if parts.none is not None else [])], config, path
        )
    if config.factorial:
        _check_factorial(config, path)
    if config.calibrate:
        _check_calibrate(config, path)


def _check_race(config: Config, path: Path) -> None:
    """Refuse seeds until decided where nothing can be decided."""
    for name in ("search", "begin_with", "factorial", "leave_one_out"):
        if getattr(config, name):
            raise ConfigError(f"{path}: seeds.until: is not supported with {name}")
    if len(config.variants) < 2 and config.confirm is None:
        raise ConfigError(
            f"{path}: seeds.until: '{config.baseline}' is the only variant; a race needs one beside the baseline"
        )


def _check_design(key: str, names: Sequence[str], config: Config, path: Path) -> None:
    """Refuse parts or factors that are not variants, and what they cannot be combined with."""
    for name in ("search", "confirm", "across"):
        if getattr(config, name):
            raise ConfigError(f"{path}: {key}: is not supported with {name}")
    for name in names:
        if name not in config.variants:
            raise unknown(f"{path}: {key}", name, config.variants)
        if name == config.baseline:
            raise ConfigError(f"{path}: {key}: '{name}' is the baseline; name the other variants")
        if names.count(name) > 1:
            raise ConfigError(f"{path}: {key}: '{name}' is named twice")


def _check_calibrate(config: Config, path: Path) -> None:
    """Refuse an A/A study of variants that are not the same."""
    for name in ("search", "confirm", "across"):
        if getattr(config, name):
            raise ConfigError(f"{path}: calibrate: is not supported with {name}")
    for name, changes in config.variants.items():
        for key in changes:
            if key != "recipe.pair":
                raise ConfigError(f"{path}: calibrate: '{name}' changes {key}; variants may differ in recipe.pair only")


def _check_factorial(config: Config, path: Path) -> None:
    factors, baseline = config.factorial, str(config.baseline)
    _check_design("factorial", factors, config, path)
    if not 2 <= len(factors) <= MOST_FACTORS:
        raise ConfigError(f"{path}: factorial: {factors} are {len(factors)} factors; 2 to {MOST_FACTORS} are supported")
    if config.variants[baseline]:
        key = next(iter(config.variants[baseline]))
        raise ConfigError(
            f"{path}: factorial: the baseline '{baseline}' changes {key}; it is the combination without any factor, "
            "so set what it changes for all variants"
        )
    seen: dict[str, str] = {}
    for name in factors:
        for key in config.variants[name]:
            if key in seen:
                raise ConfigError(f"{path}: factorial: '{seen[key]}' and '{name}' both change {key}")
            seen[key] = name
    for name in ("-".join(of) for of in combinations(config) if len(of) > 1):
        if name in config.variants:
            raise ConfigError(f"{path}: factorial: '{name}' is the name of a combination; rename the variant")


def _check_changes(kind: str, name: str, changes: Mapping[str, Any], path: Path) -> None:
    """Refuse a name that cannot be a folder's, and a key that cannot vary."""
    if not name or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ConfigError(f"{path}: {kind}: '{name}' is not a name for a folder; use letters, digits, '_', '-' and '.'")
    if kind == "variants" and name in RESERVED:
        raise ConfigError(f"{path}: variants: '{name}' is reserved, as are {', '.join(RESERVED)}; rename the variant")
    for key in changes:
        if key.split(".")[0] not in VARIED:
            raise ConfigError(f"{path}: {kind}.{name}: '{key}' cannot vary; keys begin with one of {VARIED}")


def _check_paper(config: Config, path: Path) -> None:
    paper = config.paper
    assert paper is not None
    if paper.model not in PRESETS["model"]:
        raise unknown(f"{path}: paper.model", paper.model, PRESETS["model"])
    known = (config.task.goal(config.data).lead, "params", "flops")
    for name, row in paper.rows.items():
        if name not in config.variants:
            raise unknown(f"{path}: paper.rows", name, config.variants)
        for key, value in row.items():
            if key not in known:
                raise unknown(f"{path}: paper.rows.{name}", key, known)
            if not isinstance(value, int | float):
                raise ConfigError(f"{path}: paper.rows.{name}.{key}: '{value}' is not a number")
    if paper.rows and not paper.source:
        raise ConfigError(f"{path}: paper.source: is missing; numbers in paper.rows need a source")
