"""What reinforcement learning of a profiler needs: roll-outs, log-probabilities, the policy and its reference.

``losses`` and ``control`` know no model, ``logprobs`` and ``model`` no algorithm; ``ppo`` and ``rlso`` are the
algorithms, ``on_policy`` is what both share.
"""
