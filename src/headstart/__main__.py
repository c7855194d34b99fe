"""The process of the ``headstart`` command, also ``python -m headstart``."""

import gc
import signal
import sys


def run() -> None:
    """Run the command line on the words of this process, and exit with its status."""
    if sys.argv[1:2] == ["serve"] and hasattr(signal, "SIGHUP"):
        # Ignored until the server handles it: by default SIGHUP ends a process, and there are no models to reload yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Importing torch and timm makes very many objects that stay; looking for garbage among them again and again took a
    # fifth of a short command's time.
    gc.set_threshold(20_000)
    try:
        from headstart.cli import main
        from headstart.compute.startup import prepare_command

        prepare_command()
        status = main()
    except KeyboardInterrupt:
        # Before or after the part in which it stops the work in good order.
        sys.stderr.write("Stopped.\n")
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    run()
