"""`headrace doctor`: what this machine and the running instance look like, and what to do about it."""


def doctor() -> None:
    """Check."""
