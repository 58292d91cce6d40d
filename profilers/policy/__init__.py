"""What reinforcement learning of a profiler needs: roll-outs, log-probabilities, the policy and its reference, PPO.

``losses`` and ``control`` know no model, ``logprobs`` and ``model`` no algorithm, ``ppo`` is the algorithm.
"""
