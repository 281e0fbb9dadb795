"""The main job: which share should be masked, with which patches, and does the default of 20 % hold up?

``python tune/masking_ratio_study.py --help`` shows the options. The work is done in the modules beside this one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a script: the checkout takes the place of its folder tune/, whose modules are not to be imported bare.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from tune.run import interrupts

    interrupts.install()

from tune.run.cli import PROGRAM, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit code (0 finished, 2 bad usage, 130 interrupted, 1 anything else)."""
    return run_command(sys.argv[1:] if argv is None else list(argv), PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
