"""``python -m reclm``, and ``torchrun -m reclm tune …`` on several processes."""

from reclm.cli import main

if __name__ == "__main__":
    main()
