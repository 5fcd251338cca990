"""A few posts by one contender, for strace to watch: each between two calls that mark it and do nothing.

`python -m bench.traced ASSIGNMENT`, where the assignment is a worker's. Each post finds the receiver asleep, and its
contender with nothing left to do, as a worker's posts do. One that posts from an event loop is marked around its await:
what the loop does meanwhile, in the same thread, is its post's.
"""

from __future__ import annotations

import os
import sys

from . import loopworker
from .contenders import KNOWN
from .payload import body
from .worker import Assignment, end_with_parent, pace_of, prepare, prepared, settle

POSTS = 12
# Files that do not exist, and are asked for: access() returns an error, which nobody heeds.
BEGIN, END = "bench: a post begins", "bench: a post has ended"


def call(assignment: Assignment) -> None:
    """Post from a plain caller."""
    way = prepared(assignment)
    pace = pace_of(assignment)
    for number in range(POSTS):
        content = body(number, assignment.kind)
        prepare(way, pace)
        os.access(BEGIN, os.F_OK)
        way.post(content)
        os.access(END, os.F_OK)
        if pace:
            pace.unsettled()
        settle(way)
    way.close()


async def call_in_loop(assignment: Assignment) -> None:
    """Post from a running event loop."""
    way = await loopworker.prepared(assignment)
    pace = pace_of(assignment)
    for number in range(POSTS):
        content = body(number, assignment.kind)
        if pace:
            pace.rest()
        os.access(BEGIN, os.F_OK)
        await way.post(content)
        os.access(END, os.F_OK)
        await way.finish()
        if pace:
            pace.unsettled()
    await way.close()


def main() -> None:
    """Post, then end."""
    end_with_parent()
    assignment = Assignment.from_json(sys.argv[1])
    if kind := KNOWN[assignment.contender].loop:
        loop = loopworker.new_loop(kind)
        loop.run_until_complete(call_in_loop(assignment))
        loop.close()
    else:
        call(assignment)


if __name__ == "__main__":
    main()
