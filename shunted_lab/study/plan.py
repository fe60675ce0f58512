"""What an experiment is made of: runs (variant x seed), each with a fingerprint and a folder, and their costs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shunted_lab.config.compose import Experiment
from shunted_lab.config.experiment import Config
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import DataFacts, check_data
from shunted_lab.nn import Cost
from shunted_lab.output.quantities import counted
from shunted_lab.study.chain import Chain, with_checkpoint
from shunted_lab.study.costs.measure import measured_as
from shunted_lab.study.costs.memo import remember
from shunted_lab.study.folder import WEIGHTS, Folders, Run
from shunted_lab.study.identity import check_frozen, configuration_of, sources_of, with_weights
from shunted_lab.study.manifest import Manifest, SearchSpec, cost_values
from shunted_lab.study.rule import Rule
from shunted_lab.tasks.schedule import highest_rate, peak_rate

if TYPE_CHECKING:
    from shunted_lab.tasks.checkpoint import InitialWeights

NEARLY = 0.9  # of the peak: a schedule that stays below it is warned about
READING = ("image_size", "batch_size", "crop_pct", "interpolation", "resize", "max_corrupt")  # no check needs these


def study_folder(config: Config) -> Path:
    """`runs_dir/NAME`; smoke runs have a study of their own, so that they never meet real ones."""
    return Path(config.runs_dir) / (config.name + ("-smoke" if config.smoke else ""))


def data_facts(experiment: Experiment) -> dict[str, DataFacts]:
    """What is known of each variant's data set; each data set is checked once.

    Raises:
        ConfigError: for a data set that is missing or not whole.
    """
    checked: dict[str, DataFacts] = {}
    facts = {}
    for name, run in experiment.variants.items():
        key = repr((type(run.data), {key: value for key, value in asdict(run.data).items() if key not in READING}))
        if key not in checked:
            checked[key] = check_data(run.data)
        facts[name] = checked[key]
    return facts


def plan_runs(
    experiment: Experiment,
    facts: Mapping[str, DataFacts],
    costs: Mapping[str, Cost] | None = None,
    chain: Chain | None = None,
) -> list[Run]:
    """Every variant with every seed, seed by seed, so that a stopped study has complete pairs.

    A run whose other run of a chain is missing is planned without weights: it is not known yet which one it will be.

    Raises:
        ConfigError: for weights that cannot be found, and for frozen statistics without weights.
    """
    config, folders = experiment.config, Folders(study_folder(experiment.config))
    variants = {name: with_weights(run) for name, run in experiment.variants.items()}
    sources = {name: sources_of(run) for name, run in variants.items()}
    counted = {name: cost_values(asdict(cost)) for name, cost in (costs or {}).items()}
    files = chain.files if chain is not None else {}
    runs = []
    for seed in config.all_seeds:
        for name, variant in variants.items():
            run, of = replace(variant, seed=seed), sources[name]
            if (name, seed) in files:
                run = with_checkpoint(run, files[name, seed])
                of = sources_of(run)
            elif config.begin_with is not None:
                of = of | {WEIGHTS: "not trained yet"}
            else:
                check_frozen(run)
            made = make_run(folders, name, run, facts[name], of, name)
            runs.append(replace(made, costs=counted.get(name, {})))
    return runs


def make_manifest(
    experiment: Experiment,
    facts: dict[str, DataFacts],
    costs: dict[str, Cost],
    runs: list[Run],
    begins_with: str = "",
    rule: Rule | None = None,
) -> Manifest:
    """The plan of an experiment that is not a search, without its costs at the paper's scale, which take seconds."""
    return Manifest(
        study_folder(experiment.config),
        experiment.config,
        experiment.variants,
        experiment.goal,
        facts,
        costs,
        measured_as={name: measured_as(run) for name, run in experiment.variants.items()},
        runs=runs,
        begins_with=begins_with,
        rule=rule,
    )


def search_manifest(experiment: Experiment, facts: dict[str, DataFacts], spec: SearchSpec) -> Manifest:
    """The plan of a search."""
    config = experiment.config
    return Manifest(study_folder(config), config, experiment.variants, experiment.goal, facts, costs={}, search=spec)


def make_run(
    folders: Folders, label: str, config: RunConfig, facts: DataFacts, sources: dict[str, str], group: str
) -> Run:
    """A run of a study with its fingerprint.

    Args:
        folders: of the study.
        label: the variant, or the name of a search's point.
        group: the folder in the study's that gets the run's own.
    """
    fingerprint = config.fingerprint(facts.identity, sources)
    where = folders.place(fingerprint, group, config.seed)
    return Run(label, config.seed, config, fingerprint, where, sources, configuration_of(config, sources))


def count_costs(experiment: Experiment, facts: dict[str, DataFacts]) -> dict[str, Cost]:
    """The cost of every variant at the experiment's image size, on the `meta` device.

    Building every variant here shows an impossible one before anything is trained.

    Raises:
        ConfigError: for a variant that cannot be built.
    """
    return {
        name: model_cost(f"variants.{name}", run, run.task.input_size(run.data), len(facts[name].class_names))
        for name, run in experiment.variants.items()
    }


def initial_weights(experiment: Experiment, facts: dict[str, DataFacts]) -> dict[str, str]:
    """Variant -> which weights it begins with, and what becomes of their head, for those that begin with some.

    Raises:
        ConfigError: for weights that cannot be read, or are another model's.
    """
    found = {}
    for name, run in experiment.variants.items():
        initial = check_weights(f"variants.{name}", run, facts[name])
        if initial is not None:
            found[name] = f"{WEIGHTS}: {run.model.checkpoint}, {initial}"
    return found


def count_paper_costs(experiment: Experiment) -> dict[str, Cost]:
    """The cost of every variant at the paper's scale; empty for an experiment without `paper:`."""
    paper = experiment.config.paper
    if paper is None:
        return {}
    return {
        name: model_cost(f"variants.{name} at paper scale", run, paper.size, paper.classes)
        for name, run in experiment.paper.items()
    }


def model_cost(where: str, run: RunConfig, size: tuple[int, int], classes: int) -> Cost:
    """What a run's network costs for one image, counted on `meta`, where every component's output is checked.

    Args:
        where: names the run in an error, e.g. `variants.overlapping`.
        size: height and width of the image.
        classes: of the data.

    Raises:
        ConfigError: for a model that cannot be built, and for a component that breaks its contract. An exception of a
            user's component keeps its traceback, with `where` as a note.
    """

    def count() -> dict[str, int]:
        from shunted_lab.nn import ComponentError, count_cost  # torch: 2 s

        try:
            return asdict(count_cost(lambda: run.task.build(run.model, classes), size, call=run.task.call))
        except (ConfigError, ComponentError) as error:
            raise ConfigError(f"{where}: {error}") from None
        except Exception as error:
            error.add_note(f"while planning {where}")
            raise

    own = run.model.has_own_components or "." in run.task.name or run.task.sources
    if own:  # the user's code may depend on anything
        return Cost(**count())
    return Cost(**remember("cost", [run.model.options(), asdict(run.task), size, classes], count))


def check_weights(where: str, run: RunConfig, facts: DataFacts) -> InitialWeights | None:
    """What the weights are that a run begins with; None if it begins with none.

    Raises:
        ConfigError: for weights that cannot be read, or are another model's.
    """
    if run.model.checkpoint is None:
        return None
    from shunted_lab.tasks.checkpoint import load_initial

    try:
        net = run.task.build(run.model, len(facts.class_names))
        return load_initial(net, str(with_weights(run).model.checkpoint), facts.class_names)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_device(experiment: Experiment, here: bool) -> None:
    """Refuse what the device cannot do on which the runs are trained.

    Args:
        here: whether that is one of this machine; otherwise only that it is a CPU may be known.

    Raises:
        ConfigError: for arithmetic that it does not have, and for BatchNorm over several CPUs.
    """
    from shunted_lab.tasks import device

    for name, run in experiment.variants.items():
        launch, recipe = run.launch, run.recipe
        found = device.find_device(launch.accelerator, "launch.accelerator") if here else None
        if found is not None:
            device.check_precision(recipe.precision, found)
        is_cpu = "cpu" in (found, launch.accelerator) or getattr(launch, "gpus", 1) == 0
        if is_cpu and launch.ranks > 1 and recipe.sync_bn:
            _refuse_batch_norm(name, run)


def _refuse_batch_norm(name: str, run: RunConfig) -> None:
    from shunted_lab.tasks.model import has_batch_norm  # imports torch

    if has_batch_norm(run):
        raise ConfigError(
            f"recipe.sync_bn: BatchNorm over {run.launch.ranks} devices (variant {name}) needs GPUs; "
            "recipe.sync_bn=false"
        )


def low_rates(experiment: Experiment) -> list[str]:
    """A line for each schedule whose warm-up hides so much of the cosine that the peak is not nearly reached."""
    found: dict[str, list[str]] = {}
    for name, run in experiment.variants.items():
        recipe, peak = run.recipe, peak_rate(run.recipe, run.data.batch_size)
        if (highest := highest_rate(recipe, peak)) < NEARLY * peak:
            line = (
                f"recipe.warmup_epochs: {recipe.warmup_epochs:g} of {counted(recipe.epochs, 'epoch')}; the learning "
                f"rate reaches {highest:.2g}, {100 * highest / peak:.0f} % of {peak:.2g}"
            )
            found.setdefault(line, []).append(name)
    return [f"warning: {line} ({', '.join(names)})" for line, names in found.items()]


def check_runs_dir(config: Config) -> Path:
    """The folder that exists already, of those that lead to the study's; nothing is made.

    Raises:
        ConfigError: if the study's folder cannot be made or written there.
    """
    folder = study_folder(config).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    reason = "is not a folder" if not there.is_dir() else None if os.access(there, os.W_OK) else "is not writable"
    if reason:
        raise ConfigError(f"runs_dir: {config.runs_dir} cannot be written: {there} {reason}")
    return there


def needed_space(missing: Sequence[Run], costs: Mapping[str, Cost], workers: int) -> float:
    """Bytes that runs will need at most: while a run trains its weights and two moments of AdamW, in two or three
    checkpoints; of a finished one what `launch.keep` says; and 2 MB for logs, pictures and predictions of each.
    """
    if not missing:
        return 0.0
    training = max(12 * costs[run.variant].params * (3 if run.config.recipe.select == "best" else 2) for run in missing)
    bytes_of = {"all": 12, "weights": 4, "none": 0}
    kept = sum(bytes_of[run.config.launch.kept] * costs[run.variant].params + 2e6 for run in missing)
    return min(workers, len(missing)) * training + kept


def check_space(config: Config, missing: Sequence[Run], costs: Mapping[str, Cost], workers: int = 1) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        ConfigError: if the disk of `runs_dir` has too little space.
    """
    need = needed_space(missing, costs, workers)
    free = shutil.disk_usage(check_runs_dir(config)).free if missing else need
    if free < need:
        raise ConfigError(
            f"runs_dir: {config.runs_dir} has {free / 1e6:,.0f} MB free; {counted(len(missing), 'run')} need up to "
            f"{need / 1e6:,.0f} MB; free some, or choose another with runs_dir=..."
        )
