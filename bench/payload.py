"""What is posted: a reading whose id differs in every post, so that no two bodies have the same hash."""

from __future__ import annotations

import json
from typing import Literal, TypeAlias, TypedDict
from urllib.parse import urlencode

Payload = dict[str, str]
# How it is posted: json={...}, data={...}, or data=b"..." of so many bytes, its number in front.
Kind: TypeAlias = Literal["json", "form"] | int


class Body(TypedDict, total=False):
    """The payload under the keyword that rawfnf and requests share: exactly one of the two is set."""

    json: Payload
    data: Payload | bytes


def payload(number: int) -> Payload:
    """Return the payload of post `number`: 100 bytes as compact JSON."""
    return {
        "device": "boiler-07",
        "id": f"{number:010d}",
        "celsius": "71.25",
        "note": "counted and hashed on the server",
    }


def body(number: int, kind: Kind) -> Body:
    """Return the payload of post `number` as keyword argument of a post function."""
    if kind == "json":
        return {"json": payload(number)}
    return {"data": payload(number) if kind == "form" else sized(number, kind)}


def form_encoded(content: Payload) -> bytes:
    """Return the bytes of `data={...}`, as requests and rawfnf encode it."""
    return urlencode(content).encode()


def compact_json(content: Payload) -> bytes:
    """Return the bytes of `json={...}` as rawfnf encodes it."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def spaced_json(content: Payload) -> bytes:
    """Return the bytes of `json={...}` as requests encodes it: json.dumps with its default separators."""
    return json.dumps(content).encode()


def sized(number: int, size: int) -> bytes:
    """Return so many bytes, ten at least, that no other number has."""
    return b"%010d" % number + bytes(size - 10)
