"""A server's TLS context for exactly one version of TLS."""

from __future__ import annotations

import ssl

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def restrict(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    """Let this context take one version alone, and return it."""
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def from_arguments(arguments: list[str]) -> ssl.SSLContext | None:
    """Return the context for a command line's rest: version and certificate; None when there is no rest."""
    if not arguments:
        return None
    version, certificate = arguments
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return restrict(context, version)
