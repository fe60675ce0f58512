"""The command that draws attention: python -m shunted_lab.attention checkpoint=RUN_FOLDER image=photo.jpg"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from shunted_lab.command import run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.schema import ConfigError, group, height_width, option, path_option, require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from shunted_lab.config.data import Stats
    from shunted_lab.nn import Pyramid

HELP = """\
usage: python -m shunted_lab.attention checkpoint=RUN_FOLDER image=FILE [query=[0.5,0.5]] [key=value ...]

Draws where points of an image attend, per stage and rate, and what the whole model attends (attention rollout). Several
points stand side by side, and so does another run (compare).

  python -m shunted_lab.attention checkpoint=runs/ablate_embed/conv_stem/seed0-1a2b3c4d image=tile.png
  python -m shunted_lab.attention checkpoint=SSA_RUN compare=SRA_RUN image=photo.jpg query=[[0.3,0.6],[0.8,0.2]]
  python -m shunted_lab.attention checkpoint=ckpt_S.pth model=shunted_s image=photo.jpg size=224 mask=dog.png
"""


@dataclass
class AttentionConfig:
    """The configuration of `python -m shunted_lab.attention`."""

    model: ModelConfig = group("shunted_s")
    checkpoint: str = path_option(MISSING, "a run's folder, or a .ckpt in it; or official weights for model=...")
    image: str = path_option(MISSING, "the image file")
    mask: str | None = path_option(
        None, "an image whose bright pixels are the object: prints its share of the attention / its share of the area"
    )
    compare: str | None = path_option(None, "the folder of another run, whose attention stands beside")
    query: Any = option(
        [0.5, 0.5],
        "the point whose attention is drawn, or several: y, x as fractions of height and width, in [0, 1)",
        type="[y,x] | [[y,x],...]",
    )
    size: Any = option(
        None,
        "resize the image to this size: one number, or height x width, e.g. 224 or 800x1333; null keeps its own",
        type="int | HxW | null",
    )
    out: str = path_option("attention.png", "the figure: .png, .svg or .pdf")

    def __post_init__(self) -> None:
        for point in self.points or [None]:
            is_point = isinstance(point, list) and len(point) == 2 and all(isinstance(v, int | float) for v in point)
            inside = is_point and all(0 <= value < 1 for value in point or ())
            require(inside, "query", self.query, "is not a point: y and x, each in [0, 1), e.g. [0.5,0.25]")
        if self.size is not None:
            height_width("size", self.size)

    @property
    def points(self) -> list[Any]:
        """The points, one at least."""
        given = self.query if isinstance(self.query, list) else [self.query]
        return given if any(isinstance(value, list) for value in given) else [given]


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 for a user's mistake."""
    return run_command(overrides, lambda: help_text(HELP, AttentionConfig), _act)


def _act(overrides: list[str]) -> None:
    draw(compose_as(AttentionConfig, overrides))


def draw(config: AttentionConfig) -> Path:
    """Draw the figure into `config.out`, then print the shares of attention on the object, if there is one.

    Raises:
        ConfigError: for a checkpoint, an image or a mask that cannot be used.
    """
    from shunted_lab.nn import ComponentError
    from shunted_lab.nn.maps import attention_of, concentration, rollout
    from shunted_lab.report.attention import Look, attention_figure
    from shunted_lab.report.plots import save

    out = Path(config.out)
    if out.suffix not in (".svg", ".pdf", ".png"):
        raise ConfigError(f"out: '{out}' is not a .pdf, .png or .svg file")
    model, stats = load(config)
    picture, image = read_image(config, stats)
    models = [("", model, image)]
    if config.compare is not None:
        other, its_stats = load(config, "compare")
        models = [(_named(config.checkpoint), model, image)]
        models.append((_named(config.compare), other, read_image(config, its_stats)[1]))
    looks, found = [], []
    for name, of, seen in models:
        try:
            rolled = rollout(of, seen)
            shares = concentration(of, seen, read_mask(config, picture)) if config.mask else []
            for y, x in config.points:
                place = f"point {y:g}, {x:g}"
                maps = attention_of(of, seen, (float(y), float(x)))
                looks.append(Look(f"{name}\n{place}" if name else place, (float(y), float(x)), maps, rolled, shares))
        except ComponentError as error:
            raise ConfigError(str(error)) from None
        found += [(f"{name}: " if name else "", share) for share in shares]
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = attention_figure(picture, looks)
    (path,) = save(figure, out.parent, out.stem, (out.suffix[1:],))
    for name, c in found:
        print(
            f"{name}stage {c.stage + 1}, rate {c.rate}: attention on the object / its share of the area = {c.ratio:.3f}"
        )
    print(path)
    return path


def _named(checkpoint: str) -> str:
    """A run's variant and seed; a file's name."""
    path = Path(checkpoint)
    is_run = path.name.startswith("seed")
    return f"{path.parent.name}, seed {path.name[4:].partition('-')[0]}" if is_run else path.stem


def load(config: AttentionConfig, key: str = "checkpoint") -> tuple[Pyramid, Stats]:
    """The backbone of a run, or of a file of weights for `config.model`; and how its images are normalized.

    Raises:
        ConfigError: for a path that is neither, or weights that do not fit.
    """
    from shunted_lab.data.image_files import IMAGENET
    from shunted_lab.nn import Pyramid
    from shunted_lab.study.folder import find_checkpoint
    from shunted_lab.tasks.checkpoint import load_model

    run, file = find_checkpoint(getattr(config, key), key)
    if run is None:
        return load_model(config.model, file).net, IMAGENET
    net = load_model(run.config.model, file, task=run.config.task).net
    backbone = next((part for part in net.modules() if isinstance(part, Pyramid)), None)
    if backbone is None:
        raise ConfigError(f"{key}: the network of task={run.config.task.name} contains no backbone")
    return backbone, run.config.data.stats


def read_image(config: AttentionConfig, stats: Stats) -> tuple[np.ndarray, Tensor]:
    """The image as pixels (H, W, 3) uint8, and normalised (1, 3, H, W)."""
    import numpy as np
    import torch

    picture = np.asarray(_open("image", config.image, config.size, "RGB"))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in stats)
    return picture, (torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255 - mean) / std


def read_mask(config: AttentionConfig, picture: np.ndarray) -> Tensor:
    """(H, W) in [0, 1]: where the object is; any image whose bright pixels are the object, of the image's shape."""
    import numpy as np
    import torch

    height, width = picture.shape[:2]
    mask = np.asarray(_open("mask", str(config.mask), f"{height}x{width}", "L"))
    return torch.from_numpy(mask > 127)


def _open(key: str, where: str, size: str | None, mode: str) -> Any:
    from PIL import Image

    from shunted_lab.data.decode import Undecodable, decode

    try:
        image = decode(Path(where).read_bytes()).convert(mode)
    except FileNotFoundError:
        raise ConfigError(f"{key}: '{where}' does not exist") from None
    except OSError as error:
        raise ConfigError(f"{key}: '{where}' cannot be read ({error.strerror})") from None
    except Undecodable as error:
        raise ConfigError(f"{key}: '{where}' cannot be decoded as an image ({error})") from None
    if size is None:
        return image
    height, width = height_width(key, size)
    way = Image.Resampling.BICUBIC if mode == "RGB" else Image.Resampling.NEAREST
    return image.resize((width, height), way)


if __name__ == "__main__":
    sys.exit(main())
