"""Send an HTTP/1.1 POST without waiting for the answer, and know what arrived."""

import typing

from ._connection import Receipt, Timings
from ._errors import ConnectError, RawfnfError, RequestError, SendError
from ._origin import Origin
from ._post import post
from ._request import VERSION as __version__  # noqa: N811  # a constant there, and a package's dunder here
from ._request import Request

if typing.TYPE_CHECKING:
    from ._pool import Stats
    from ._sender import Sender

__all__ = [
    "ConnectError",
    "Origin",
    "RawfnfError",
    "Receipt",
    "Request",
    "RequestError",
    "SendError",
    "Sender",
    "Stats",
    "Timings",
    "__version__",
    "post",
]


def __getattr__(name: str) -> object:
    """Load Sender on first use: with it, importing rawfnf would take a millisecond more of those who only post()."""
    if name not in {"Sender", "Stats"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _pool, _sender

    globals().update(Sender=_sender.Sender, Stats=_pool.Stats)
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name not in __all__)]
