"""The process of the ``headstart`` command, also ``python -m headstart``."""

import gc
import sys

from headstart.cli import main
from headstart.compute.startup import keep_freed_memory


def run() -> None:
    """Run the command line on the words of this process, and exit with its status."""
    # Importing torch and timm makes very many objects that stay; looking for garbage among them again and again took a
    # fifth of a short command's time.
    gc.set_threshold(20_000)
    keep_freed_memory()
    sys.exit(main())


if __name__ == "__main__":
    run()
