"""The law of conservation: at every moment each post is in exactly one term of `stats`, and the server agrees.

Theory of operation. A machine of hypothesis posts, pumps, flushes and closes, and tells a server of its own
(law_server.py) what to do to which connection. It never waits for time to pass, only for facts. After each step two
things are asked of `stats`:

- the law, which holds in every snapshot, also while something is on its way;
- the account. From what the server has seen and done, and from what post() returned, `ends` says in which terms a post
  can be. Usually that is one, and then the figures must come to be exactly these. Where it is more than one, a comment
  says which race nobody can decide; the figures must then be possible ones.

Nothing that decides which step comes next depends on time, so that a failure can be told again: a step that cannot be
taken is none, and a post that has to wait goes on in a thread of its own while the server is told what releases it.
"""

from __future__ import annotations

import contextlib
import dis
import faulthandler
import gc
import json
import random
import signal
import ssl
import subprocess
import sys
import threading
import traceback
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import rawfnf
from tests.awaited import SENDERS, AnySender, senders
from tests.conftest import descriptors
from tests.law_server import SAYS, LawServer, Visit
from tests.peers import PATIENCE, server_context, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trustme

Closing = Literal["now", "acked", "answered"]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]  # the server's, the client's

# Bytes. Loopback hands over "s" at once; the kernel takes "m" at once, but nobody acknowledges it while it is not read
# (64 KiB of receive window); "l" it does not take either (tcp_wmem: 4 MiB).
SIZES = {"s": 40, "m": 1_500_000, "l": 6_000_000}
FILLER = random.Random(0).randbytes(max(SIZES.values()) + 100_000)

# What ends a wait, if it has not ended before. "103", "202 begun" and "read" do not, by themselves.
STATUSES = ("200", "204", "401", "503")
ANSWERS = frozenset({*STATUSES, "408", "413, reset"})
OPEN = frozenset({"103", "202 begun", "read"})
DEEDS = (*STATUSES, *SAYS, "noise", "FIN", "cut", "close", "reset", "read")


def body_of(number: int, size: str) -> bytes:
    """Return a body that says which post it is, and differs from all others in most of its bytes."""
    prefix = b"%08d%b" % (number, size.encode())
    return prefix + FILLER[number : number + SIZES[size] - len(prefix)]


def in_pieces(body: bytes) -> Iterator[bytes]:
    """Yield what post() is to send chunked."""
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


def check_law(stats: rawfnf.Stats) -> None:
    """Assert what is to hold at every moment."""
    terms = (stats.acked, stats.closed_now, stats.unanswered, stats.reset, stats.held)
    assert stats.posted == sum(stats.answered.values()) + sum(terms), stats
    assert min(*terms, *stats.answered.values(), stats.dropped, stats.failed, stats.spares) >= 0, stats


class Task(threading.Thread):
    """Something that may have to wait, in a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name="task", daemon=True)
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - judged by the machine
            self.error = error

    @property
    def done(self) -> bool:
        return not self.is_alive()


class Post:
    """One post(), and what its caller knows of it."""

    def __init__(self, number: int, size: str, kind: str) -> None:
        self.number, self.size, self.kind = number, size, kind
        self.body = body_of(number, size)
        self.final: str | None = None  # its term, once that is certain
        self.cut = False  # it was closed before its time, to make room
        self.arrived = 0  # bytes that the server has got, once it has all of them
        self.late = False  # it was handed over when close() had begun, which may have ended before
        self.excused = False  # it may raise: the server was down, or had ended the spare
        self.expected: bool | None = None  # what it is to return
        self._given: Any = self.data()

    def data(self) -> Any:
        if self.kind == "stream":
            return in_pieces(self.body)
        return bytearray(self.body) if self.kind == "buffer" else self.body

    def send(self, sender: AnySender) -> bool:
        handed_over = sender.post(self._given)
        if self.kind == "buffer":  # the caller's own, to be used for something else now
            self._given[:] = bytes(len(self._given))
        return handed_over


def ends_answered(visit: Visit) -> set[str]:
    """In which terms a post may be that waits for its answer, when all that has happened has been seen."""
    for place, deed in enumerate(visit.did):
        if deed in ANSWERS:
            return {deed[:3]}
        if deed == "202 begun":  # it is an answer; the connection is held until there is all of it
            return {"202"} if {*visit.did[place:]} - OPEN else {"held"}
        if deed not in OPEN:
            return {"reset"}
    return {"held"}


def ends_acked(visit: Visit, size: str, *, tls: bool) -> set[str]:
    """The same for a post that waits for its acknowledgement."""
    # An acknowledgement may have come before what the server did, unless the server had left bytes unread until then.
    acked = set() if visit.early else {"acked"}
    begun = "202 begun" in visit.did
    for deed in visit.did:
        if deed in ANSWERS:
            return {deed[:3]} | acked
        # OpenSSL sends nothing more on what has ended without close_notify, and of long bodies there is more to send.
        if deed == "reset" or (tls and (deed == "noise" or (deed == "cut" and size == "l"))):
            return ({"202"} if begun else {"reset"}) | acked
    if begun and not (visit.early and not {*visit.did} - OPEN):
        return {"202"} | acked
    return {"acked"} if visit.whole else {"held"}


class Manner(NamedTuple):
    """A Sender's options.

    At a patient pace nothing ends by time, at a fleeting one by linger; at a brief one posts wait for room but shortly.
    """

    spares: int
    when_busy: Literal["wait", "drop"]
    pace: Literal["patient", "fleeting", "brief"]
    max_held: int


MANNERS = [
    Manner(0, "wait", "patient", 4),
    Manner(2, "wait", "patient", 3),
    Manner(2, "drop", "patient", 3),
    Manner(2, "wait", "fleeting", 3),
    Manner(1, "wait", "brief", 2),
]


Step = tuple[str, dict[str, Any]]  # what the machine does next, and its arguments


def some(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


# What may be next, and how often in comparison. "closes" ends most of what there is to see.
WEIGHTS = {
    some("pumps"): 3,  # the first is what hypothesis thinks the simplest
    some("posts_one", size=st.sampled_from("ssssmml"), kind=st.sampled_from(["bytes", "buffer", "stream"])): 12,
    some("server_acts", pick=st.integers(0, 7), deed=st.sampled_from(DEEDS)): 10,
    some("server_changes_its_appetite", frugal=st.booleans()): 3,
    some("flushes"): 2,
    some("warms"): 1,
    some("server_ends_spares", deed=st.sampled_from(["FIN", "close", "reset", "408"]), at_once=st.booleans()): 2,
    some("server_goes_down", reset=st.booleans()): 1,
    some("server_comes_up"): 3,
    some("closes"): 1,
}
STEPS = st.sampled_from([step for step, weight in WEIGHTS.items() for _ in range(weight)]).flatmap(lambda step: step)


class LawMachine(RuleBasedStateMachine):
    """Drives one Sender and its server. `threaded`: it works in the background, by its thread or its event loop."""

    def __init__(
        self, way: str, closing: Closing, manner: Manner, contexts: Contexts | None, *, threaded: bool
    ) -> None:
        super().__init__()
        self.closing, self.threaded, self.contexts = closing, threaded, contexts
        self.server = LawServer(contexts and contexts[0])
        self.numbers = 0
        self.posts: list[Post] = []  # those that were handed over, in that order
        self.unsent: list[int] = []  # what nothing may have been sent of
        self.dropped = self.failed = 0
        self.lost = 0  # connections on which a post may have gone where nobody was any more
        self.stale = False  # the server has ended spares, and there has been no pump since
        self.agreed: dict[Post, set[str]] = {}  # in which terms the posts can be, when all was well the last time
        self.waiting: tuple[Post, Task] | None = None
        self.closer: Task | None = None

        self.manner = manner
        self.drops, self.pace, self.max_held = manner.when_busy == "drop", manner.pace, manner.max_held
        self.request = rawfnf.Request(self.server.url)
        self.stack = contextlib.ExitStack()
        self.sender = self.stack.enter_context(senders(way))(
            self.server.url,
            ssl_context=self.contexts and self.contexts[1],
            closing=self.closing,
            spares=manner.spares,
            max_held=manner.max_held,
            when_busy=manner.when_busy,
            background=threaded,
            linger=0.05 if manner.pace == "fleeting" else 10 * PATIENCE,
            timeout=0.05 if manner.pace == "brief" else 10 * PATIENCE,
        )

    # --- what the machine does

    @rule(step=STEPS)
    def step(self, step: Step) -> None:
        """One rule, and not one for each: hypothesis leaves out half of the rules in each run, and runs are few."""
        name, arguments = step
        getattr(self, name)(**arguments)

    def posts_one(self, size: str, kind: str) -> None:
        if self.waiting is None:
            # A long body would make timeout and linger race with what the server is told.
            self.post("m" if size == "l" and self.pace != "patient" else size, kind)

    def pumps(self) -> None:
        wants = self.sender.pump()
        assert wants is None or wants >= 0
        self.settle(pumped=True)

    def flushes(self) -> None:
        if any(self.visit(post) is None and post.final is None for post in self.posts):
            self.sender.flush(0.002)  # lost, or not yet there: the server will tell
        elif any(self.ends(post) == {"held"} for post in self.posts):
            assert not self.sender.flush(0.002)
        else:
            self.flush()

    def warms(self) -> None:
        if self.server.listens and self.pace != "brief" and not self.closed:
            self.sender.warm()
            assert self.threaded or self.sender.stats.spares == self.manner.spares

    def server_acts(self, pick: int, deed: str) -> None:
        visits = [visit for visit in map(self.visit, self.on_their_way()) if visit and not {*visit.did} - OPEN]
        if visits:
            visit = visits[pick % len(visits)]
            until(lambda: not visit.arriving, "the server reads")
            begun = "202 begun" in visit.did
            if begun and deed not in {"202 ended", "FIN", "cut", "close", "reset"}:
                deed = "202 ended"
            self.server.tell(visit, "200" if deed == "202 ended" and not begun else deed)

    def server_changes_its_appetite(self, *, frugal: bool) -> None:
        until(lambda: not any(visit.arriving and not visit.did for visit in self.server.visits), "the server reads")
        self.server.frugal = frugal

    def server_ends_spares(self, deed: str, *, at_once: bool) -> None:
        idle = self.server.idle()
        if idle and self.lost < 4:  # the pump backs off: it takes longer each time until there are spares again
            self.lost += len(idle)
            self.stale = True
            for visit in idle:
                self.server.tell(visit, deed)
            if at_once and self.waiting is None:
                self.post("s", "bytes")

    def server_goes_down(self, *, reset: bool) -> None:
        if reset:
            self.lost += len(self.server.idle())
            self.stale = True
        if self.waiting is not None:
            self.waiting[0].excused = True
        self.server.down(reset=reset)

    def server_comes_up(self) -> None:
        self.server.up()

    def closes(self) -> None:
        if self.closer is None:
            self.closer = Task(self.sender.close)
            until(lambda: self.closed, "closing")
            if self.pace == "fleeting":
                self.expire()
        elif self.closer.done:
            self.sender.close()

    # --- what is to hold

    @invariant()
    def the_account_is_right(self) -> None:
        self.settle(pumped=False)

    def settle(self, *, pumped: bool) -> None:
        """Wait until everything has come to where it is to be, and note what is certain then."""
        strict = pumped or self.threaded or self.closed
        try:
            until(lambda: self.agrees(strict=strict), "the account", PATIENCE / 2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.sender.stats}, {self.told()}") from None
        if strict:
            self.stale = False
            for post, ends in self.agreed.items():
                if len(ends) == 1 and ends != {"held"} and self.visit(post) is not None:
                    (post.final,) = ends

    def agrees(self, *, strict: bool) -> bool:
        """Tell whether figures, server and machine say the same; what can never be right is asserted."""
        if strict and not self.threaded:
            self.sender.pump()
        self.collect()
        stats = self.sender.stats
        check_law(stats)
        assert 0 <= stats.posted - len(self.posts) <= (self.waiting is not None)
        assert 0 <= stats.dropped - self.dropped <= (self.waiting is not None)
        assert 0 <= stats.failed - self.failed <= (self.waiting is not None)
        assert stats.held <= self.max_held
        if self.waiting is not None and not self.stuck(self.waiting[0]):
            return False
        if strict and stats.spares != len(self.server.idle()):
            return False
        if self.closer is not None and not self.closer.done and not self.on_their_way():
            return False
        return self.accounted(stats, strict=strict) and self.delivered(strict=strict)

    def accounted(self, stats: rawfnf.Stats, *, strict: bool) -> bool:
        figures = Counter({str(status): count for status, count in stats.answered.items()})
        terms = ("acked", "closed_now", "unanswered", "reset", "held")
        figures.update({term: getattr(stats, term) for term in terms})
        least, most = Counter[str](), Counter[str]()
        self.agreed = {post: self.ends(post) for post in self.posts}
        for post, ends in self.agreed.items():
            if not strict and post.final is None:
                most.update({"held"} - ends)  # nobody has pumped: what has happened need not have been seen
            elif len(ends) == 1:
                least.update(ends)
            most.update(ends)
        return all(least[term] <= figures[term] <= most[term] for term in {*figures, *most})

    def ends(self, post: Post) -> set[str]:
        """In which terms a post can be."""
        if post.final is not None:
            return {post.final}
        visit = self.visit(post)
        if self.closing == "now":
            return self.ends_now(post, visit)
        if visit is None:  # not yet there; or it has gone to a spare that the server had ended
            return {"reset"}
        begun = {"202"} & {deed[:3] for deed in visit.did}  # which is known at once, and counts however the wait ends
        ends = ends_answered(visit) if self.closing == "answered" else ends_acked(visit, post.size, tls=self.tls)
        if post.cut:
            return {"unanswered", *begun}
        if post.late or self.pace == "fleeting":  # nobody can tell what was first: the end, or what the server did
            return {*ends, "unanswered", *begun}
        return ends

    def ends_now(self, post: Post, visit: Visit | None) -> set[str]:
        if not (self.threaded and post.size == "l"):
            return {"closed_now"}
        late = {"unanswered"} if post.late else set()
        if visit is None:
            return {"closed_now", "reset"} | late
        return late | (
            {"reset"} if {"reset", "413, reset"} & {*visit.did} else {"held"} if visit.starving else {"closed_now"}
        )

    def delivered(self, *, strict: bool) -> bool:
        """Tell whether the server has what it is to have; assert that it has nothing else, and nothing twice."""
        unseen = 0
        for post in self.posts:
            visit = self.visit(post)
            unseen += visit is None
            if visit is not None and visit.whole:
                if not post.arrived:
                    assert visit.data == self.request.encode(post.data()), bytes(visit.data[:500])
                    post.arrived = len(visit.data)
                assert post.arrived == len(visit.data), f"more came behind post {post.number}"
            elif visit is not None and ((strict and visit.arriving) or self.promised(post, visit)):
                return False
        for number in self.unsent:
            assert self.server.visit(number) is None, f"of post {number} nothing was to be sent"
        with self.server.lock:
            for visit in self.server.visits:
                # FIN says "that was all": it must be true.
                assert visit.number is None or visit.end != "FIN" or visit.whole
        # A post that goes to a spare just when the server ends it is lost, and counted reset: nobody can win that race.
        return unseen <= self.lost or (self.closing == "now" and self.tls)

    def promised(self, post: Post, visit: Visit) -> bool:
        """Tell whether the server is to have the whole of it, once it has read on."""
        touched = {*visit.did} - {"read"}
        if (
            visit.starving
            or touched & {"reset", "close", "413, reset"}
            or (post.size == "l" and (touched or post.cut or post.late))
        ):
            return False
        if self.closing == "now" or post.cut or post.late or self.pace == "fleeting" or "noise" in touched:
            # close() with unread bytes makes our kernel send RST, which takes with it what has not arrived: "now" reads
            # nothing, and what is closed before its time is not read either. Over TLS session tickets are enough.
            return not (touched or self.tls)
        return True

    # --- how it does that

    @property
    def tls(self) -> bool:
        return self.contexts is not None

    @property
    def closed(self) -> bool:
        return repr(self.sender).endswith(" closed>")

    def visit(self, post: Post) -> Visit | None:
        return self.server.visit(post.number)

    def on_their_way(self) -> list[Post]:
        """Return the posts that may still end in more than one way, the one that is waiting among them."""
        waiting = [] if self.waiting is None else [self.waiting[0]]
        return [post for post in self.posts if "held" in self.ends(post)] + waiting

    def full(self) -> list[Post]:
        """Return the held posts, if there are as many as there may be."""
        held = [post for post in self.posts if self.ends(post) == {"held"}]
        return held if len(held) >= self.max_held else []

    def stuck(self, post: Post) -> bool:
        """Tell whether a post waits for something that the server is to be told first."""
        visit = self.visit(post)
        if visit is None:
            return not (self.drops or self.closed or self.pace != "patient") and bool(self.full())
        stopped = "202 begun" in visit.did and self.closing != "now"  # an answer, and so the end of the body
        # Without a thread the caller waits, and with one until there is no more to come.
        return visit.starving and post.size == "l" and (not self.threaded or post.kind == "stream") and not stopped

    def post(self, size: str, kind: str) -> None:
        oldest = None
        if self.pace == "brief" and not self.drops and not self.closed:
            self.settle(pumped=True)
            oldest = next(iter(self.full()), None)
        post = Post(self.numbers, size, kind)
        post.expected = self.expected()
        post.excused = self.pace == "brief" or not self.server.listens or self.stale
        self.numbers += 1
        self.waiting = post, Task(lambda: post.send(self.sender))
        self.waiting[1].join(0.002)  # as long as most take
        try:
            until(lambda: self.collect() or self.stuck(post), "post()", PATIENCE / 2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.sender.stats}, {self.told()}") from None
        if oldest is not None:
            oldest.cut = True

    def expected(self) -> bool | None:
        """Return what post() is to return; None if that is open."""
        if not self.drops:
            return True
        stats = self.sender.stats
        if stats.held >= self.max_held:
            return None if self.pace == "fleeting" else False
        if stats.spares and not self.stale:
            return None if self.threaded and self.tls else True  # a spare is not ready while its tickets are read
        return None if self.threaded or stats.spares else False

    def collect(self) -> bool:
        """Take in what post() has returned or raised; False while it has not."""
        if self.waiting is None:
            return True
        post, task = self.waiting
        if not task.done:
            return False
        self.waiting = None
        if task.error is not None:
            self.judge(post, task.error)
        elif task.result:
            post.late = self.closed
            self.posts.append(post)
        else:
            self.dropped += 1
            self.unsent.append(post.number)
        if task.error is None and post.expected is not None:
            assert task.result is post.expected
        return True

    def judge(self, post: Post, error: BaseException) -> None:
        """Assert that post() had a reason to raise just this."""
        self.failed += 1
        visit = self.visit(post)
        if isinstance(error, rawfnf.SendError):
            if not (visit is not None and {*visit.did} - OPEN):
                assert post.excused, error
        elif isinstance(error, rawfnf.ConnectError):
            self.unsent.append(post.number)
            assert post.excused, error
        else:
            self.unsent.append(post.number)
            assert isinstance(error, rawfnf.RequestError), repr(error)
            assert self.closed

    def flush(self) -> None:
        assert self.sender.flush(PATIENCE / 2), f"{self.sender.stats}, {self.told()}"
        if self.pace == "fleeting":
            self.expire()
        self.settle(pumped=True)

    def expire(self) -> None:
        """Nothing is held any more: what the server has left alone has been given up."""
        until(lambda: not self.sender.stats.held, "linger")
        for post in self.posts:
            visit = self.visit(post)
            unacked = visit is not None and visit.starving  # otherwise its kernel may have been faster than the server
            if self.ends(post) == {"held", "unanswered"} and (unacked or self.closing == "answered"):
                post.final = "unanswered"

    def told(self) -> str:
        """Tell all that is known, of a machine that fails."""
        waiting = self.waiting and self.waiting[0].number
        idle = len(self.server.idle())
        lines = [f"{self.closing} {self.manner} {self.threaded=} {self.tls=} {self.lost=} {idle=} {waiting=}"]
        for post in self.posts:
            visit = self.visit(post)
            seen = visit and (visit.did, visit.whole, visit.starving, visit.early, visit.end)
            lines.append(f"{post.number} {post.size} {post.kind}: {self.ends(post)} cut={post.cut} {seen}")
        if self.waiting is not None and (frame := sys._current_frames().get(self.waiting[1].ident or 0)) is not None:
            lines += [line.rstrip() for line in traceback.format_stack(frame)]
        return "\n  ".join(lines)

    # --- the end

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # no step has failed
                self.ends_well()
        finally:
            self.server.close()  # resets whatever is open, so that nothing below has to wait
            self.sender.close()
            for task in (self.closer, self.waiting and self.waiting[1]):
                if task is not None:
                    task.join(PATIENCE)
            self.stack.close()

    def ends_well(self) -> None:
        """Let the server be kind: then all is whole, and answered, and accounted for."""
        self.server.relent()
        for visit in self.server.visits:
            if visit.did and {*visit.did} <= OPEN and "202 begun" in visit.did:
                self.server.tell(visit, "202 ended")
        until(self.collect, "post()")
        self.flush()
        assert self.sender.stats.held == 0
        self.sender.close()
        self.settle(pumped=True)
        until(lambda: all(visit.ended for visit in self.server.visits), "the client's end of all connections")
        self.settle(pumped=True)


MACHINE = settings(
    max_examples=3,
    stateful_step_count=25,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a failure is a wait in vain, which is not to be repeated for hours to make it shorter
    suppress_health_check=list(HealthCheck),
)


CASES = [
    pytest.param(
        transport, closing, manner, id=f"{transport} {closing} {manner.spares} {manner.when_busy} {manner.pace}"
    )
    for transport in ("plain", "TLS1.3")
    for closing in ("now", "acked", "answered")
    for manner in MANNERS
    if manner.pace == "patient" or closing != "now"  # which waits for nothing that could take too long
    if manner.pace != "brief" or transport == "plain"  # a handshake may take too long
]


@pytest.mark.parametrize("way", SENDERS)
@pytest.mark.parametrize("threaded", [False, True], ids=["alone", "background"])
@pytest.mark.parametrize(("transport", "closing", "manner"), CASES)
def test_each_post_is_in_one_term_whatever_the_server_does(
    transport: str,
    closing: Closing,
    manner: Manner,
    way: str,
    *,
    threaded: bool,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
) -> None:
    contexts = None if transport == "plain" else (server_context(authority, ssl.TLSVersion.TLSv1_3), trusting)

    @seed(zlib.crc32(repr((transport, closing, manner, way, threaded)).encode()))  # what fails here fails there
    class Machine(LawMachine):
        def __init__(self) -> None:
            super().__init__(way, closing, manner, contexts, threaded=threaded)

    run_state_machine_as_test(Machine, settings=MACHINE)


def act(deed: str, pick: int = 0) -> Step:
    return "server_acts", {"pick": pick, "deed": deed}


def post_one(size: str, kind: str = "bytes") -> Step:
    return "posts_one", {"size": size, "kind": kind}


CLOSES: Step = ("closes", {})
WARMS: Step = ("warms", {})
FLUSHES: Step = ("flushes", {})
COMES_UP: Step = ("server_comes_up", {})
FRUGAL: Step = ("server_changes_its_appetite", {"frugal": True})

# What chance would find too rarely.
RUNS: dict[str, list[Step]] = {
    "a post under way when close() begins": [FRUGAL, post_one("l", "stream"), CLOSES, act("read")],
    "a post that waits for room when close() begins": [*[post_one("s")] * 4, CLOSES],
    "a post that waits for room, which a reset makes": [*[post_one("s")] * 4, act("reset")],
    "a long post on a spare that meets garbage": [WARMS, FRUGAL, post_one("l"), act("garbage")],
    "a long post on a spare that meets an end": [WARMS, FRUGAL, post_one("l"), act("FIN"), post_one("l"), act("reset")],
    "an answer, and a reset at once": [
        *[post_one("s"), act("413, reset"), FRUGAL, post_one("m"), act("413, reset"), post_one("l"), act("413, reset")]
    ],
    "a restart": [
        *[WARMS, post_one("s"), ("server_goes_down", {"reset": True}), post_one("s"), COMES_UP],
        *[WARMS, post_one("s"), FLUSHES],
    ],
    "spares that are ended just before a post": [
        *[WARMS, ("server_ends_spares", {"deed": "reset", "at_once": True})],
        *[WARMS, ("server_ends_spares", {"deed": "408", "at_once": True})],
    ],
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("way", SENDERS)
@pytest.mark.parametrize("threaded", [False, True], ids=["alone", "background"])
@pytest.mark.parametrize("closing", ["now", "acked", "answered"])
@pytest.mark.parametrize("transport", ["plain", "TLS1.3"])
def test_the_account_is_right_after(
    transport: str,
    closing: Closing,
    run: str,
    way: str,
    *,
    threaded: bool,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
) -> None:
    contexts = None if transport == "plain" else (server_context(authority, ssl.TLSVersion.TLSv1_3), trusting)
    machine = LawMachine(way, closing, Manner(2, "wait", "patient", 3), contexts, threaded=threaded)
    try:
        for name, arguments in RUNS[run]:
            getattr(machine, name)(**arguments)
            machine.settle(pumped=False)
    finally:
        machine.teardown()


# --- eight threads --------------------------------------------------------------------------------------------------

CROWD = 8


class Crowd:
    """Threads that post at the same time, and one that reads `stats` all the time."""

    def __init__(self, sender: rawfnf.Sender, each: int) -> None:
        self.sender, self.each = sender, each
        self.begun, self.returned, self.dropped = [0] * CROWD, [0] * CROWD, [0] * CROWD
        self.handed_over: list[int] = []
        self.snapshots = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Let all of them run to their end; raise what went wrong in them."""
        reader = Task(self.read)
        posters = [Task(partial(self.post, place)) for place in range(CROWD)]
        for poster in posters:
            poster.join(2 * PATIENCE)
        self._over.set()
        reader.join(PATIENCE)
        for task in [*posters, reader]:
            assert task.done, "still running"
            if task.error is not None:
                raise task.error

    def post(self, place: int) -> None:
        for turn in range(self.each):
            number = place * self.each + turn
            body = body_of(number, "m" if turn % 50 == 0 else "s")
            self.begun[place] += 1
            while not self.sender.post(body):  # dropped: there is no spare, until somebody has pumped
                self.dropped[place] += 1
                until(self.refreshed, "a spare")
            self.handed_over.append(number)
            self.returned[place] += 1

    def refreshed(self) -> bool:
        self.sender.pump()
        return self.sender.stats.spares > 0

    def read(self) -> None:
        """Check each snapshot, and that nothing is ever taken back."""
        least, before = 0, rawfnf.Stats(0, {}, 0, 0, 0, 0, 0, 0, 0, 0)
        while not self._over.wait(0.0001):  # a turn for the others: it would take half of all time
            least = sum(self.returned)  # read before the snapshot: these are in it
            stats = self.sender.stats
            assert least <= stats.posted <= sum(self.begun)
            check_law(stats)
            for status, count in before.answered.items():
                assert count <= stats.answered[status]
            for term in ("posted", "acked", "closed_now", "unanswered", "reset", "dropped", "failed"):
                assert getattr(before, term) <= getattr(stats, term)
            self.snapshots, before = self.snapshots + 1, stats


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns twenty times as often as they would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 20)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("threaded", [False, True], ids=["no thread", "thread"])
@pytest.mark.parametrize(
    ("transport", "when_busy", "each"), [("plain", "wait", 150), ("plain", "drop", 30), ("TLS1.3", "wait", 60)]
)
def test_the_law_holds_in_every_snapshot_while_eight_threads_post(
    transport: str,
    when_busy: Literal["wait", "drop"],
    each: int,
    restless: None,
    *,
    threaded: bool,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
) -> None:
    tls = transport != "plain"
    with LawServer(server_context(authority, ssl.TLSVersion.TLSv1_3) if tls else None) as server:
        server.generous = True
        options: dict[str, Any] = {"ssl_context": trusting} if tls else {}
        with rawfnf.Sender(
            server.url, spares=8, max_held=32, when_busy=when_busy, background=threaded, linger=PATIENCE, **options
        ) as sender:
            sender.warm()
            crowd = Crowd(sender, each)
            crowd.run()
            assert sender.flush(PATIENCE)
            stats = sender.stats
        assert crowd.snapshots > 10
        assert stats.posted == len(crowd.handed_over) == CROWD * each
        assert (stats.answered, stats.failed) == ({204: stats.posted}, 0)
        assert stats.dropped == sum(crowd.dropped)
        assert (stats.dropped > 0) == (when_busy == "drop")
        assert sorted(server.whole()) == sorted(crowd.handed_over)  # each of them, and once


# --- interrupts -----------------------------------------------------------------------------------------------------

INTERRUPTED, LIVES = 300, 60
# Seconds within which the interrupt comes: a post on a spare, one that connects, a handshake, all that and a flush.
MOMENTS = (100e-6, 500e-6, 3e-3)
ROOT = Path(__file__).parent.parent


def interrupted(work: Callable[[], object]) -> bool:
    """Raise KeyboardInterrupt at some moment in the middle of this; tell whether it was not over before."""
    if sys.platform == "win32":
        raise NotImplementedError
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.choice(MOMENTS) * random.random() + 1e-6)
            work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False


class Interruptions:
    """Posts, interrupted again and again. In a process of its own: SIGALRM is pytest-timeout's there."""

    def __init__(self, url: str, cafile: str, how: str) -> None:
        self.options: dict[str, Any] = {"background": how == "thread", "linger": PATIENCE, "timeout": PATIENCE}
        self.options["ssl_context"] = ssl.create_default_context(cafile=cafile) if url.startswith("https") else None
        self.url = url
        self.attempts = self.interrupts = self.posted = self.unflushed = 0
        self.returned: list[int] = []
        self.before = descriptors()

    def run(self) -> None:
        if sys.platform == "win32":
            raise NotImplementedError
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for life in range(LIVES):
            sender = rawfnf.Sender(self.url, spares=1, **self.options)
            live = partial(self.live, sender)
            if life:
                self.interrupts += interrupted(live)
            else:
                live()  # imports: an interrupt in the middle of one is the interpreter's business
            self.end(sender)
        sender = rawfnf.Sender(self.url, spares=2, max_held=8, **self.options)
        for number in range(INTERRUPTED):
            self.interrupts += interrupted(partial(self.post, sender, pump=number % 3 == 0))
            check_law(sender.stats)
        self.end(sender)
        del sender, live
        gc.collect()  # a selector is a cycle: one that was interrupted while it was made goes only now
        left = [what for number, what in descriptors().items() if self.before.get(number) != what]
        others = {*threading.enumerate()} - {threading.main_thread()}
        left += [thread.name for thread in others if thread.is_alive()]  # not what was interrupted before it had begun
        print(json.dumps({**vars(self), "options": None, "before": None, "left": left}))

    def post(self, sender: rawfnf.Sender, *, pump: bool) -> None:
        number, self.attempts = self.attempts, self.attempts + 1
        if sender.post(body_of(number, "s")):
            self.returned.append(number)
        if pump:
            sender.pump()

    def live(self, sender: rawfnf.Sender) -> None:
        """Do everything that there is to do, once."""
        sender.warm()
        self.post(sender, pump=True)
        sender.flush(PATIENCE)
        sender.close()

    def end(self, sender: rawfnf.Sender) -> None:
        """Close, in another thread: no lock may have been left behind in this one."""
        self.unflushed += not sender.flush(PATIENCE / 4)
        closer = Task(sender.close)
        closer.join(PATIENCE)
        if not closer.done:
            faulthandler.dump_traceback()
        assert closer.done, "close() hangs"
        assert closer.error is None, closer.error
        check_law(sender.stats)
        assert not sender.stats.held
        self.posted += sender.stats.posted


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no interval timers")
@pytest.mark.parametrize("how", ["no thread", "thread"])
@pytest.mark.parametrize("transport", ["plain", "TLS1.3"])
def test_the_law_outlives_interrupts_at_any_moment(
    transport: str, how: str, authority: trustme.CA, tmp_path: Path
) -> None:
    cafile = str(tmp_path / "authority.pem")
    authority.cert_pem.write_to_path(cafile)
    program = "import sys; from tests.test_law import Interruptions; Interruptions(*sys.argv[1:]).run()"
    context = server_context(authority, ssl.TLSVersion.TLSv1_3) if transport != "plain" else None
    with LawServer(context) as server:
        server.generous = True
        command = [sys.executable, "-c", program, server.url, cafile, how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        arrived = server.whole()
    assert len(arrived) == len({*arrived})
    assert {*found["returned"]} <= {*arrived}
    # An interrupt may come between the counting and the return, and between the last byte and the counting.
    assert len(found["returned"]) <= found["posted"] <= len(arrived) <= found["attempts"]
    assert found["interrupts"] > INTERRUPTED / 10
    assert (found["unflushed"], found["left"]) == (0, [])


# Their handlers are for errors of the socket, which no interrupt is.
ONLY_ERRORS = {"Connection._handshake", "Connection._stay_ready"}


def codes_in(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def handled(code: dis.Bytecode, offset: int) -> bool:
    """Tell whether a `try` or `with` gets what is raised there: its handler begins so, a comprehension's does not."""
    opcodes = {instruction.offset: instruction.opname for instruction in code}
    for entry in code.exception_entries:  # type: ignore[attr-defined]
        if entry.start <= offset < entry.end:
            return opcodes[entry.target] == "PUSH_EXC_INFO" or handled(code, entry.target)
    return False


@pytest.mark.skipif(sys.version_info < (3, 12), reason="these compile such jumps in another way")
@pytest.mark.parametrize("name", ["_connection", "_pool", "_post", "_sender"])
def test_an_interrupt_at_a_loops_jump_back_finds_its_handler(name: str) -> None:
    """CPython's compiler leaves some of these jumps out (gh-148278); the law's test meets one in a few thousand."""
    path = ROOT / "rawfnf" / f"{name}.py"
    left_out = set()
    for code in codes_in(compile(path.read_text(), str(path), "exec")):
        instructions = dis.Bytecode(code)
        for jump in instructions:
            if jump.opname.startswith("JUMP_BACKWARD") and handled(instructions, jump.argval):
                left_out |= set() if handled(instructions, jump.offset) else {code.co_qualname}
    assert not left_out - ONLY_ERRORS
