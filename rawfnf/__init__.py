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
    from ._probe import Probe, probe
    from ._sender import Sender

__all__ = [
    "ConnectError",
    "Origin",
    "Probe",
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
    "probe",
]


def __getattr__(name: str) -> object:
    """Load Sender and probe on first use: with them importing rawfnf would take milliseconds more of who only posts."""
    if name in {"Sender", "Stats"}:
        from . import _pool, _sender

        globals().update(Sender=_sender.Sender, Stats=_pool.Stats)
    elif name in {"Probe", "probe"}:
        from . import _probe

        globals().update(Probe=_probe.Probe, probe=_probe.probe)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name not in __all__)]
