"""``python -m grm``."""

from .cli import main

main()
