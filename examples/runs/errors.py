"""Users' mistakes."""

import sys


class UserError(ValueError):
    """A mistake in what the user asked for, reported in one line."""


class Diverged(UserError):
    """Loss or gradient is NaN or infinite, and stays so: what happened, what to change.

    ``step`` counts the updates before it.
    """

    def __init__(self, what: str, advice: str, step: int):
        super().__init__(f"{what}: stopped. {advice}")
        self.what, self.advice, self.step = what, advice, step


def fail(error: Exception) -> int:
    """Prints an error as one line on stderr; the exit code of a failed command."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)
    return 1
