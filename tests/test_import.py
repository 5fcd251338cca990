"""What `import rawfnf` brings in, and what it offers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rawfnf

ROOT = Path(rawfnf.__file__).parents[1]

FORBIDDEN = ["ssl", "asyncio", "json", "email", "http.client", "urllib.request", "logging"]


def in_a_fresh_interpreter(program: str) -> str:
    """Run a program that finds rawfnf, apart from this process and its environment; return what it prints."""
    start = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nbefore = set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-I", "-c", start + program], capture_output=True, timeout=30, check=True)
    assert done.stderr == b""
    return done.stdout.decode()


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return set(in_a_fresh_interpreter("import rawfnf\nprint(*(set(sys.modules) - before))").split())


@pytest.mark.parametrize("name", FORBIDDEN)
def test_importing_rawfnf_does_not_load(name: str, loaded: set[str]) -> None:
    assert "rawfnf._connection" in loaded
    assert [module for module in loaded if module == name or module.startswith(name + ".")] == []


def test_sender_and_probe_are_loaded_by_who_asks_for_them(loaded: set[str]) -> None:
    assert not {"rawfnf._sender", "rawfnf._probe", "rawfnf._advice"} & loaded
    program = "import rawfnf\nrawfnf.probe\nprint('rawfnf._probe' in sys.modules, 'ssl' in sys.modules)"
    assert in_a_fresh_interpreter(program) == "True False\n"


def test_importing_rawfnf_loads_the_standard_library_and_h11_only(loaded: set[str]) -> None:
    assert {module.partition(".")[0] for module in loaded} - sys.stdlib_module_names == {"h11", "rawfnf"}


def test_importing_rawfnf_starts_no_thread_and_opens_no_descriptor() -> None:
    program = """
import os, threading
def state():
    return threading.active_count(), os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
before = state()
import rawfnf
print(state() == before)
"""
    assert in_a_fresh_interpreter(program) == "True\n"


def test_encoding_bytes_loads_nothing_more() -> None:
    program = """
import rawfnf
before = set(sys.modules)
rawfnf.Request("http://127.0.0.1:8080/p?q", headers={"X-A": "1"}).encode(b"body")
print(sorted(set(sys.modules) - before))
"""
    assert in_a_fresh_interpreter(program) == "[]\n"


def test_all_is_what_is_there() -> None:
    assert len(rawfnf.__all__) == len(set(rawfnf.__all__))
    assert rawfnf.Sender is not None  # loaded on first use, as the next is
    assert rawfnf.probe is not None
    public = {
        name for name, value in vars(rawfnf).items() if not (name.startswith("_") or isinstance(value, ModuleType))
    }
    assert {*public, "__version__"} == set(rawfnf.__all__)


def test_a_star_import_brings_all_of_it() -> None:
    names = in_a_fresh_interpreter("from rawfnf import *\nprint(*dir())").split()
    assert set(rawfnf.__all__) <= set(names)


@pytest.mark.parametrize("name", sorted({*rawfnf.__all__} - {"__version__"}))
def test_a_public_name_is_documented(name: str) -> None:
    public = getattr(rawfnf, name)
    assert public.__doc__
    assert not public.__doc__.startswith(name + "(")  # as NamedTuples have it that say nothing
    assert public.__name__ == name


def test_the_version_is_the_one_that_the_package_is_built_with() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = settings.partition("[tool.hatch.version]\n")[2].partition("\n[")[0]
    path, pattern = (json.loads(line.partition(" = ")[2]) for line in section.split("\n") if line)
    found = re.search(pattern, (ROOT / path).read_text(encoding="utf-8"))
    assert found is not None
    assert found["version"] == rawfnf.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(a|b|rc|dev|post)\d+)*", rawfnf.__version__)
    assert b"\r\nUser-Agent: rawfnf/%b\r\n" % rawfnf.__version__.encode() in rawfnf.Request("http://h").encode()


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(rawfnf.__file__).parent / "py.typed").is_file()
