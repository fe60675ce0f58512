"""The text of `--help`: the groups with their choices, and every key with its type, default and meaning."""

from __future__ import annotations

import dataclasses
import textwrap
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from shunted_lab.commands import AttentionConfig, ConvertConfig, CostConfig, DashboardConfig, EvaluateConfig
from shunted_lab.config import PRESETS, Config, ModelConfig
from shunted_lab.experiment_file import experiment_files
from shunted_lab.studies import ConfirmConfig, SearchConfig, StudyConfig

SECTIONS = {"study": StudyConfig, "search": SearchConfig, "confirm": ConfirmConfig}

HEAD = """\
usage: python -m shunted_lab.run experiment=NAME [key=value ...]

Trains every variant of an experiment with every seed and prints the ablation table. Finished runs are not repeated:
the same command resumes after an interruption, and trains only new runs after a seed or a variant was added. Results
are in runs_dir/NAME. Paths need no quotes; another value with commas, brackets or letters beyond ASCII is quoted twice:
'description="a, b"'.

  python -m shunted_lab.run experiment=ablate_embed
  python -m shunted_lab.run experiment=ablate_embed smoke=true
  python -m shunted_lab.run experiment=ablate_embed plan_only=true seeds=[0,1,2,3,4]
  python -m shunted_lab.run experiment=ablate_embed only=conv_stem
  python -m shunted_lab.run experiment=search_rates launch.devices=2
  python -m shunted_lab.run experiment=ablate_embed model=shunted_s recipe=paper data=imagenet data.root=/data/imagenet

groups (GROUP=CHOICE)"""

ATTENTION_HEAD = """\
usage: python -m shunted_lab.attention checkpoint=RUN_FOLDER image=FILE [query=[0.5,0.5]] [key=value ...]

Draws the attention of a point of an image, per stage and per rate, and that of the whole model (attention rollout).

  python -m shunted_lab.attention checkpoint=runs/ablate_embed/conv_stem/seed0-1a2b3c4d image=tile.png
  python -m shunted_lab.attention checkpoint=ckpt_S.pth model=shunted_s image=photo.jpg size=224 mask=dog.png

groups (GROUP=CHOICE)"""

DASHBOARD_HEAD = """\
usage: python -m shunted_lab.dashboard [runs_dir=runs] [port=8080]

Shows all studies in runs_dir in the Optuna dashboard: curves, tables, attributes. It shows copies; studies are not
changed.

keys (KEY=VALUE)"""

REPORT_HEAD = """\
usage: python -m shunted_lab.report experiment=NAME [key=value ...]

Writes the tables, the figures and the page of an experiment or a search again, as far as it has come. Nothing is
trained. The overrides are those of the run, which choose the rows and the seeds of the table.

  python -m shunted_lab.report experiment=ablate_embed
  python -m shunted_lab.report experiment=ablate_embed seeds=[0,1] runs_dir=/shared/runs

python -m shunted_lab.run --help lists the keys."""

COST_HEAD = """\
usage: python -m shunted_lab.cost [model=NAME] [size=224|800x1333] [key=value ...]

Counts parameters and multiply-accumulates of a model, stage by stage, without running it; measure=true also measures
the time and the memory of a forward pass.

  python -m shunted_lab.cost model=shunted_s size=800x1333
  python -m shunted_lab.cost model=pvt_v2_b2 measure=true batch_size=8

groups (GROUP=CHOICE)"""

EVALUATE_HEAD = """\
usage: python -m shunted_lab.evaluate checkpoint=RUN_FOLDER|FILE [model=NAME] [data=NAME] [key=value ...]

Measures the accuracy of a checkpoint on a data set, with its 95 % interval, and images per second. For a checkpoint of
a run, model and data are those of the run; other data are resized to the image size of the run, unless data.image_size
is given. A file of weights (official, timm's, .safetensors) needs model=, and the data= that its head was trained for.

  python -m shunted_lab.evaluate checkpoint=runs/ablate_embed/conv_stem/seed0-1a2b3c4d
  python -m shunted_lab.evaluate checkpoint=ckpt_S.pth model=shunted_s data=imagenet data.root=/data/imagenet
  python -m shunted_lab.evaluate checkpoint=ckpt_S.pth data.root=/data/imagenet data.image_size=288 data.crop_pct=1.0

groups (GROUP=CHOICE)"""


CONVERT_HEAD = """\
usage: python -m shunted_lab.data.shards [data=NAME] data.root=FOLDER out=FOLDER_OR_URL [key=value ...]

Writes a folder of images as shards: tars in the form of WebDataset with an index, for slow file systems and object
storage. The same command resumes after an interruption. Train on them with data=shards data.root=FOLDER_OR_URL.

  python -m shunted_lab.data.shards data=folder data.root=/data/flowers out=/fast/flowers
  python -m shunted_lab.data.shards data=imagenet data.root=/data/imagenet out=s3://bucket/imagenet

groups (GROUP=CHOICE)
  data        folder, imagenet, inat2018, inat2019

keys (KEY=VALUE)
  data.root: str = (needed)
        folder of the data set
  data.val_fraction: float = 0.1, imagenet: 0.01, inat2018 and inat2019: 0.02
        share of train/ held out for validation, written as shards of its own; runs use the same fraction; only where
        there is no test/
  data.category: str = name  (inat2018, inat2019)
        level of the class labels; the shards contain this level only"""


def usage() -> str:
    """The whole help text."""
    lines = [HEAD]
    groups = {"experiment": list(experiment_files())} | {group: list(presets) for group, presets in PRESETS.items()}
    lines += [f"  {group:<12}{', '.join(choices)}" for group, choices in groups.items()]
    lines += ["", "keys (KEY=VALUE)"]
    lines += _keys("", Config)
    for section in ("study", "search", "confirm"):
        schema = SECTIONS[section]
        lines += ["", f"{section}.*", *_keys(f"{section}.", schema)]
    for group, presets in PRESETS.items():
        for schema, names in _classes(presets).items():
            shown = next(name for name in names if presets[name] == schema())
            defaults = f"; the defaults shown are those of {shown}" if len(names) > 1 else ""
            lines += ["", f"{group}.*  ({group}={'|'.join(names)}{defaults})"]
            lines += _keys(f"{group}.", schema)
    return "\n".join(lines)


def dashboard_usage() -> str:
    """The help text of the dashboard."""
    return "\n".join([DASHBOARD_HEAD, *_keys("", DashboardConfig)])


def attention_usage() -> str:
    """The help text of the attention command."""
    models = f"  model       {', '.join(PRESETS['model'])}"
    return "\n".join([ATTENTION_HEAD, models, "", "keys (KEY=VALUE)", *_keys("", AttentionConfig)])


def cost_usage() -> str:
    """The help text of the cost command."""
    lines = [COST_HEAD, f"  model       {', '.join(PRESETS['model'])}", "", "keys (KEY=VALUE)", *_keys("", CostConfig)]
    return "\n".join(
        [*lines, "", "model.*  (the defaults shown are those of shunted_s)", *_keys("model.", ModelConfig)]
    )


def evaluate_usage() -> str:
    """The help text of the evaluate command."""
    lines = [EVALUATE_HEAD, *(f"  {group:<12}{', '.join(PRESETS[group])}" for group in ("model", "data"))]
    lines += ["", "keys (KEY=VALUE)", *_keys("", EvaluateConfig)]
    for schema, names in _classes(PRESETS["data"]).items():
        lines += ["", f"data.*  (data={'|'.join(names)})", *_keys("data.", schema)]
    return "\n".join(lines)


def convert_usage() -> str:
    """The help text of the shards command."""
    return "\n".join([CONVERT_HEAD, *_keys("", ConvertConfig)])


def _classes(presets: dict[str, Any]) -> dict[type, list[str]]:
    classes: dict[type, list[str]] = {}
    for name, preset in presets.items():
        classes.setdefault(type(preset), []).append(name)
    return classes


def _keys(prefix: str, schema: type) -> list[str]:
    types = get_type_hints(schema)
    lines = []
    for item in dataclasses.fields(schema):
        if "help" not in item.metadata:
            continue
        kind = item.metadata.get("type") or _type(types[item.name])
        lines.append(f"  {prefix + item.name}: {kind} = {_default(item)}")
        lines += textwrap.wrap(item.metadata["help"], 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def _type(hint: Any) -> str:
    """A type as a user reads it: the keys of a section are listed by themselves, and None is YAML's null."""
    if hint is Any:
        return "component"
    if hint is NoneType:
        return "null"
    if isinstance(hint, type) and not hasattr(hint, "__args__"):
        return "section" if dataclasses.is_dataclass(hint) else hint.__name__
    if isinstance(hint, UnionType):
        return " | ".join(_type(part) for part in get_args(hint))
    return str(hint).replace("typing.", "")


def _default(item: dataclasses.Field[Any]) -> str:
    value = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else "(needed)" if value == "???" else f"{value!r}" if value == "" else str(value)
