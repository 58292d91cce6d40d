"""``reclm profile``: write profiles."""


def profile() -> None:
    """Write a profile of every user and item."""
