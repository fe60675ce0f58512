"""Who follows a run while it trains: hears how far it has come, and may end it. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Status:
    """How far the training of a run has come.

    Args:
        epoch: the current one, from 0.
        epochs: of the run.
        batch: batches of this epoch that are trained.
        batches: of an epoch.
        loss: of the last batch.
        images_per_second: since the last status, over all devices.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    images_per_second: float

    @property
    def done(self) -> float:
        """The share of the training that is done."""
        return (self.epoch + self.batch / self.batches) / self.epochs


class RunListener:
    """Follows a run and lets it train to its end; subclasses do more."""

    def stopping(self) -> bool:
        """Asked after each batch; True raises `Stopped` after a checkpoint."""
        return False

    def step(self, status: Status) -> None:
        """Told about once a second."""

    def epoch(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Told after each epoch's validation; True raises `Pruned`."""
        return False
