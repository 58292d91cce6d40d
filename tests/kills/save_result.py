"""Saves a run in another folder: ``python -m tests.kills.save_result RUN FOLDER``."""

import sys

import reclm

if __name__ == "__main__":
    reclm.Result.load(sys.argv[1]).save(sys.argv[2])
