"""PPO and RLSO for language models: ``ppo`` and ``rlso`` are the algorithms, ``loop`` is their common training loop."""
