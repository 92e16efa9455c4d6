"""``python -m grm.cli``."""

from . import main

main()
