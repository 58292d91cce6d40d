"""The experiment: suites, trials, controls, leak checks, statistics, verdict and report."""
