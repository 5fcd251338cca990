"""Send an HTTP/1.1 POST without waiting for the answer, and know what arrived."""

from ._connection import Receipt, Timings
from ._errors import ConnectError, RawfnfError, RequestError, SendError
from ._origin import Origin
from ._pool import Stats
from ._post import post
from ._request import VERSION as __version__  # noqa: N811  # a constant there, and a package's dunder here
from ._request import Request
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
