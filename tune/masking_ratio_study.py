"""The main job: which share should be masked, with which patches, and does the default of 20 % hold up?

``python tune/masking_ratio_study.py --help`` shows the options. The work is done in the sub-packages.
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

from pmae.cli.help import HELP
from pmae.errors import ConfigError
from tune import basis_study, theory_study
from tune.run.cli import BAD_USAGE, PROGRAM, rerun_words, run_command

PROGRAMS = {"basis": basis_study, "theory": theory_study}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit code (0 finished, 2 bad usage, 130 interrupted, 1 anything else).

    ``basis`` and ``theory`` as the first word start those studies, ``rerun RUN/study.json`` starts a study with the
    settings of another one; other words are options.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["rerun"] and not HELP & {*words}:
        try:
            question, words = rerun_words(words[1:])
        except ConfigError as mistake:
            print(f"error: {mistake}", file=sys.stderr)
            return BAD_USAGE
        for program in PROGRAMS.values():
            if question == program.QUESTION:
                return program.main(words)
    elif words and words[0] in PROGRAMS:
        return PROGRAMS[words[0]].main(words[1:])
    return run_command(words, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
