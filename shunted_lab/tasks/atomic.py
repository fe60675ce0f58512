"""Checkpoints that are there whole, or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from shunted_lab.output.files import atomic, remove_temporaries


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the file and renames: a process that is killed, or a full disk, leaves the file of before.

    Lightning's own writes into the system's folder of temporary files; where that is another file system, its move from
    there is a copy over the last good checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: if it cannot be written; the file of before is still there.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_temporaries(target.parent)  # a run has one writer: these are of a process that was killed
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)  # into memory: torch hides the OSError of a file
        with atomic(target) as file:
            file.write(buffer.getbuffer())
