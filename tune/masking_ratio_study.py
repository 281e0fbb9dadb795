"""The main job: which share should be masked, with which patches, and does the default of 20 % hold up?"""

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
from tune.basis_study import BasisStudy
from tune.options import StudyOptions
from tune.run.cli import BAD_USAGE, rerun_words, run_command
from tune.theory_study import TheoryStudy

STUDIES = {"basis": BasisStudy, "theory": TheoryStudy}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study; ``basis``, ``theory`` and ``rerun`` are sub-commands. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    default = StudyOptions()
    if words[:1] == ["rerun"] and not HELP & {*words}:
        try:
            question, words = rerun_words(words[1:])
        except ConfigError as mistake:
            print(f"error: {mistake}", file=sys.stderr)
            return BAD_USAGE
        default = next((study() for study in STUDIES.values() if study.question == question), default)
    elif words and words[0] in STUDIES:
        default, words = STUDIES[words[0]](), words[1:]
    return run_command(words, default)


if __name__ == "__main__":
    sys.exit(main())
