"""A Ray cluster: what its nodes have, and the connection of this process to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from shunted_lab.config.schema import ConfigError

CONNECT = 5  # seconds until a machine that does not answer is away
ANSWER = 30  # seconds until a cluster is: ray.init itself waits for minutes, also for the last cluster of this machine

# In a process that can be ended: what Ray does while it waits cannot be interrupted.
ASK = """
import json, sys
import ray
try:
    ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
    nodes = [{"host": n["NodeManagerAddress"], **n["Resources"]} for n in ray.nodes() if n["Alive"]]
    print(json.dumps({"nodes": nodes, "free": ray.available_resources()}))
except Exception as error:
    sys.exit(" ".join(str(error).split()) or type(error).__name__)
"""


@dataclass(frozen=True)
class Cluster:
    """What a cluster has: `nodes` with their address (`host`) and resources, and what is `free` of all together."""

    nodes: list[dict[str, Any]]
    free: dict[str, float]

    @property
    def machines(self) -> int:
        return len({node["host"] for node in self.nodes})

    def room(self, gpus: int, cpus: int) -> int:
        """How many workers the nodes have room for; a worker is on one node."""
        return sum(_fit(node, gpus, cpus) for node in self.nodes)

    def free_room(self, gpus: int, cpus: int) -> int:
        """How many of them could start at once."""
        return min(self.room(gpus, cpus), _fit(self.free, gpus, cpus))

    def check_room(self, gpus: int, cpus: int) -> None:
        """Refuse a worker that no node has room for: Ray would wait for one.

        Raises:
            ConfigError: with what the nodes have.
        """
        for key, name, each in (("gpus", "GPU", gpus), ("cpus", "CPU", cpus)):
            most = max((node.get(name, 0) for node in self.nodes), default=0)
            if each > most:
                less = "; launch.gpus=0 trains on CPUs" if name == "GPU" and not most else ""
                raise ConfigError(f"launch.{key}: {each} are more than the {most:g} of a node of the Ray cluster{less}")
        if not self.room(gpus, cpus):
            raise ConfigError(f"launch.gpus: no node of the Ray cluster has {gpus} and launch.cpus={cpus} together")


def _fit(resources: dict[str, Any], gpus: int, cpus: int) -> int:
    wanted = {"GPU": gpus, "CPU": cpus}
    return int(min(resources.get(name, 0) // each for name, each in wanted.items() if each))


def ask(address: str) -> Cluster:
    """What the cluster at an address has.

    Raises:
        ConfigError: without Ray, or without a cluster that answers.
    """
    if find_spec("ray") is None:
        raise ConfigError("launch: ray is not installed; pip install 'shunted_lab[ray]'")
    try:
        if address != "auto":
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
        command = [sys.executable, "-c", ASK, address]
        found = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        raise _away(address, f"no answer within {ANSWER} s") from None
    except OSError as error:
        raise _away(address, str(error)) from None
    if found.returncode:
        raise _away(address, (found.stderr.strip().splitlines() or ["no answer"])[-1])
    return Cluster(**json.loads(found.stdout.splitlines()[-1]))


def _away(address: str, reason: str) -> ConfigError:
    return ConfigError(f"launch.address: there is no Ray cluster at '{address}' ({reason})")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster that has answered; its workers end with the connection."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # otherwise a line that two workers print is printed once
    import ray

    ray.init(address, log_to_driver=True, configure_logging=False)
    try:
        yield ray
    finally:
        ray.shutdown()
