"""A few posts by one contender, for strace to watch: each between two calls that mark it and do nothing.

`python -m bench.traced ASSIGNMENT`, where the assignment is a worker's. Each post finds the receiver asleep, and its
contender with nothing left to do, as a worker's posts do.
"""

from __future__ import annotations

import os
import sys

from .payload import body
from .worker import Assignment, end_with_parent, pace_of, prepare, prepared, settle

POSTS = 12
# Files that do not exist, and are asked for: access() returns an error, which nobody heeds.
BEGIN, END = "bench: a post begins", "bench: a post has ended"


def main() -> None:
    """Post, then end."""
    end_with_parent()
    assignment = Assignment.from_json(sys.argv[1])
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


if __name__ == "__main__":
    main()
