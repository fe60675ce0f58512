"""The answer to a key that does not exist: the key that was meant, by its name or by that of other frameworks.

Keys have a section (`recipe.epochs`). A name is looked for in `ELSEWHERE`, then in all sections of the command as it is
written, then among similar names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from shunted_lab.config.schema import ConfigError, nearest

ELSEWHERE: dict[str, tuple[str, ...]] = {
    # hardware
    "accelerator": ("launch.accelerator", "device"),
    "cuda": ("launch.accelerator", "device"),
    "device": ("launch.accelerator",),
    "devices": ("launch.devices", "device"),
    "gpu": ("launch.devices", "device"),
    "gpus": ("launch.devices", "device"),
    "n_gpus": ("launch.devices", "device"),
    "ngpu": ("launch.devices", "device"),
    "ngpus": ("launch.devices", "device"),
    "nproc": ("launch.devices",),
    "nproc_per_node": ("launch.devices_per_run",),
    "num_devices": ("launch.devices", "device"),
    "num_gpus": ("launch.devices", "device"),
    "world_size": ("launch.devices_per_run",),
    "nnodes": ("launch.nodes",),
    "num_nodes": ("launch.nodes",),
    "workers": ("launch.num_workers", "num_workers"),
    "num_threads": ("launch.threads",),
    "amp": ("recipe.precision", "precision"),
    "bf16": ("recipe.precision", "precision"),
    "dtype": ("recipe.precision", "precision"),
    "fp16": ("recipe.precision", "precision"),
    "fp32": ("recipe.precision", "precision"),
    "half": ("recipe.precision", "precision"),
    "use_amp": ("recipe.precision", "precision"),
    "torch_compile": ("launch.compile",),
    "torchcompile": ("launch.compile",),
    "accum_iter": ("launch.accumulate",),
    "accumulate_grad_batches": ("launch.accumulate",),
    "grad_accum": ("launch.accumulate",),
    "grad_accum_steps": ("launch.accumulate",),
    "gradient_accumulation_steps": ("launch.accumulate",),
    # data
    "bs": ("data.batch_size", "batch_size"),
    "batch": ("data.batch_size", "batch_size"),
    "batchsize": ("data.batch_size", "batch_size"),
    "train_batch_size": ("data.batch_size",),
    "val_batch_size": ("data.batch_size",),
    "data_dir": ("data.root",),
    "data_path": ("data.root",),
    "data_root": ("data.root",),
    "dataroot": ("data.root",),
    "dataset_path": ("data.root",),
    "dataset": ("data",),
    "datamodule": ("data",),
    "data_set": ("data",),
    "img_size": ("data.image_size", "size"),
    "imgsz": ("data.image_size", "size"),
    "image_size": ("data.image_size", "size"),
    "input_size": ("data.image_size", "size"),
    "resolution": ("data.image_size", "size"),
    "val_split": ("data.val_fraction",),
    # optimization
    "clip_grad_norm": ("recipe.clip_grad",),
    "gradient_clip_val": ("recipe.clip_grad",),
    "max_grad_norm": ("recipe.clip_grad",),
    "learning_rate": ("recipe.lr",),
    "base_lr": ("recipe.lr",),
    "max_lr": ("recipe.lr",),
    "max_epochs": ("recipe.epochs",),
    "n_epochs": ("recipe.epochs",),
    "num_epochs": ("recipe.epochs",),
    "num_train_epochs": ("recipe.epochs",),
    "epoch": ("recipe.epochs",),
    "lr_scheduler": ("recipe.schedule",),
    "sched": ("recipe.schedule",),
    "scheduler": ("recipe.schedule",),
    "wd": ("recipe.weight_decay",),
    "smoothing": ("recipe.label_smoothing",),
    "warmup": ("recipe.warmup_epochs",),
    "eps": ("recipe.opt_eps",),
    "aa": ("recipe.rand_augment",),
    "auto_augment": ("recipe.rand_augment",),
    "reprob": ("recipe.random_erasing",),
    "model_ema": ("recipe.ema",),
    "drop_path": ("model.drop_path_rate",),
    "dropout": ("model.drop_rate",),
    "drop": ("model.drop_rate",),
    "limit_train_batches": ("recipe.limit_batches", "limit_batches"),
    "limit_test_batches": ("recipe.limit_batches", "limit_batches"),
    "gradient_checkpointing": ("recipe.grad_checkpointing",),
    # model
    "arch": ("model",),
    "backbone": ("model",),
    "model_name": ("model",),
    "attention": ("model.attn",),
    "embedding": ("model.patch_embed",),
    "ffn": ("model.mlp",),
    "heads": ("model.num_heads",),
    "depth": ("model.depths",),
    "dims": ("model.embed_dims",),
    "sr_ratios": ("model.rates",),
    "finetune": ("model.checkpoint",),
    "pretrained": ("model.checkpoint",),
    "init_from": ("model.checkpoint",),
    "checkpoint": ("model.checkpoint",),
    "weights": ("checkpoint", "model.checkpoint"),
    "ckpt": ("checkpoint", "model.checkpoint"),
    "ckpt_path": ("checkpoint", "model.checkpoint"),
    "checkpoint_path": ("checkpoint", "model.checkpoint"),
    "load_from": ("checkpoint", "model.checkpoint"),
    # the experiment
    "config": ("experiment",),
    "exp": ("experiment",),
    "seed": ("seeds",),
    "random_seed": ("seeds",),
    "num_seeds": ("seeds",),
    "manual_seed": ("seeds",),
    "variant": ("variants",),
    "log_dir": ("runs_dir", "out"),
    "logdir": ("runs_dir", "out"),
    "out_dir": ("runs_dir", "out"),
    "outdir": ("runs_dir", "out"),
    "output": ("runs_dir", "out"),
    "output_dir": ("runs_dir", "out"),
    "out": ("runs_dir",),
    "default_root_dir": ("runs_dir",),
    "root_dir": ("runs_dir",),
    "run_dir": ("runs_dir",),
    "results_dir": ("runs_dir",),
    "save_dir": ("runs_dir", "out"),
    "work_dir": ("runs_dir", "out"),
    "debug": ("smoke",),
    "fast_dev_run": ("smoke",),
    "smoke_test": ("smoke",),
    "test_run": ("smoke",),
    "dry": ("plan_only",),
    "dry_run": ("plan_only",),
    "dryrun": ("plan_only",),
    "force": ("rerun",),
    "overwrite": ("rerun",),
    "retry": ("rerun",),
    "n_trials": ("search.trials",),
    "num_trials": ("search.trials",),
    "num_samples": ("search.trials",),
    "database": ("study.storage", "storage"),
    "db": ("study.storage", "storage"),
    "logger": ("launch.loggers",),
    "loggers": ("launch.loggers",),
    "tensorboard": ("launch.loggers",),
    "wandb": ("launch.loggers",),
    "mlflow": ("launch.loggers",),
    "partition": ("launch.partition",),
    "time": ("launch.minutes",),
    "timeout": ("launch.minutes",),
    "mem": ("launch.memory",),
}
"""Name in other frameworks -> keys of this one. A command names the first that it has."""

ANSWERS = {
    "resume": "the same command resumes; it needs no key",
    "resume_from": "the same command resumes; it needs no key",
    "resume_from_checkpoint": "the same command resumes; it needs no key",
    "auto_resume": "the same command resumes; it needs no key",
    "opt": "AdamW is the only optimizer; recipe.opt_eps and recipe.weight_decay are its options",
    "optim": "AdamW is the only optimizer; recipe.opt_eps and recipe.weight_decay are its options",
    "optimizer": "AdamW is the only optimizer; recipe.opt_eps and recipe.weight_decay are its options",
    "wandb_project": "the environment variable WANDB_PROJECT names it; launch.loggers has wandb",
    "strategy": "runs over several devices use DDP; launch.devices_per_run says how many devices",
    "max_steps": "training is counted in epochs: recipe.epochs; recipe.limit_batches shortens an epoch",
    "num_steps": "training is counted in epochs: recipe.epochs; recipe.limit_batches shortens an epoch",
    "num_classes": "the data set gives the number of classes",
    "nb_classes": "the data set gives the number of classes",
    "eval": "python -m shunted_lab.evaluate tests a checkpoint",
    "test_only": "python -m shunted_lab.evaluate tests a checkpoint",
    "evaluate": "python -m shunted_lab.evaluate tests a checkpoint",
    "local_rank": "the command starts the processes of a run itself; launch.devices_per_run says how many",
    "master_port": "the command starts the processes of a run itself; launch.devices_per_run says how many",
    "deterministic": "seeds are always set; the same seed gives the same images in the same order",
    "device_ids": "CUDA_VISIBLE_DEVICES chooses the GPUs, launch.devices how many are used",
    "gpu_ids": "CUDA_VISIBLE_DEVICES chooses the GPUs, launch.devices how many are used",
    "verbose": "there is one form of output; the files of each run are in its folder",
    "save_every": "a checkpoint is written after each epoch; recipe.select says which one is tested",
    "save_freq": "a checkpoint is written after each epoch; recipe.select says which one is tested",
}
"""Name in other frameworks -> the answer, where `run` has no key for it."""

LISTED = 3  # keys that an answer names
CLOSE = 0.7  # similarity of a name to one of another section; below, names share a few letters only
INSIDE = 0.5  # the same within the section that is written


def no_such_key(key: str, keys: Sequence[str], names: Iterable[str] = ()) -> ConfigError:
    """The error for a key that a command does not have.

    Args:
        key: as it was written.
        keys: all dotted keys of the command.
        names: the keys of the section that `key` names, where the presets of a group have different ones.
    """
    written = key.lstrip("-").replace("-", "_")
    section, _, leaf = written.rpartition(".")
    if section in keys and not any(each.startswith(f"{section}.") for each in keys):
        return ConfigError(f"{key}: no such key; {section} is a single value, {section}=...")
    while section and not any(each.startswith(f"{section}.") for each in keys):
        section, _, leaf = section.rpartition(".")  # `model.foo.bar` is looked for as `model.foo`
    inside = list(names) or [each.rpartition(".")[2] for each in keys if each.rpartition(".")[0] == section]
    last = leaf if section else written.rpartition(".")[2]
    meant = [each for each in ELSEWHERE.get(last.lower(), ()) if each in keys][:1]
    meant = meant or [each for each in keys if each.rpartition(".")[2] == last and each != written]
    if not meant and last.lower() in ANSWERS and "experiment" in keys:
        return ConfigError(f"{key}: no such key; {ANSWERS[last.lower()]}")
    if not meant and not difflib.get_close_matches(leaf, inside, n=1, cutoff=INSIDE if section else CLOSE):
        leaves = {name: each for name, targets in ELSEWHERE.items() for each in targets if each in keys}
        leaves |= {each.rpartition(".")[2]: each for each in reversed(keys)}
        meant = [leaves[near] for near in difflib.get_close_matches(last, leaves, n=1, cutoff=CLOSE)]
    if meant:
        shown = meant[0] if len(meant) == 1 else f"one of {', '.join(meant[:LISTED])}"
        return ConfigError(f"{key}: no such key; did you mean {shown}?")
    return ConfigError(f"{key}: no such key; {nearest(leaf, inside)}")
