"""Tasks, one module each over `base.py`; `train.py` makes the Trainer, nothing else does. Importing this is instant."""
