"""Runs that begin where another experiment ended: `begin_with: {experiment: ablate_embed}`.

Each run begins with the weights of the finished run of the same variant and the same seed there. Which runs these are
is read from the other study: those of its last plan. What it lacks is planned from its experiment file, and trained
first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from shunted_lab.config.compose import Experiment, compose
from shunted_lab.config.experiment import BeginWithConfig, Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError, unknown
from shunted_lab.config.variants import chosen
from shunted_lab.output.quantities import counted, value_text
from shunted_lab.study.folder import Run, find_checkpoint, read_result
from shunted_lab.study.identity import flatten
from shunted_lab.study.manifest import Manifest, read_home, read_manifest

Place = tuple[str, int]  # variant, seed
RATES = (
    "drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
)  # of a model, which change no weight's shape


@dataclass(frozen=True)
class Chain:
    """What the runs of an experiment begin with.

    Args:
        files: variant and seed -> the checkpoint of the other run.
        missing: variant and seed of runs whose other run is not finished, of the variants that `only` chooses.
        source: the other experiment, with the seeds that are needed; None where nothing is missing.
        overrides: those that compose it.
        about: what the weights are, for people.
    """

    files: Mapping[Place, Path] = field(default_factory=dict)
    missing: tuple[Place, ...] = ()
    source: Experiment | None = None
    overrides: list[str] = field(default_factory=list)
    about: str = ""


def find_chain(experiment: Experiment) -> Chain:
    """What the runs of an experiment begin with; an empty chain without `begin_with`.

    Raises:
        ConfigError: for another experiment without these variants, with other models, or that cannot be planned.
    """
    config = experiment.config
    begin = config.begin_with
    if begin is None:
        return Chain()
    manifest = _manifest(source_folder(config, begin))
    finished = dict(_finished(manifest)) if manifest is not None else {}
    files: dict[Place, Path] = {}
    missing: list[Place] = []
    results: list[float] = []
    only = chosen(config)
    for name in experiment.variants:
        theirs = _their_name(name, config, begin)
        for seed in config.all_seeds:
            run = finished.get((theirs, seed))
            if run is None:
                missing += [(name, seed)] if name in only else []
                continue
            _check_split(name, experiment.variants[name], run.config, begin)
            _check_model(name, experiment.variants[name], run, begin)
            files[name, seed] = _checkpoint(run, config, begin)
            result = read_result(run)
            assert result is not None
            results.append(result["metrics"][result["headline"]])
    about = _about(begin, manifest, results) if manifest is not None and results else ""
    if not missing:
        return Chain(files, about=about)
    overrides = _overrides(config, begin, manifest)
    names = [_their_name(name, config, begin) for name, _ in missing]
    source = _source(config, begin, manifest, names, overrides)
    for name, _ in missing:
        _check_split(name, experiment.variants[name], source.variants[_their_name(name, config, begin)], begin)
    return Chain(files, tuple(missing), source, overrides, about)


def source_folder(config: Config, begin: BeginWithConfig) -> Path:
    """The folder of the other study; that of its smoke test, for a smoke test."""
    return Path(begin.runs_dir or config.runs_dir) / (begin.experiment + ("-smoke" if config.smoke else ""))


def with_checkpoint(run: RunConfig, file: Path) -> RunConfig:
    """The configuration of a run that begins with a checkpoint."""
    return replace(run, model=replace(run.model, checkpoint=str(file.absolute())))


def _manifest(folder: Path) -> Manifest | None:
    home = read_home(folder)
    return None if home is None or home.plan is None else read_manifest(folder)


def _finished(manifest: Manifest) -> Iterator[tuple[Place, Run]]:
    for run in manifest.runs:
        if read_result(run) is not None:
            yield (run.variant, run.seed), run


def _their_name(name: str, config: Config, begin: BeginWithConfig) -> str:
    """The variant of the other experiment: by `begin_with.variants`, or of this name without a setting of `across`."""
    if name in begin.variants:
        return begin.variants[name]
    settings = [setting for setting in config.across if name.endswith(f"-{setting}")]
    plain = name.removesuffix(f"-{max(settings, key=len)}") if settings else name
    return begin.variants.get(plain, plain)


def _check_split(name: str, ours: RunConfig, theirs: RunConfig, begin: BeginWithConfig) -> None:
    """Refuse weights that were trained on pictures which this run is tested on."""
    if ours.data.splits_otherwise(theirs.data):
        raise ConfigError(
            f"begin_with: variants.{name}: data={ours.data.name} splits the same pictures otherwise than "
            f"data={theirs.data.name} of experiment={begin.experiment}, so its weights have seen test images; "
            f"give both the same data"
        )


def _check_model(name: str, ours: RunConfig, theirs: Run, begin: BeginWithConfig) -> None:
    """Refuse a run whose network is another one."""
    mine, other = (
        flatten({k: v for k, v in model.options().items() if k not in RATES})
        for model in (ours.model, theirs.config.model)
    )
    differing = [key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)]
    if differing:
        key = min(differing)
        raise ConfigError(
            f"begin_with: variants.{name}: model.{key} is {mine.get(key)}, and {other.get(key)} in the run of "
            f"experiment={begin.experiment} ({theirs.folder}); give both the same model"
        )


def _checkpoint(run: Run, config: Config, begin: BeginWithConfig) -> Path:
    try:
        return find_checkpoint(str(run.folder), "begin_with")[1]
    except ConfigError as error:
        smoke = " smoke=true" if config.smoke else ""
        again = f"python -m shunted_lab.run experiment={begin.experiment}{smoke} launch.keep=weights rerun=all"
        raise ConfigError(f"{error}; {again} trains it again") from None


def _overrides(config: Config, begin: BeginWithConfig, manifest: Manifest | None) -> list[str]:
    """The overrides of the other experiment: with the seeds that it had, and those that are needed."""
    seeds = dict.fromkeys([*(manifest.config.all_seeds if manifest is not None else []), *config.all_seeds])
    overrides = [f"experiment={begin.experiment}", f"seeds=[{','.join(map(str, seeds))}]"]
    overrides += ["smoke=true"] if config.smoke else []
    overrides.append(f"runs_dir={begin.runs_dir or config.runs_dir}")
    return overrides + ([f"study.storage={config.study.storage}"] if config.study.storage else [])


def _source(
    config: Config, begin: BeginWithConfig, manifest: Manifest | None, names: list[str], overrides: list[str]
) -> Experiment:
    """The other experiment with the seeds that are needed, as its file says; where it was planned before, as then.

    Raises:
        ConfigError: for a variant that it does not have, and where it was planned with other overrides.
    """
    found = compose(overrides)
    for name in names:
        if name not in found.variants:
            raise unknown(f"begin_with: experiment={begin.experiment} has no variant", name, found.variants)
    for name, run in found.variants.items():
        before = None if manifest is None else manifest.variants.get(name)
        if before is not None and (key := _first_difference(before, run)) is not None:
            raise ConfigError(
                f"begin_with: experiment={begin.experiment} was trained with another {key} than its file says, and "
                f"lacks runs that are needed; train them with the overrides that it was trained with and {overrides[1]}"
            )
    launch = replace(config.launch, keep="weights" if config.launch.keep == "none" else config.launch.keep)
    variants = {name: replace(run, launch=launch) for name, run in found.variants.items()}
    wanted = replace(found.config, launch=launch, plan_only=config.plan_only, only=list(dict.fromkeys(names)))
    return replace(found, config=wanted, variants=variants)


def _first_difference(before: RunConfig, now: RunConfig) -> str | None:
    """The first key of model or recipe that differs."""
    for group in ("model", "recipe"):
        old, new = (flatten(vars(getattr(run, group))) for run in (before, now))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key) and key not in ("name", "checkpoint"):
                return f"{group}.{key}"
    return None


def _about(begin: BeginWithConfig, manifest: Manifest, results: list[float]) -> str:
    """`the runs of ablate_embed of the same variant and seed (data=earth, 4 epochs; Top-1 76.1 to 78.2 %)`."""
    run = next(iter(manifest.variants.values()))
    metric = manifest.goal.leading
    low, high = (value_text(value, metric.unit) for value in (min(results), max(results)))
    reached = f"{metric.label} {low}" if low == high else f"{metric.label} {low} to {high}"
    epochs = counted(run.recipe.epochs, "epoch")
    return f"the run of {begin.experiment} of the same variant and seed (data={run.data.name}, {epochs}; {reached})"
