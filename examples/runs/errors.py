"""Users' mistakes."""

import sys


class UserError(ValueError):
    """A mistake in what the user asked for, told in one line."""


def fail(error: Exception) -> int:
    """Prints an error as one line on stderr; the exit code of a failed command."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)
    return 1
