"""``reclm bench``: do the profiles help?"""


def bench() -> None:
    """Train a backbone with and without profiles and compare them."""
