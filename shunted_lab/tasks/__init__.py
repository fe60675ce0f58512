"""LightningModules, one per task, and `train`, the one place where a Trainer is made. Importing this is instant."""
