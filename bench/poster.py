"""One contender in a process of its own that posts wherever it is told to: what the delivery matrix is measured with.

`python -m bench.poster CONTENDER`. It says `ready`, then answers each `Order`, a line of JSON on standard input, with
one line of JSON, a `Posted`, and ends with standard input, and with its parent. For each order the contender makes its
preparations anew; in the end it is given the time to finish what it began, and lets go of everything. The process
lives on, as an application's does: that nothing is lost by exiting too early is the application's affair.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from . import loopworker, worker
from .contenders import KNOWN
from .descriptors import allow_many_descriptors
from .formats import content
from .ways import AsyncWay, Target, Way
from .worker import Timed

if TYPE_CHECKING:
    from .contenders import Contender
    from .payload import Body
    from .ways import AsyncBooks, Books


class Planned(NamedTuple):
    """One post of an order."""

    number: int
    size: int  # of the body, in bytes
    apart_ns: int  # until the next post is due, whatever becomes of this one


class Order(NamedTuple):
    """What is to be posted, and where to."""

    target: Target
    form: str  # of the bodies, see formats.py
    posts: list[Planned]

    def to_json(self) -> str:
        """As a line."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, line: str) -> Order:
        """Undo to_json."""
        target, form, posts = json.loads(line)
        return cls(Target(*target), form, [Planned(*each) for each in posts])


class Posted(TypedDict):
    """What came of an order."""

    ns: list[int]  # one per post: how long it held its caller
    errors: dict[str, str]  # by the index of the post
    answered: int  # posts of which the contender says that the server took them: answered, status 2xx
    note: str  # what went wrong, if not with one post alone


def body_of(post: Planned, form: str) -> Body:
    """Return what the contender is given."""
    return {"data": content(post.number, post.size, form)}


def posted(made: list[Timed], books: Books | AsyncBooks | None, note: str = "") -> Posted:
    """Put it together; what a contender that ends badly has posted, has been posted."""
    return Posted(
        ns=[each.ns for each in made],
        errors={str(index): each.error for index, each in enumerate(made) if each.error},
        answered=accepted(books) if books else sum(each.claim == "answered" and taken(each.status) for each in made),
        note=note,
    )


def accepted(books: Books | AsyncBooks) -> int:
    """Return how many were answered 2xx."""
    return sum(times for status, times in books.stats.answered.items() if taken(status))


def taken(status: int | None) -> bool:
    """Whether an answer says that the server has taken the request."""
    return status is not None and status // 100 == 2


def carry_out(contender: Contender, order: Order) -> Posted:
    """Post, each when it is due, and let the contender finish."""
    made = contender.make(order.target) if contender.make else None
    if made is None or isinstance(made, Awaitable):
        raise TypeError(f"{contender.name} is no plain function")
    way = made if isinstance(made, Way) else Way(made)
    found = list[Timed]()
    try:
        due = time.perf_counter_ns()
        for post in order.posts:
            way.between()
            worker.wait_until(due)
            found.append(worker.timed(way.post, body_of(post, order.form)))
            due += post.apart_ns
        worker.settle(way)
        way.close()
    except Exception as failure:  # noqa: BLE001 - as in worker.timed(): it is a result, and shown
        return posted(found, way.sender, told(failure))
    return posted(found, way.sender)


async def carry_out_in_loop(contender: Contender, order: Order) -> Posted:
    """Do the same from a running event loop."""
    made = contender.make(order.target) if contender.make else None
    if not isinstance(made, Awaitable):
        raise TypeError(f"{contender.name} knows nothing of event loops")
    way: AsyncWay = await made
    found = list[Timed]()
    try:
        due = time.perf_counter_ns()
        for post in order.posts:
            await asyncio.sleep(max(0, due - time.perf_counter_ns()) / 1e9)
            found.append(await loopworker.timed(way.post, body_of(post, order.form)))
            due += post.apart_ns
        if way.sender is not None:
            await way.sender.flush()
        await way.finish()
        await way.close()
    except Exception as failure:  # noqa: BLE001 - as above
        return posted(found, way.sender, told(failure))
    return posted(found, way.sender)


def told(failure: Exception) -> str:
    """Return what a contender raised where nothing of it is expected."""
    return f"{type(failure).__name__}: {failure}"


def obey(contender: Contender, order: Order) -> Posted:
    """Carry out one order, in the contender's kind of loop if it needs one."""
    try:
        if not contender.loop:
            return carry_out(contender, order)
        loop = loopworker.new_loop(contender.loop)
        try:
            return loop.run_until_complete(carry_out_in_loop(contender, order))
        finally:
            loop.close()
    except Exception as failure:  # noqa: BLE001 - as above: it could not even make its preparations
        return posted([], None, told(failure))


def main() -> None:
    """Post on demand."""
    worker.end_with_parent()
    allow_many_descriptors()
    contender = KNOWN[sys.argv[1]]
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(contender, Order.from_json(line))), flush=True)


if __name__ == "__main__":
    main()
