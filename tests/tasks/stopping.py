"""A listener that stops a run, for tests of resuming."""

from __future__ import annotations

from shunted_lab.tasks.listener import RunListener


class StopAt(RunListener):
    """A link that asks to stop at the n-th batch."""

    def __init__(self, batch):
        self.batch, self.seen = batch, 0

    def stopping(self):
        self.seen += 1
        return self.seen >= self.batch

    def epoch(self, epoch, metrics):
        return False
