"""The message brokers: a RabbitMQ of our own, and librdkafka's mock of Kafka; each with a consumer that counts.

RabbitMQ is a real node with its defaults, started for this run alone: its name, its ports, its folders and its port
mapper (epmd) are its own, it listens on the loopback interface only, and knows no plugin. No Kafka is started: that
mock is a broker in memory, made for tests of that library, without disk, replicas or group coordination; every label
says so. What it costs a caller is the client's share of the price.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from .processes import Child, ChildError, python
from .servers.base import ELSEWHERE, Site, free_port, path_of, running
from .ways import Target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .receiver import Command, Report

Kind: TypeAlias = Literal["RabbitMQ", "Kafka"]
# Debian's program of that name on PATH starts only the system's own node; what it calls is here.
RABBITMQ_HOMES = ("/usr/lib/rabbitmq/bin", *ELSEWHERE)
RABBITMQ_INSTALL = "rabbitmq-server not found (install Debian's package of that name)"
# A folder for everything that it writes; -start_epmd false: it would leave its port mapper running behind it.
# RABBITMQ_ALLOW_INPUT: no shell between us and the node, which then ends by the signal.
RABBITMQ_ENVIRONMENT = {
    "HOME": "{folder}",
    "ERL_EPMD_PORT": "{epmd}",
    "RABBITMQ_NODENAME": "bench@localhost",
    "RABBITMQ_NODE_IP_ADDRESS": "{address}",
    "RABBITMQ_NODE_PORT": "{amqp}",
    "RABBITMQ_DIST_PORT": "{nodes}",
    "RABBITMQ_MNESIA_BASE": "{folder}",
    "RABBITMQ_MNESIA_DIR": "{folder}/mnesia",
    "RABBITMQ_FEATURE_FLAGS_FILE": "{folder}/feature_flags",
    "RABBITMQ_LOG_BASE": "{folder}",
    "RABBITMQ_LOGS": "-",
    "RABBITMQ_PID_FILE": "{folder}/pid",
    "RABBITMQ_CONF_ENV_FILE": "{folder}/rabbitmq-env.conf",
    "RABBITMQ_CONFIG_FILE": "{folder}/rabbitmq.conf",
    "RABBITMQ_ADVANCED_CONFIG_FILE": "{folder}/advanced.config",
    "RABBITMQ_ENABLED_PLUGINS_FILE": "{folder}/enabled_plugins",
    "RABBITMQ_GENERATED_CONFIG_DIR": "{folder}",
    "RABBITMQ_ALLOW_INPUT": "yes",
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
        "-noinput -pa {folder} -start_epmd false -kernel inet_dist_use_interface {{127,0,0,1}}"
    ),
}


class Broker(Child):
    """A broker's consumer, asked as ReceiverProcess is: it counts what comes out of the slots' queues."""

    asleep = None  # no slot tells whether a broker sleeps
    descriptors = None  # it holds nothing open for a post

    def __init__(self, scheme: str, counters: Path, source: list[str], core: int | None, *beside: int) -> None:
        super().__init__(python("consumer", str(counters), *source), core)
        self.scheme = scheme
        self.pids = (self.pid, *beside)  # of all that works for the queues
        address, port = json.loads(self.hear())
        self.address: str = address
        self.port: int = port

    def listen(self, slot: int) -> Target:
        """Make a queue, and return it; its path is the queue's name."""
        queue: str = json.loads(self._obey({"listen": slot}))
        url = f"{self.scheme}://{self.address}:{self.port}/{queue}"
        return Target(url, self.address, self.port, queue, tls=False, cafile=None)

    def forget(self, slot: int) -> None:
        """Nothing more is posted there, and nobody asks what arrived."""
        self._obey({"forget": slot})

    def due(self, slot: int) -> int:  # noqa: ARG002 - as ReceiverProcess
        """How many answers are not given yet: `report` waits for what is under way."""
        return 0

    def report(self, slot: int) -> Report:
        """Return what has come out of the slot's queue; ChildError when its consumer has failed."""
        report: Report = json.loads(self._obey({"report": slot}))
        return report

    def _obey(self, command: Command) -> str:
        return self.ask(json.dumps(command))


class Node(NamedTuple):
    """A running RabbitMQ."""

    port: int
    pid: int
    logs: tuple[Path, ...]


@contextmanager
def brokers(site: Site, counters: Path, core: int | None = None) -> Iterator[dict[Kind, Broker | str]]:
    """Run every broker on a core; in the place of one that cannot be run here, yield what is missing."""
    with ExitStack() as stack:
        started: dict[Kind, Broker | str] = {
            "RabbitMQ": lack_of_rabbitmq() or stack.enter_context(rabbitmq(site, counters, core)),
            "Kafka": lack_of("confluent_kafka") or stack.enter_context(kafka(counters, core)),
        }
        yield started


def lack_of(module: str) -> str:
    """Say that a module is missing; empty when it is not."""
    return "" if importlib.util.find_spec(module) else f"pip install {module.replace('_', '-')}"


def lack_of_rabbitmq() -> str:
    """Say what is missing; empty when nothing is."""
    return lack_of("pika") if rabbitmq_program() else RABBITMQ_INSTALL


def rabbitmq_program() -> str | None:
    """Return the path of what starts a node; None where there is none."""
    return shutil.which("rabbitmq-server", path=os.pathsep.join([*RABBITMQ_HOMES, os.environ.get("PATH", os.defpath)]))


@contextmanager
def kafka(counters: Path, core: int | None = None) -> Iterator[Broker]:
    """Run the mock broker, with its consumer in the same process."""
    with Broker("kafka", counters, ["kafka"], core) as broker:
        yield broker


@contextmanager
def rabbitmq(site: Site, counters: Path, core: int | None = None) -> Iterator[Broker]:
    """Run a RabbitMQ, and its consumer; ChildError where it is missing or does not start."""
    with ExitStack() as stack:
        with on_core(core):
            node = stack.enter_context(rabbitmq_node(site))
        source = ["rabbitmq", site.address, str(node.port)]
        yield stack.enter_context(Broker("amqp", counters, source, core, node.pid))


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Start processes there: with all their threads they stay on it."""
    if sys.platform != "linux" or core is None:
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


@contextmanager
def rabbitmq_node(site: Site, plugins: str = "", configuration: str = "[].", port: int | None = None) -> Iterator[Node]:
    """Run a RabbitMQ for the length of the block; on entry it accepts connections, at AMQP's port or at `port`.

    `plugins` is what its file enabled_plugins has between the brackets, `configuration` its advanced.config; modules in
    its folder are found. ChildError where it is missing or does not start.
    """
    program = rabbitmq_program()
    if program is None:
        raise ChildError(RABBITMQ_INSTALL)
    (site.folder / "enabled_plugins").write_text(f"[{plugins}].\n", encoding="utf-8")
    (site.folder / "advanced.config").write_text(configuration, encoding="utf-8")
    ports = {name: free_port() for name in ("epmd", "amqp", "nodes")}
    variables = [
        f"{name}={value.format(folder=site.folder, address=site.address, **ports)}"
        for name, value in RABBITMQ_ENVIRONMENT.items()
    ]
    mapper = [path_of("epmd"), "-address", site.address, "-port", str(ports["epmd"])]
    with (
        running(site, mapper, ports["epmd"], "epmd"),
        running(site, [path_of("env"), *variables, program], port or ports["amqp"], "rabbitmq") as made,
    ):
        yield Node(made.port, int((site.folder / "pid").read_text(encoding="ascii")), made.logs)
