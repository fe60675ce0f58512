"""data=shards: images in tars, for slow file systems and object storage. `format.py` says what lies where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from shunted_lab.config.data import DataFacts
from shunted_lab.config.paths import is_url
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import at_least, option, path_option, require
from shunted_lab.data.cache import cache_folder
from shunted_lab.data.image_files import ImageFilesConfig

if TYPE_CHECKING:
    from shunted_lab.data.module import Splits
    from shunted_lab.data.shards.format import Index
    from shunted_lab.data.shards.reader import Source, TarSplit


@dataclass
class ShardsConfig(ImageFilesConfig):
    """Images in tars, as `python -m shunted_lab.convert` writes them: for slow file systems and object storage."""

    name: str = "shards"
    root: str = path_option(MISSING, "folder of the shards, or their fsspec URL", affects_result=False, absolute=True)
    mix_shards: int = option(16, "training shards whose images are shuffled together")
    cache: str | None = path_option(
        None,
        "folder that caches the shards of a URL; null: ~/.cache/shunted_lab/shards",
        affects_result=False,
        absolute=True,
    )
    cache_gb: float = option(
        50.0,
        "largest size of the cache in gigabytes (1e9 bytes); the least recently used shards are removed",
        affects_result=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "data", self, "mix_shards")
        require(self.cache_gb > 0, "data.cache_gb", self.cache_gb, "is not above 0")

    @property
    def expected(self) -> str:
        from shunted_lab.data.shards.format import CONTENT

        return CONTENT

    @property
    def is_remote(self) -> bool:
        return is_url(self.root)

    def check_files(self, tested_only: bool) -> DataFacts:
        from shunted_lab.data.shards.format import open_index

        index = open_index(self.root)
        index.check(self.mix_shards, self.cache_gb)
        few = sum(shard.count for shard in index.splits["train"]) <= len(index.classes)  # else a class has two
        if few and "test" not in index.splits and not tested_only:
            self.check_held_out(self.open_splits(index)["train"].labels)
        return DataFacts(tuple(index.classes), index.identity)

    def undecoded_splits(self) -> Sequence[TarSplit]:
        """None where all images were decoded when they were converted."""
        from shunted_lab.data.shards.format import open_index

        return [] if open_index(self.root).verified else super().undecoded_splits()  # type: ignore[return-value]

    def read_splits(self) -> tuple[list[str], dict[str, TarSplit]]:
        from shunted_lab.data.shards.format import open_index

        index = open_index(self.root)
        return index.classes, self.open_splits(index)

    def open_splits(self, index: Index) -> dict[str, TarSplit]:
        """The splits of the index in `root`; those of a URL are read through the cache."""
        from shunted_lab.data.shards.reader import LocalTars, open_splits

        source: Source = LocalTars(index.root.path, index.shards)
        if index.root.remote:
            from shunted_lab.data.shards.tar_cache import CachedTars  # not on Windows

            folder = Path(self.cache) if self.cache is not None else cache_folder(None) / "shards"
            limit = int(self.cache_gb * 1e9)
            source = CachedTars(self.root, index.shards, folder.absolute(), index.identity, limit)
        return open_splits(index, source)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        """The splits that data=folder would have, with the same images in the same order; only training is shuffled
        in another order."""
        from shunted_lab.data.shards.order import ShardOrder

        classes, (train, val, test) = self.three_splits()
        splits = self.transformed((train, val.in_order_of_shards(), test), classes, recipe, seed)
        return replace(splits, shuffle=ShardOrder(train.places[:, 0], self.mix_shards))
