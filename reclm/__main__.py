"""``python -m reclm``, and ``accelerate launch -m reclm tune …`` on several processes."""

from reclm.cli import main

main()
