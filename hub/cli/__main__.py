"""``python -m hub.cli`` is ``fmhub``."""

from hub.cli import main

main()
