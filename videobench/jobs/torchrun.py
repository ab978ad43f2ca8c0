"""torchrun for the launchers: what it says of itself goes to a file, which they show if the end was not asked for."""

import os
import sys


def main() -> None:
    # Before the import: torch's loggers take the stream that they find.
    sys.stderr = open(os.environ["VIDEOBENCH_TORCHRUN_LOG"], "w", buffering=1)  # noqa: SIM115
    from torch.distributed.run import main

    main()


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules nobody else means
    main()
