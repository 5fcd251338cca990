"""A certificate authority for one run, and the receiver's certificate, by trustme."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Certificates(NamedTuple):
    """Files in PEM format."""

    authority: Path  # what clients trust
    server: Path  # key and chain


def issue(folder: Path, *addresses: str) -> Certificates:
    """Write fresh certificates for these addresses into `folder`."""
    import trustme  # needed by TLS scenarios only, and takes a while to import

    made = Certificates(folder / "authority.pem", folder / "server.pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(made.authority))
    authority.issue_cert(*addresses).private_key_and_cert_chain_pem.write_to_path(str(made.server))
    return made
