"""All commands under one name: `python -m shunted_lab COMMAND [key=value ...]`, or `shunted-lab COMMAND ...`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from shunted_lab.config.schema import unknown
from shunted_lab.output.streams import forgive


@dataclass(frozen=True)
class Command:
    """What a command is for, in one line, and the module whose `main` it is: `python -m MODULE` is the same."""

    module: str
    purpose: str


COMMANDS = {
    "run": Command(
        "shunted_lab.run", "train every variant of an experiment with every seed, and report (the main job)"
    ),
    "report": Command(
        "shunted_lab.report.__main__", "write the tables, the figures and the page of an experiment again"
    ),
    "cost": Command("shunted_lab.cost", "parameters and multiply-accumulates of a model, stage by stage"),
    "evaluate": Command("shunted_lab.evaluate", "accuracy of a checkpoint on a data set"),
    "predict": Command("shunted_lab.predict", "predict for images: classes, label maps, or objects"),
    "attention": Command("shunted_lab.attention", "draw where a point of an image attends to, per stage and rate"),
    "dashboard": Command("shunted_lab.dashboard", "show all studies in the Optuna dashboard"),
    "compare": Command("shunted_lab.compare", "compare results of trainings from elsewhere, from a CSV file"),
    "convert": Command("shunted_lab.convert", "convert a folder of images to tar shards"),
    "worker": Command("shunted_lab.worker", "train what is left of a study, on any machine that sees its folder"),
}


def usage(program: str) -> str:
    """The list of commands."""
    return "\n".join(
        [
            f"usage: {program} COMMAND [key=value ...]",
            "",
            *(f"  {name:<11}{command.purpose}" for name, command in COMMANDS.items()),
            "",
            f"{program} COMMAND --help lists the keys of a command. Start here:",
            "",
            f"  {program} run experiment=ablate_embed smoke=true  # a few batches: does everything work?",
            f"  {program} run experiment=ablate_embed             # the ablation table, minutes on 2 CPU cores",
        ]
    )


def main(overrides: list[str] | None = None) -> int:
    """Run the command that the first argument names. Returns its exit status; 1 for a command that is not known."""
    forgive()
    overrides = sys.argv[1:] if overrides is None else overrides
    program = "shunted-lab" if Path(sys.argv[0]).stem == "shunted-lab" else "python -m shunted_lab"
    if not overrides or overrides[0] in ("-h", "--help", "help"):
        print(usage(program))
        return 0
    name, *rest = overrides
    if name not in COMMANDS:
        given = " ".join(overrides)
        hint = f"'{name}' is an override; did you mean: {program} run {given}" if "=" in name else None
        print(f"error: {hint or unknown('command', name, COMMANDS)}", file=sys.stderr)
        return 1
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: components of a user lie in the working directory
    status: int = import_module(COMMANDS[name].module).main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main())
