"""What stands below a table: short labelled facts. In LaTeX and in a note they are sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SMOKE, INCOMPLETE = "SMOKE TEST", "INCOMPLETE"  # labels of what a reader must not overlook


@dataclass(frozen=True)
class Fact:
    """One fact: `label` says what it is about, `text` has no full stop."""

    label: str
    text: str

    def __str__(self) -> str:
        return f"{self.label}: {self.text}"


def lines(facts: Iterable[Fact]) -> str:
    """A line a fact, for a terminal."""
    return "\n".join(map(str, facts))


def sentences(facts: Iterable[Fact]) -> str:
    """All facts in one paragraph."""
    return " ".join(f"{fact}." for fact in facts)


def bullets(facts: Iterable[Fact]) -> str:
    """A Markdown list."""
    return "\n".join(f"* **{fact.label}**: {fact.text}" for fact in facts)


SMOKE_TEST = Fact(SMOKE, "a few batches of training, not a result")
