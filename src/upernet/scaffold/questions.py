"""Questions about what the files leave open."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Ask = Callable[[str, str, Sequence[str]], str]
"""Called with the question, the default, and the possible answers (none: any); returns the answer."""


class Answers(dict[str, str]):
    """The answers so far, by the name of the question. Without `ask`, each is the default."""

    def __init__(self, ask: Ask | None = None) -> None:
        super().__init__()
        self._ask = ask

    def get(self, name: str, question: str, default: str, choices: Sequence[str] = ()) -> str:  # type: ignore[override]
        """Return the answer to a question, which is asked once."""
        if name not in self:
            self[name] = self._ask(question, default, choices) if self._ask else default
        return self[name]
