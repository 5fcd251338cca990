"""What a Sender says became of its posts, as it comes over a worker's pipe, and the law that it must obey."""

from __future__ import annotations

import json

from rawfnf import Stats

# Counts of posts that are in a ledger besides the answers.
ENDS = ("acked", "closed_now", "unanswered", "reset", "held", "dropped", "failed")


class Ledger(Stats):
    """The Stats of a Sender in another process."""

    __slots__ = ()

    @classmethod
    def from_json(cls, text: str) -> Ledger | None:
        """Undo what json.dumps made of Stats._asdict(); None where it says null: nobody keeps one."""
        found = json.loads(text)
        if found is None:
            return None
        answered = {int(status): count for status, count in found.pop("answered").items()}
        return cls(answered=answered, **found)

    @property
    def lawful(self) -> bool:
        """Whether every post is in exactly one term (the law of conservation)."""
        ended = self.acked + self.closed_now + self.unanswered + self.reset
        return self.posted == sum(self.answered.values()) + ended + self.held

    @property
    def promised(self) -> int:
        """Posts that are said to have arrived."""
        return sum(self.answered.values()) + self.acked

    @property
    def claims(self) -> dict[str, int]:
        """Every count that is not zero, by name."""
        counts = self._asdict()
        answers = {f"answered {status}": count for status, count in self.answered.items()}
        return answers | {name: counts[name] for name in ENDS if counts[name]}
