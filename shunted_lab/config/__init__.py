"""Dataclasses and presets, and how overrides and an experiment's file become a configuration. It imports no torch.

Each dataclass is a schema: an unknown key or a wrong type is refused by OmegaConf, and each `__post_init__` refuses a
value that cannot work, in one line with the dotted key, the value and the choices. The dataclasses are not frozen:
OmegaConf turns a frozen one into a read-only node, which no override could change. Nobody assigns to one after it has
been composed; `dataclasses.replace` makes the variants.
"""
