"""Ways to divide interactions, each a vectorised function of index arrays."""

import numpy as np

TRAIN, VALID, TEST = 0, 1, 2


def place_from_newest(
    user_idx: np.ndarray, timestamp: np.ndarray | None, generator: np.random.Generator
) -> np.ndarray:
    """For each interaction how many of the same user are newer: ``(n,)`` int64, 0 for a user's newest.

    Of equal times the later row is the newer; without timestamps the order is random.
    """
    age = generator.permutation(len(user_idx)) if timestamp is None else timestamp
    order = np.lexsort((age, user_idx))
    count = np.bincount(user_idx)
    end = np.cumsum(count)[user_idx[order]]
    place = np.empty(len(user_idx), np.int64)
    place[order] = end - 1 - np.arange(len(user_idx))
    return place


def per_user_temporal(
    user_idx: np.ndarray,
    timestamp: np.ndarray | None,
    valid: float,
    test: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Each user's newest interactions for ``test``, those before for ``valid``, the rest for training.

    A user of ``n`` interactions gives ``max(1, ⌊n · test⌋)`` to test and ``max(1, ⌊n · valid⌋)`` to validation
    (none where the fraction is 0), test first, as long as one is left to train on.

    Args:
        user_idx: ``(n,)``.
        timestamp: ``(n,)``, or None for a random order.
        valid, test: fractions.
        generator: used only without timestamps.

    Returns:
        ``(n,)`` int8 of ``TRAIN``, ``VALID``, ``TEST``.
    """
    place = place_from_newest(user_idx, timestamp, generator)
    count = np.bincount(user_idx)

    def share(fraction: float, available: np.ndarray) -> np.ndarray:
        if fraction == 0:
            return np.zeros_like(count)
        # the tolerance lets 0.1 of 30 be 3, not 2
        wanted = np.maximum(1, np.floor(count * fraction + 1e-9).astype(np.int64))
        return np.minimum(wanted, np.maximum(available, 0))

    tested = share(test, count - 1)
    validated = share(valid, count - 1 - tested)
    part = np.full(len(user_idx), TRAIN, np.int8)
    part[place < (tested + validated)[user_idx]] = VALID
    part[place < tested[user_idx]] = TEST
    return part


def hold_out_validation(
    user_idx: np.ndarray, timestamp: np.ndarray | None, fraction: float, generator: np.random.Generator
) -> np.ndarray:
    """Which training interactions to set aside for validation, so that no user loses all of them.

    ``round(fraction · n)`` interactions are taken: the newest one (a random one without timestamps) of randomly
    chosen users with two or more, then, if that was not enough, their second newest, and so on.

    Returns:
        ``(n,)`` bool; fewer are set where users have too few to spare.
    """
    place = place_from_newest(user_idx, timestamp, generator)
    count = np.bincount(user_idx)
    turn = generator.permutation(len(count))
    spare = np.flatnonzero(place < count[user_idx] - 1)
    chosen = spare[np.lexsort((turn[user_idx[spare]], place[spare]))][: round(fraction * len(user_idx))]
    mask = np.zeros(len(user_idx), bool)
    mask[chosen] = True
    return mask


def hold_out_items(items: int, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """``round(fraction · items)`` random item_idx, sorted; at least one if ``fraction`` is above 0."""
    number = min(items, max(1, round(fraction * items))) if fraction else 0
    return np.sort(generator.choice(items, number, replace=False))


def core(user_idx: np.ndarray, item_idx: np.ndarray, min_user: int, min_item: int) -> np.ndarray:
    """The largest part in which each user has ``min_user`` interactions and each item ``min_item``.

    Returns:
        ``(n,)`` bool.
    """
    keep = np.ones(len(user_idx), bool)
    while keep.any():
        weak = np.bincount(user_idx, keep)[user_idx] < min_user
        weak |= np.bincount(item_idx, keep)[item_idx] < min_item
        if not (weak & keep).any():
            break
        keep &= ~weak
    return keep


def first_of_pairs(user_idx: np.ndarray, item_idx: np.ndarray, timestamp: np.ndarray | None) -> np.ndarray:
    """The earliest interaction of each (user, item) pair: ``(n,)`` bool. Without timestamps, the first row."""
    keys = (item_idx, user_idx) if timestamp is None else (timestamp, item_idx, user_idx)
    order = np.lexsort(keys)
    user, item = user_idx[order], item_idx[order]
    first = np.ones(len(order), bool)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    mask = np.zeros(len(order), bool)
    mask[order[first]] = True
    return mask


def pairs(user_idx: np.ndarray, item_idx: np.ndarray, items: int) -> np.ndarray:
    """Each (user, item) pair as one int64."""
    return user_idx.astype(np.int64) * items + item_idx
