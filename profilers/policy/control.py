"""The weight of the KL penalty, steered so that the policy stays at a given distance from the reference."""


class KLController:
    """``e = clip(KL / target − 1, −0.2, 0.2)``, ``β ← β (1 + K e)``.

    Paper: section 2.2 of https://arxiv.org/abs/1909.08593, where K is 0.1.

    Args:
        coefficient: β at the start.
        target: KL of an answer, in nats; None leaves β as it is.
        gain: K.
    """

    def __init__(self, coefficient: float, target: float | None, gain: float = 0.1) -> None:
        self.coefficient = coefficient
        self.target = target
        self.gain = gain

    def update(self, kl: float) -> None:
        """Take notice of the KL of the latest answers."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + self.gain * error
