"""What is shipped: the wheel and the sdist, what they hold and say of themselves, and that they work with h11 alone."""

from __future__ import annotations

import email
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rawfnf
from tests.peers import PATIENCE, Recorder

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parent.parent
NAME = f"rawfnf-{rawfnf.__version__}"
MODULES = sorted(file.stem for file in (ROOT / "rawfnf").glob("[!_]*.py"))


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program apart from this repository, to its end."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=5 * PATIENCE,  # it may collect all tests
        check=False,
    )


def output_of(*command: object, cwd: Path | None = None) -> str:
    """Run a program that is to succeed, and to complain of nothing; return what it prints."""
    done = run(*command, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def files_of(*directories: str) -> set[str]:
    """Return the files of these directories of the repository, without what running them makes."""
    files = (file.relative_to(ROOT) for top in directories for file in (ROOT / top).rglob("*") if file.is_file())
    return {file.as_posix() for file in files if "__pycache__" not in file.parts}


# --- building -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the wheel and the sdist, as `python -m build` makes them from this tree."""
    made = tmp_path_factory.mktemp("dist")
    # Without isolation: what it needs is installed, and no test needs a network.
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, ROOT)
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    assert [line for line in lines if not line.startswith(("* ", "Successfully built "))] == [], "warnings"
    return made


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return dist / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    return dist / f"{NAME}.tar.gz"


def test_a_build_makes_a_wheel_for_every_python_and_an_sdist(dist: Path, wheel: Path, sdist: Path) -> None:
    assert set(dist.iterdir()) == {wheel, sdist}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    info = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    with zipfile.ZipFile(wheel) as packed:
        assert set(packed.namelist()) == files_of("rawfnf") | info
        assert packed.read("rawfnf/py.typed") == b""


@pytest.mark.xfail(
    strict=True,
    reason="it has 113 kB: its modules are 96 kB deflated, and 59 kB without comments and docstrings",
)
def test_the_wheel_is_under_40_kB(wheel: Path) -> None:  # noqa: N802  # a unit has its own spelling
    assert wheel.stat().st_size < 40_000


def test_the_sdist_holds_its_tests_and_they_find_all_they_need(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as packed:
        for member in packed:
            content = packed.extractfile(member)
            assert content is not None, "a plain file"
            file = tmp_path / member.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read())
    unpacked = tmp_path / NAME
    found = {file.relative_to(unpacked).as_posix() for file in unpacked.rglob("*") if file.is_file()}
    beside = {"PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert found == files_of("rawfnf", "tests", "bench") | beside
    # Every file is collected, and so imported; the one test that is run reads a file which is no module.
    alone = ("-p", "no:cacheprovider", "-n", "0", "-k", "the_version_is_the_one_that_the_package_is_built_with")
    assert "\n1 passed, " in output_of(sys.executable, "-m", "pytest", *alone, cwd=unpacked)


# --- what it says of itself -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as packed:
        return email.message_from_string(packed.read(f"{NAME}.dist-info/METADATA").decode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Name", "rawfnf"),
        ("Version", rawfnf.__version__),
        ("License-Expression", "MIT"),
        ("Requires-Python", ">=3.10"),
        ("Description-Content-Type", "text/markdown"),
        ("Summary", "Send an HTTP/1.1 POST without waiting for the answer, and know what arrived"),
        ("Project-URL", None),  # none is known
        ("Home-page", None),
        ("Download-URL", None),
    ],
)
def test_the_metadata_say(metadata: Message, field: str, value: str | None) -> None:
    assert metadata[field] == value


def test_h11_is_all_that_is_required(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist", [])
    assert [line for line in required if "extra ==" not in line] == ["h11<1,>=0.16"]
    assert set(metadata.get_all("Provides-Extra", [])) == {"bench", "idna", "lint", "test"}


def test_the_description_is_the_readme(metadata: Message) -> None:
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_classifiers_tell_for_whom_it_is(metadata: Message) -> None:
    told = metadata.get_all("Classifier", [])
    assert len(told) == len(set(told))
    assert set(told) >= {
        "Framework :: AsyncIO",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Internet :: WWW/HTTP",
        "Typing :: Typed",
    }
    assert [line for line in told if line.startswith("License ::")] == []  # License-Expression says it (PEP 639)


def test_the_program_is_declared_and_the_wheel_is_pure(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        assert packed.read(f"{NAME}.dist-info/entry_points.txt") == b"[console_scripts]\nrawfnf = rawfnf.cli:main\n"
        told = email.message_from_string(packed.read(f"{NAME}.dist-info/WHEEL").decode())
    assert (told["Root-Is-Purelib"], told.get_all("Tag")) == ("true", ["py3-none-any"])


# --- installed ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of programs of a fresh environment, which has the wheel, h11 and pip."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=True)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    packages = Path(output_of(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")[:-1])
    for file in importlib.metadata.files("h11") or ():  # a copy of ours, since no test needs a network
        copy = packages / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_binary())
    pip = (programs / "python", "-m", "pip", "--isolated", "--disable-pip-version-check")
    output_of(*pip, "install", "-q", "--no-index", wheel)
    listed = output_of(*pip, "list", "--format=freeze").split()
    assert {line.partition("==")[0] for line in listed} - {"pip", "setuptools"} == {"h11", "rawfnf"}
    return programs


def test_the_installed_program_tells_its_version(programs: Path, tmp_path: Path) -> None:
    told = f"rawfnf {rawfnf.__version__}\n"
    assert output_of(programs / "rawfnf", "--version", cwd=tmp_path) == told
    assert output_of(programs / "python", "-m", "rawfnf", "--version", cwd=tmp_path) == told


@pytest.mark.parametrize("command", ["post", "probe"])
def test_the_installed_programs_help_has_an_example_of_every_command(
    programs: Path, tmp_path: Path, command: str
) -> None:
    _, examples = output_of(programs / "rawfnf", "--help", cwd=tmp_path).split("\nexamples:\n")
    assert f"rawfnf {command} http" in examples


def test_the_installed_program_posts(programs: Path, peer: Recorder, cafile: Path, tmp_path: Path) -> None:
    trust = ("--cacert", cafile) if peer.options else ()
    command = (programs / "rawfnf", "post", peer.url, "--json", '{"a": 1}', "--closing", "answered", *trust)
    assert output_of(*command, cwd=tmp_path).startswith("answered 204: ")
    talk = peer.next()
    assert (bytes(talk.body), talk.header("Content-Type")) == (b'{"a": 1}', "application/json")
    assert (talk.whole, talk.end, talk.close_notify) == (True, "FIN", bool(peer.options))


def test_these_modules_are_public() -> None:
    assert MODULES == ["aio", "cli", "handler"]


@pytest.mark.parametrize("module", ["rawfnf", *(f"rawfnf.{name}" for name in MODULES)])
def test_an_installed_module_loads_with_h11_alone(programs: Path, tmp_path: Path, module: str) -> None:
    where = f"import {module}; print({module}.__file__)"
    told = output_of(programs / "python", "-I", "-X", "dev", "-W", "error", "-c", where, cwd=tmp_path)
    assert Path(told[:-1]).is_relative_to(programs.parent)
