"""What tasks with a head of its own beside the backbone have in common: which head, and which recipes suit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from shunted_lab.config.data import DataConfig
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import ConfigError, require, unknown
from shunted_lab.config.task import TaskConfig

if TYPE_CHECKING:
    from torch import nn

    from shunted_lab.nn import Pyramid

MIXES = ("mixup", "cutmix", "random_resized_crop", "rand_augment", "color_jitter", "random_erasing")


@dataclass
class HeadedTask(TaskConfig):
    """A task whose key `task.head` names what reads the backbone's maps.

    A task sets `heads` (those that ship with the package), `refuses` (keys of the recipe that must be off), and for
    messages `trained_on` and `recipe_hint`; it implements `network`.
    """

    head: Any = None

    heads: ClassVar[tuple[str, ...]] = ()
    refuses: ClassVar[tuple[str, ...]] = MIXES
    trained_on: ClassVar[str] = ""
    recipe_hint: ClassVar[str] = ""
    sees_whole_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = self.head_name
        if not isinstance(name, str):
            raise ConfigError(f"task.head: {self.head!r} is neither a name nor a mapping {{name: ..., option: value}}")
        if name not in self.heads and "." not in name:
            raise unknown("task.head", name, self.heads)

    @property
    def head_name(self) -> Any:
        """A registered name, or the dotted path of a class."""
        return self.head.get("name") if isinstance(self.head, Mapping) else self.head

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.head_name,) if "." in self.head_name else ()

    def check_recipe(self, data: DataConfig, recipe: RecipeConfig) -> None:
        for name in self.refuses:
            value = getattr(recipe, name)
            why = f"is not supported for {self.trained_on}; take recipe={self.recipe_hint}, or off"
            require(not value, f"recipe.{name}", value, why)
        value = recipe.repeated_aug
        require(value == 1, "recipe.repeated_aug", value, f"is not supported for {self.trained_on}; set it to 1")

    def build(self, model: ModelConfig, classes: int) -> nn.Module:
        from shunted_lab.nn import ComponentError
        from shunted_lab.tasks.model import build_model

        backbone = build_model(model, 0)
        try:
            return self.network(backbone, model.embed_dims, classes)
        except ComponentError as error:
            raise ConfigError(f"task.{error}") from None

    @abstractmethod
    def network(self, backbone: Pyramid, channels: list[int], classes: int) -> nn.Module:
        """The backbone with the head; ComponentError for a head that cannot be built."""
