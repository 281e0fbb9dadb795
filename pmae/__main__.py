"""``python -m pmae pretrain | probe | components | features | reconstruct``: the pieces, usable without a study.

Exit codes: 0 done, 2 bad usage or bad input, 130 interrupted, 1 anything else. Results go to standard output,
progress to standard error.
"""

# What a command needs is imported when it runs: --help answers at once.

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import tyro

from pmae.cli import options as asked
from pmae.cli.pipes import quiet_when_cut_off
from pmae.errors import ConfigError, DataError, DivergedError

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

MODULES: dict[type, str] = {
    asked.PretrainOptions: "pretrain",
    asked.ProbeOptions: "probe",
    asked.ComponentsOptions: "components",
    asked.FeaturesOptions: "features",
    asked.ReconstructOptions: "reconstruct",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return quiet_when_cut_off(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    try:
        options: Any = tyro.cli(
            asked.Command,  # type: ignore[arg-type]
            prog="python -m pmae",
            args=None if argv is None else list(argv),
            description="Pre-train masked autoencoders, score their encoders, and look at what they see.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except SystemExit as leaving:  # --help, or options that cannot be read: tyro has said why
        if isinstance(leaving.__context__, BrokenPipeError):
            raise
        return leaving.code if isinstance(leaving.code, int) else BAD_USAGE
    warnings.showwarning = _show_warning
    try:
        importlib.import_module(f"pmae.cli.{MODULES[type(options)]}").run(options)
    except (ConfigError, DataError) as mistake:
        return _say(mistake, BAD_USAGE)
    except BrokenPipeError:
        raise
    except (DivergedError, OSError) as problem:
        return _say(problem, FAILED)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{f'; {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _say(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
