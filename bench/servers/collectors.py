"""What people post measurements to: each is asked itself what it has."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from bench.brokers import rabbitmq_node
from bench.formats import FIRST_NS
from bench.processes import PATIENCE, ChildError
from bench.servers.base import Running, Server, Site, find, free_port, path_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator

# How many lines of each post there are; asked about the two hours around the fixed time that they bear.
STORED = "sum(count_over_time(readings_value[2h])) by (post, of)"
STORED_AT = FIRST_NS // 10**9 + 3600
# A series of the Pushgateway; what it says of each metric besides, it says under other names.
PUSHED = re.compile(rb'^readings_(?P<post>\d+)\{[^}]*\bof="(?P<of>\d+)"', re.MULTILINE)

# RabbitMQ's queue, and how many digits of a message are its number.
QUEUE, NUMBER = "/api/queues/%2F/readings", 13
# Its HTTP API wants Basic authentication, and no setting lets it do without: this adds guest:guest to all requests.
EVERYBODY = """\
-module(everybody).
-export([execute/2]).
execute(Request = #{headers := Fields}, Environment) ->
    {ok, Request#{headers := Fields#{<<"authorization">> => <<"Basic Z3Vlc3Q6Z3Vlc3Q=">>}}, Environment}.
"""


@contextmanager
def victoria_metrics(site: Site) -> Iterator[Running]:
    """Run a VictoriaMetrics that keeps what is older than a month as well: what is posted bears a fixed time."""
    port = free_port()
    command = [
        path_of("victoria-metrics"),
        f"-httpListenAddr={site.address}:{port}",
        f"-storageDataPath={site.folder / 'data'}",
        "-retentionPeriod=100y",
    ]
    with running(site, command, port, "victoria-metrics") as it:
        yield it._replace(arrived=lambda: stored(site, port))


def stored(site: Site, port: int) -> dict[int, int]:
    """Return which posts a VictoriaMetrics has whole, and how often."""
    ask(site, port, "/internal/force_flush")  # what it has taken in is found a second later otherwise
    query = urlencode({"query": STORED, "time": STORED_AT, "nocache": 1})
    answer = json.loads(ask(site, port, f"/api/v1/query?{query}"))
    return {
        int(series["metric"]["post"]): times
        for series in answer["data"]["result"]
        if (times := int(series["value"][1]) // int(series["metric"]["of"]))
    }


@contextmanager
def pushgateway(site: Site) -> Iterator[Running]:
    """Run a Pushgateway that keeps what is pushed in memory, as its own default is, and says why it refuses some."""
    port = free_port()
    command = [
        path_of("prometheus-pushgateway"),
        f"--web.listen-address={site.address}:{port}",
        f"--web.config.file={web_configuration(site)}",
        "--persistence.file=",
        "--log.level=debug",
    ]
    with running(site, command, port, "pushgateway") as it:
        yield it._replace(arrived=lambda: pushed(site, port))


def web_configuration(site: Site) -> str:
    """Return the path of a file that makes it speak one version of TLS; empty: plain TCP needs none."""
    if site.tls is None:
        return ""
    version = f"TLS{site.tls.replace('.', '')}"
    own = site.certificates.server
    file = site.folder / "web.yml"
    settings = {"cert_file": str(own), "key_file": str(own), "min_version": version, "max_version": version}
    file.write_text(json.dumps({"tls_server_config": settings}), encoding="utf-8")  # JSON is YAML
    return str(file)


def pushed(site: Site, port: int) -> dict[int, int]:
    """Return which posts a Pushgateway has whole. One that came twice has replaced itself: it counts once."""
    found = Counter((int(post), int(of)) for post, of in PUSHED.findall(ask(site, port, "/metrics")))
    return dict.fromkeys((post for (post, of), lines in found.items() if lines == of), 1)


@contextmanager
def rabbitmq_http(site: Site) -> Iterator[Running]:
    """Run a RabbitMQ whose HTTP API takes everybody for its user guest: not every contender can log in."""
    port = free_port()
    (site.folder / "everybody.erl").write_text(EVERYBODY, encoding="utf-8")
    compiler = [path_of("erlc"), "everybody.erl"]
    subprocess.run(compiler, cwd=site.folder, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)  # noqa: S603 - ours
    found = Counter[int]()

    def arrived() -> dict[int, int]:
        found.update(taken_out(site, port))
        return dict(found)

    with rabbitmq_node(site, "rabbitmq_management", listener(site, port), port) as node:
        ask(site, port, QUEUE, "PUT", b'{"durable":true}')
        yield Running(port, node.logs, arrived)


def listener(site: Site, port: int) -> str:
    """Return what makes RabbitMQ's HTTP API listen there, in Erlang's terms."""
    kind, tls = "tcp_config", ""
    if site.tls:
        own = site.certificates.server
        kind, tls = "ssl_config", f'{{certfile, "{own}"}}, {{keyfile, "{own}"}}, {{versions, [\'tlsv{site.tls}\']}}, '
    middlewares = "everybody, rabbit_cowboy_middleware, cowboy_router, cowboy_handler"
    options = f'{{ip, "{site.address}"}}, {{port, {port}}}, {tls}{{cowboy_opts, [{{middlewares, [{middlewares}]}}]}}'
    return f"[{{rabbitmq_management, [{{{kind}, [{options}]}}]}}].\n"


def taken_out(site: Site, port: int) -> list[int]:
    """Take everything out of RabbitMQ's queue; returns the posts' numbers."""
    what = {"count": 1_000_000, "ackmode": "ack_requeue_false", "encoding": "auto", "truncate": NUMBER}
    messages = json.loads(ask(site, port, f"{QUEUE}/get", "POST", json.dumps(what).encode()))
    return [int(message["payload"]) for message in messages]


def ask(site: Site, port: int, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """Return what a collector answers; ChildError when its status is no success."""
    connection = http.client.HTTPConnection(site.address, port, timeout=PATIENCE)
    if site.tls:
        context = ssl.create_default_context(cafile=str(site.certificates.authority))
        connection = http.client.HTTPSConnection(site.address, port, timeout=PATIENCE, context=context)
    try:
        with site.entered():
            connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ChildError(f"{method} {path} failed: {error!r}") from error
    finally:
        connection.close()
    if answer.status // 100 != 2:
        raise ChildError(f"{method} {path} was answered {answer.status}: {content[:200]!r}")
    return content


def version_of(package: str) -> str:
    """Return the version of a Debian package; empty elsewhere. What these programs say of themselves can be nothing."""
    query = find("dpkg-query")
    if query is None:
        return ""
    command = [query, "--show", "--showformat=${Version}", package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603 - ours
    return done.stdout


COLLECTORS: tuple[Server, ...] = (
    Server(
        "VictoriaMetrics",
        "VictoriaMetrics, InfluxDB's line protocol; keeps data for 100 years",
        "collector",
        victoria_metrics,
        tls=False,  # it cannot be told to speak one version alone
        programs=("victoria-metrics",),
        install="Debian's package victoria-metrics",
        version=lambda: version_of("victoria-metrics"),
        path="/write",
        form="influx",
        sizes=(100, 64 << 10, 1 << 20),
    ),
    Server(
        "Pushgateway",
        "Prometheus Pushgateway, in memory, log level debug",
        "collector",
        pushgateway,
        programs=("prometheus-pushgateway",),
        install="Debian's package prometheus-pushgateway",
        version=lambda: version_of("prometheus-pushgateway"),
        path="/metrics/job/bench",
        form="prometheus",
        sizes=(100, 64 << 10),
    ),
    Server(
        "RabbitMQ HTTP",
        "RabbitMQ's management plugin, publish by HTTP; takes everybody for its user guest",
        "collector",
        rabbitmq_http,
        programs=("rabbitmq-server", "epmd", "erlc"),
        install="Debian's package rabbitmq-server",
        version=lambda: version_of("rabbitmq-server"),
        path="/api/exchanges/%2F/amq.default/publish",
        form="rabbitmq",
        sizes=(100, 64 << 10, 1 << 20),
    ),
)
