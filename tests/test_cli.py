"""The command line, as a user runs it: a process, its output, its exit status, and what the peer saw."""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import json
import os
import pty
import re
import socket
import subprocess
import sys
import textwrap
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rawfnf.cli import main
from tests.peers import TOO_LARGE, refusing_port

if TYPE_CHECKING:
    import trustme

    from tests.peers import Recorder, Talk

ROOT = Path(__file__).parent.parent
SECONDS = 30


def rawfnf(*arguments: str, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rawfnf", *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def sent(recorder: Recorder, *arguments: str, stdin: bytes = b"") -> Talk:
    """Post to the recorder, and return what it saw."""
    done = rawfnf("post", recorder.url, *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")
    talk = recorder.next()
    assert talk.whole
    return talk


def test_success_is_one_clear_line(recorder: Recorder) -> None:
    done = rawfnf("post", recorder.url, "--json", '{"a": 1}', "--closing", "answered")
    talk = recorder.next()
    host, port = recorder.address
    assert done.returncode == 0
    assert done.stdout.startswith(f"answered 204: {talk.raw_length} bytes to {host}:{port} in ")
    assert done.stdout.count("\n") == 1
    assert all(f"{phase} " in done.stdout for phase in ("connect", "send", "close"))
    assert "handshake" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "body", "content_type"),
    [
        ([], b"", None),
        (["-d", "a=b"], b"a=b", "application/x-www-form-urlencoded"),
        (["-d", "a=b", "-d", "c=d"], b"a=b&c=d", "application/x-www-form-urlencoded"),
        (["--data-binary", "a\n"], b"a\n", "application/x-www-form-urlencoded"),
        (["-d", "x", "-H", "Content-Type: text/plain"], b"x", "text/plain"),
        (["-d", "x", "-H", "Content-Type:"], b"x", None),
        (["--json", '{"a": 1}'], b'{"a": 1}', "application/json"),
        (["--json", '{"a":', "--json", "1}"], b'{"a":1}', "application/json"),
        (["-d", "--boundary"], b"--boundary", "application/x-www-form-urlencoded"),
        (["--data-binary", "-x=1"], b"-x=1", "application/x-www-form-urlencoded"),
        (["-d", "x", "-H", "Expect:", "-H", "Accept:"], b"x", "application/x-www-form-urlencoded"),
        (["-d", "\N{SNOWMAN}"], "\N{SNOWMAN}".encode(), "application/x-www-form-urlencoded"),
    ],
)
def test_data_is_what_curl_sends(
    recorder: Recorder, arguments: list[str], body: bytes, content_type: str | None
) -> None:
    talk = sent(recorder, *arguments)
    assert (bytes(talk.body), talk.header("Content-Type")) == (body, content_type)


@pytest.mark.parametrize(
    ("option", "body"),
    [("-d", b"one=1&two=2"), ("--data-binary", b"one=1\n&two=2\r\n"), ("--json", b"one=1\n&two=2\r\n")],
)
def test_a_file_and_standard_input_are_read_as_curl_reads_them(
    recorder: Recorder, tmp_path: Path, option: str, body: bytes
) -> None:
    content = b"one=1\n&two=2\r\n"
    (tmp_path / "data").write_bytes(content)
    assert bytes(sent(recorder, option, f"@{tmp_path / 'data'}").body) == body
    assert bytes(sent(recorder, option, "@-", stdin=content).body) == body


def test_a_large_file_keeps_its_length_and_a_large_pipe_is_chunked(recorder: Recorder, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(content)
    talk = sent(recorder, "--data-binary", f"@{tmp_path / 'data'}")
    assert (bytes(talk.body), talk.header("Content-Length")) == (content, "3000000")
    talk = sent(recorder, "--data-binary", "@-", stdin=content)
    assert (bytes(talk.body), talk.header("Transfer-Encoding")) == (content, "chunked")


def test_method_fields_and_credentials_arrive(recorder: Recorder) -> None:
    talk = sent(recorder, "-X", "PUT", "-H", "X-One: 1", "-H", "X-None;", "-u", "me:se:cret")
    assert talk.request is not None
    assert talk.request.method == b"PUT"
    assert (talk.header("X-One"), talk.header("X-None")) == ("1", "")
    assert talk.header("Authorization") == "Basic bWU6c2U6Y3JldA=="


def test_a_url_without_a_scheme_is_http(recorder: Recorder) -> None:
    host, port = recorder.address
    assert rawfnf("post", f"{host}:{port}/x").returncode == 0
    assert recorder.next().whole


def test_verbose_shows_the_bytes_with_credentials_masked(recorder: Recorder) -> None:
    url = recorder.url.replace("://", "://me:sesame@")
    done = rawfnf("post", url, "-v", "-d", "a=b", "-H", "Cookie: session=sesame")
    head = bytes(recorder.next().raw).split(b"\r\n\r\n")[0].decode()
    shown = [line.removeprefix("> ").rstrip() for line in done.stderr.splitlines()]
    assert "sesame" not in done.stderr + done.stdout
    assert "bWU6c2VzYW1l" not in done.stderr
    masked = [
        line if ":" not in line or line.split(":")[0] not in {"Authorization", "Cookie"} else None
        for line in head.split("\r\n")
    ]
    assert all(line is None or line in shown for line in masked)
    assert "Authorization: Basic ***" in shown
    assert shown[-1] == "a=b"


@pytest.mark.parametrize(
    "field", ["Authorization: sesame", "Authorization: sesame 2", "Cookie: sesame a=b", "X-Api-Key: sesame"]
)
def test_verbose_masks_whatever_may_be_a_credential(recorder: Recorder, field: str) -> None:
    done = rawfnf("post", recorder.url, "-v", "-H", field)
    assert f"> {field.partition(':')[0]}: ***" in done.stderr
    assert "sesame" not in done.stderr


def test_a_forgotten_colon_shows_no_credential() -> None:
    done = rawfnf("post", "http://127.0.0.1:9/", "-H", "Authorization Bearer sesame")
    assert (done.returncode, "sesame" in done.stderr) == (2, False)


def test_what_was_sent_exits_with_0_though_nobody_reads_the_output(recorder: Recorder) -> None:
    # A script that tries again on anything else would send twice.
    command = [sys.executable, "-m", "rawfnf", "post", recorder.url]
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, timeout=SECONDS, check=False)
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr[:16]) == (0, b"rawfnf: sent, bu")
    assert recorder.next().whole


def test_a_password_that_nobody_can_be_asked_for_is_a_bad_argument() -> None:
    command = [sys.executable, "-m", "rawfnf", "post", "http://127.0.0.1:9/", "-u", "me"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
        start_new_session=True,
    )
    assert (done.returncode, b"-u" in done.stderr, b"Traceback" in done.stderr) == (2, True, False)


def test_verbose_does_not_eat_a_stream(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(2_000_000))
    done = rawfnf("post", recorder.url, "-v", "--data-binary", f"@{tmp_path / 'data'}")
    assert "> Content-Length: 2000000" in done.stderr
    assert recorder.next().body_length == 2_000_000
    done = rawfnf("post", recorder.url, "-v", "--data-binary", "@-", stdin=bytes(2_000_000))
    assert "> Transfer-Encoding: chunked" in done.stderr
    assert recorder.next().body_length == 2_000_000


def test_write_out_json_tells_machines_the_receipt(recorder: Recorder) -> None:
    done = rawfnf("post", recorder.url, "-w", "json", "--closing", "answered")
    talk = recorder.next()
    told = json.loads(done.stdout)
    timings = told.pop("timings")
    assert told == {
        "delivery": "answered",
        "status": 204,
        "bytes_sent": talk.raw_length,
        "peer": list(recorder.address),
        "tls_version": None,
    }
    assert list(timings) == ["resolve", "connect", "handshake", "send", "close"]


def test_write_out_json_tells_machines_the_error() -> None:
    done = rawfnf("post", f"http://127.0.0.1:{refusing_port()}/", "-w", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_status"], told["error"], told["phase"]) == (7, 7, "ConnectError", "connect")
    assert told["errno"] == errno.ECONNREFUSED


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ftp://example.test/"], "ftp"),
        (["http://h:99999/"], "port"),
        (["http://h/", "-H", "nonsense"], "nonsense"),
        (["http://h/", "-H", "Content-Length: 3"], "Content-Length"),
        (["http://h/", "-H", "User-Agent:"], "User-Agent"),
        (["http://h/", "-d", "@/nowhere/at/all"], "/nowhere/at/all"),
        (["http://h/", "-d", "a", "--json", "{}"], "--json"),
        (["http://h/", "--closing", "later"], "later"),
        (["http://h/", "-m", "-1"], "timeout"),
        (["http://h/", "--linger", "-1"], "linger"),
        (["http://h/", "--connect-to", "nonsense"], "nonsense"),
        (["http://h/", "--interface", "eth0"], "eth0"),
        (["https://h/", "--cacert", "/nowhere/at/all"], "/nowhere/at/all"),
        (["https://h/", "--key", "/nowhere/at/all"], "--cert"),
        (["http://h/", "--no-such-option"], "--no-such-option"),
        ([], "URL"),
    ],
)
def test_bad_arguments_are_named_and_exit_with_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        sys.exit(main(["post", *arguments]))
    output = capsys.readouterr()
    assert left.value.code == 2
    assert named in output.err
    assert output.out == ""


def test_every_failure_has_curls_number() -> None:
    assert rawfnf("post", "http://nobody.invalid/").returncode == 6
    assert rawfnf("post", f"http://127.0.0.1:{refusing_port()}/").returncode == 7
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert rawfnf("post", f"https://127.0.0.1:{silent.getsockname()[1]}/", "-m", "0.2").returncode == 28


def test_a_port_without_tls_exits_with_35_and_an_untrusted_certificate_with_60(
    recorder: Recorder, tls_recorder: Recorder, authority: trustme.CA, tmp_path: Path
) -> None:
    def bad_request(talk: Talk) -> None:
        talk.receive()
        talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    recorder.script = bad_request
    done = rawfnf("post", recorder.url.replace("http:", "https:"))
    assert (done.returncode, "is it http://?" in done.stderr) == (35, True)
    done = rawfnf("post", tls_recorder.url)
    assert (done.returncode, "--cacert" in done.stderr) == (60, True)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert rawfnf("post", tls_recorder.url, "--cacert", str(tmp_path / "ca.pem")).returncode == 0
    assert rawfnf("post", tls_recorder.url, "-k").returncode == 0


def test_connect_to_and_the_unix_socket_are_connected_to(recorder: Recorder, unix_recorder: Recorder) -> None:
    host, port = recorder.address
    done = rawfnf("post", "http://example.test/", "--connect-to", f"example.test:80:{host}:{port}")
    assert (done.returncode, recorder.next().header("Host")) == (0, "example.test")
    done = rawfnf("post", "http://example.test/", "--unix-socket", str(unix_recorder.address))
    assert (done.returncode, unix_recorder.next().header("Host")) == (0, "example.test")


def test_an_early_answer_is_told(recorder: Recorder, tmp_path: Path) -> None:
    def too_large(talk: Talk) -> None:
        talk.receive_head()
        talk.send(TOO_LARGE)

    recorder.script = too_large
    with (tmp_path / "big").open("wb") as file:
        file.truncate(300_000_000)
    done = rawfnf("post", recorder.url, "--data-binary", f"@{tmp_path / 'big'}", "--closing", "answered")
    assert (done.returncode, done.stdout[:13]) == (0, "answered 413:")


def shown_on_a_terminal(*arguments: str) -> bytes:
    """Return what the terminal got that standard error is."""
    if sys.platform == "win32":
        pytest.skip("Windows has no pseudo-terminals")
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: the last holder of the other side has closed it
            while True:
                shown.extend(os.read(ours, 4096))

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "rawfnf", *arguments]
    done = subprocess.run(command, cwd=ROOT, stderr=theirs, stdout=subprocess.DEVNULL, timeout=SECONDS, check=False)
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert done.returncode == 0
    return bytes(shown)


def test_a_large_body_shows_its_progress_on_a_terminal(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(8_000_000))
    shown = shown_on_a_terminal("post", recorder.url, "--data-binary", f"@{tmp_path / 'data'}")
    assert b"% of 7.6 MiB" in shown
    assert shown.endswith(b"\r\x1b[K")


@pytest.mark.parametrize(
    ("arguments", "examples"),
    [
        (["--help"], ["rawfnf post http", "rawfnf probe http"]),
        (["post", "--help"], ["rawfnf post http"]),
        (["probe", "--help"], ["rawfnf probe http", "for real"]),
    ],
)
def test_help_explains_itself_with_examples(arguments: list[str], examples: list[str]) -> None:
    done = rawfnf(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert [example for example in examples if example not in done.stdout] == []


@pytest.mark.parametrize("command", [[], ["post"], ["probe"]])
def test_help_fits_80_columns(command: list[str]) -> None:
    help_ = rawfnf(*command, "--help", COLUMNS="80").stdout
    assert [line for line in help_.splitlines() if len(line) > 80] == []
    assert re.search(r"METHOD\n? +such as PUT", help_) or not command


def test_who_gives_no_command_is_helped(recorder: Recorder) -> None:
    done = rawfnf()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == rawfnf("--help").stdout
    done = rawfnf("--no-such-option")
    assert (done.returncode, "--no-such-option" in done.stderr) == (2, True)


# --- probe ----------------------------------------------------------------------------------------------------------


def test_a_probe_says_what_it_will_send_before_it_sends(recorder: Recorder) -> None:
    asked = threading.Event()

    def waits(talk: Talk) -> None:
        talk.receive_request()
        asked.wait(SECONDS)
        talk.send(TOO_LARGE)

    recorder.script = waits
    command = [sys.executable, "-m", "rawfnf", "probe", recorder.url, "-d", "a=b", "--attempts", "7"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            where, said = process.stderr.readline(), process.stderr.readline()
        finally:
            asked.set()
        output, _ = process.communicate(timeout=SECONDS)
    assert "up to 22 real requests: 7 with each closing, one beside idle connections\n" in said
    assert where == f"rawfnf: sending {recorder.url}\n"
    assert process.returncode == 0
    assert "413: the body is too large" in output


def test_a_probe_tells_people(recorder: Recorder) -> None:
    done = rawfnf("probe", recorder.url, "--json", "{}", "--attempts", "2", "--idle", "0.1")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr.count("\n")) == (0, 2)
    assert [line for line in done.stderr.splitlines() if len(line) > 80] == []
    assert lines[0] == recorder.url
    assert "answer      204: accepted" in lines
    assert any(line.startswith("idle        2 connections kept for ") for line in lines)
    assert any(line.startswith("  now       accepted 2 of 2 in ") for line in lines)
    fields = 'headers={"Content-Type": "application/json", "Accept": "application/json"}'
    assert f'    sender = rawfnf.Sender("{recorder.url}", closing="answered", {fields}, spares=2)' in lines
    assert [bytes(talk.body) for talk in (recorder.next() for _ in range(9)) if talk.raw_length] == [b"{}"] * 7


def test_a_probe_tells_machines(tls_recorder: Recorder, cafile: Path) -> None:
    done = rawfnf("probe", tls_recorder.url, "-w", "json", "--cacert", str(cafile), "--attempts", "1", "--idle", "0")
    told = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (done.returncode, told["status"], told["url"]) == (0, 204, tls_recorder.url)
    assert (told["address"], told["addresses"]) == (list(tls_recorder.address), [list(tls_recorder.address)])
    assert told["tls"]["version"] == tls_recorder.next().tls_version
    assert datetime.fromisoformat(told["tls"]["not_after"]).utcoffset() == timedelta(0)
    assert [told[way]["statuses"] for way in ("answered", "now", "acked")] == [{"204": 1}] * 3
    assert told["idle"] is None


def test_a_probe_shows_on_a_terminal_what_it_asks(recorder: Recorder) -> None:
    shown = shown_on_a_terminal("probe", recorder.url, "--attempts", "2", "--idle", "0.1")
    asked = [
        line.removesuffix(b"\x1b[K") for line in shown.split(b"\r")[3:]
    ]  # behind the two lines of the announcement
    ways = [
        b'asking: closing="%b", request %d of 2' % (way, n) for way in (b"answered", b"now", b"acked") for n in (1, 2)
    ]
    assert asked == [*ways, b"asking: 2 idle connections, for 0.1 s", b""]


@pytest.mark.parametrize("trust", ["--cacert", "-k"])
def test_what_a_probe_recommends_over_tls_runs_as_it_stands(
    tls_recorder: Recorder, cafile: Path, authority: trustme.CA, tmp_path: Path, trust: str
) -> None:
    certificate = authority.issue_cert("client.test")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    client = ["--cert", str(tmp_path / "certificate.pem"), "--key", str(tmp_path / "key.pem")]
    trusting = ["--cacert", str(cafile)] if trust == "--cacert" else ["-k"]
    done = rawfnf("probe", tls_recorder.url, *trusting, *client, "--attempts", "1", "--idle", "0")
    _, _, recommended = done.stdout.partition("\nSafe:\n")
    code = "".join(itertools.takewhile(lambda line: line.startswith("    "), recommended.splitlines(keepends=True)))
    assert "load_cert_chain" in code
    assert ("trusts anybody" in code) == (trust == "-k")
    names: dict[str, Any] = {"rawfnf": importlib.import_module("rawfnf")}
    exec(textwrap.dedent(code), names)
    with names["sender"] as sender:
        assert sender.post(b"a body")
        assert sender.flush(SECONDS)
    assert sender.stats.answered == {204: 1}


def test_a_probe_that_cannot_ask_exits_with_curls_number(tls_recorder: Recorder) -> None:
    done = rawfnf("probe", f"http://127.0.0.1:{refusing_port()}/", "-w", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_status"], told["phase"]) == (7, 7, "connect")
    assert rawfnf("probe", "http://nobody.invalid/").returncode == 6
    assert rawfnf("probe", tls_recorder.url).returncode == 60


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ftp://example.test/"], "ftp"),
        (["http://h/", "--attempts", "0"], "attempts"),
        (["http://h/", "--attempts", "some"], "--attempts"),
        (["http://h/", "--idle", "-1"], "idle"),
        (["http://h/", "--closing", "now"], "--closing"),
    ],
)
def test_a_probe_with_bad_arguments_announces_nothing(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        sys.exit(main(["probe", *arguments]))
    output = capsys.readouterr()
    assert (left.value.code, named in output.err, "real requests" in output.err) == (2, True, False)


def test_a_probe_shows_no_credential(recorder: Recorder) -> None:
    url = recorder.url.replace("://", "://me:sesame@") + "?key=sesame"
    done = rawfnf("probe", url, "-v", "-H", "X-Api-Key: sesame", "--attempts", "1", "--idle", "0")
    assert done.returncode == 0
    assert "> POST /?key=" in done.stderr  # -v shows the request target, as curl does
    assert "sesame" not in done.stdout + done.stderr.replace("> POST /?key=sesame", "")
