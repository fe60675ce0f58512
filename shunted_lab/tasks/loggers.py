"""The names that a run is logged under, and whether its loggers can be used. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError

EXTRAS = ("wandb", "mlflow")  # loggers that need a package which this one does not bring: an extra of the same name


@dataclass(frozen=True)
class RunNames:
    """What a run is called where it is logged."""

    experiment: str
    variant: str
    seed: int

    @property
    def run(self) -> str:
        """The name of the run among those of its experiment."""
        return f"{self.variant}-seed{self.seed}"


def names_of(config: RunConfig, folder: Path) -> RunNames:
    """The names of a run by its place in a study: EXPERIMENT/VARIANT/seed0-1a2b3c4d."""
    variant = folder.absolute().parent
    return RunNames(variant.parent.name, variant.name, config.seed)


def check_loggers(launch: LaunchConfig, here: bool = True) -> None:
    """Refuse loggers that a run could not use.

    Args:
        here: whether it is trained on this machine; elsewhere somebody else may be logged in to W&B.

    Raises:
        ConfigError: for a package that is not installed, and for W&B where nobody is logged in.
    """
    check_packages(launch)
    if "wandb" in launch.loggers and here:
        _check_login()


def check_packages(launch: LaunchConfig) -> None:
    """Raise ConfigError for a logger whose package is not installed."""
    for name in EXTRAS:
        if name in launch.loggers and not _is_installed(name):
            raise ConfigError(f"launch.loggers: {name} is not installed; pip install 'shunted_lab[{name}]'")


def _is_installed(package: str) -> bool:
    """Whether a package can be imported: a folder of that name, which W&B makes where it is used, has no origin."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def _check_login() -> None:
    """Raise ConfigError where W&B would ask for an API key: a worker has nobody to ask."""
    import wandb

    try:
        mode = wandb.setup(wandb.Settings(silent=True)).settings.mode
        needs_key = mode not in ("offline", "dryrun", "disabled")
        if needs_key and not wandb.login(prompt=False, verify=False):
            raise ConfigError(
                "launch.loggers: wandb has no API key; run `wandb login`, or set WANDB_MODE=offline in the environment"
            )
    finally:
        wandb.teardown()  # workers start a service of their own, which ends with them
