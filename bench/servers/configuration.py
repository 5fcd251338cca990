"""Writes a server's configuration by its template in configurations/, for one row of the matrix.

A template is a configuration as its server reads it, but for ${names} in place of values, and for lines that are there
in some rows only: these begin with `#WORD: `, or `;WORD: ` where that makes a comment, and are lines in a row that has
chosen the WORD.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.servers.base import Site

TEMPLATES = Path(__file__).parent / "configurations"


def write(site: Site, template: str, *chosen: str, **values: object) -> Path:
    """Write it into the site's folder, and return where.

    Every row has chosen `tls` or `plain`. Every template may name the site's ${address}, ${folder}, ${certificate} and
    its ${version} of TLS.
    """
    words = {*chosen, "tls" if site.tls else "plain"}
    site_values = {
        "address": site.address,
        "folder": site.folder,
        "certificate": site.certificates.server,
        "version": site.tls or "",
    }
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    for word in words:
        text = re.sub(rf"^( *)[#;]{word}: ", r"\1", text, flags=re.MULTILINE)
    path = site.folder / template
    path.write_text(Template(text).substitute(site_values | values), encoding="utf-8")
    return path
