"""Whether a change of the code changes any number: python tests/trace_experiments.py FILE

Run it on the commit before with the name of a new FILE, which it writes; run it on the commit after with the same FILE,
and it compares every number with those in it, bit for bit. For each variant of every shipped experiment it has the
losses of 20 training steps and the metrics after them; for each experiment the table of its smoke run with the costs,
without what is measured on the device. Both calls must be on one machine. Exit status 1 if a number differs.
"""

import csv
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "tasks"))

STEPS = 20
DEVICE_COLUMNS = (
    "latency",
    "memory",
    "images",
    "seconds",
    "fingerprint",
)  # parts of names that differ from call to call


def main(file: Path) -> int:
    names = [path.stem for path in sorted((ROOT / "experiments").glob("*.yaml"))]
    with tempfile.TemporaryDirectory() as folder:
        found = {name: traces(name, Path(folder)) for name in names}
        # A confirmation needs a finished search, whose smoke run is a few trials.
        found["smoke"] = {name: smoke_table(name, Path(folder)) for name in names if name != "confirm_rates"}
    if not file.exists():
        file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{file}: {len(flat(found))} numbers written")
        return 0
    before, after = flat(json.loads(file.read_text())), flat(json.loads(json.dumps(found)))
    different = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    for key in sorted(different):
        print(f"{key}: {before.get(key)} before, {after.get(key)} after")
    print(f"{len(different)} of {len(before)} numbers differ from those in {file}")
    return 1 if different else 0


def traces(name: str, folder: Path) -> dict[str, object]:
    """Variant -> the losses of its steps and the metrics after them."""
    from loss_traces import losses_and_metrics

    overrides = [f"experiment={name}", "launch.accelerator=cpu", "recipe.epochs=1", f"recipe.limit_batches={STEPS}"]
    overrides += ["data.batch_size=16"]
    if "data: scales" in (ROOT / "experiments" / f"{name}.yaml").read_text():
        overrides += ["data.val_images=32", "data.test_images=32", f"data.cache={folder / 'cache'}"]
    return losses_and_metrics(overrides, folder / "traces" / name)


def smoke_table(name: str, folder: Path) -> list[dict[str, str]]:
    """The rows of the table of an experiment's smoke run."""
    from shunted_lab.run import main as run

    status = run([f"experiment={name}", "smoke=true", "launch.accelerator=cpu", f"runs_dir={folder / 'runs'}"])
    assert status == 0, name
    (table,) = (folder / "runs" / f"{name}-smoke").rglob("search.csv" if name.startswith("search") else "table.csv")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not any(part in k for part in DEVICE_COLUMNS)} for row in rows]


def flat(value: object, key: str = "") -> dict[str, object]:
    """Nested values -> path -> number or text."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {key: value}
    return {path: leaf for name, inner in items for path, leaf in flat(inner, f"{key}/{name}").items()}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
