"""Checkpoints that are there whole, or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


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
        temporary = target.with_name(f".{target.name}.tmp")  # one name: what a kill leaves, the next one overwrites
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)  # into memory: torch hides the OSError of a file
        try:
            with open(temporary, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
