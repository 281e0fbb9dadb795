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

from pmae.cli import options as cli_options
from pmae.cli.help import answer_help
from pmae.cli.pipes import exit_quietly_on_broken_pipe
from pmae.cli.settings_file import expand_config
from pmae.errors import ConfigError, DataError, DivergedError

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

MODULES: dict[type, str] = {
    cli_options.PretrainOptions: "pretrain",
    cli_options.ProbeOptions: "probe",
    cli_options.ComponentsOptions: "components",
    cli_options.FeaturesOptions: "features",
    cli_options.ReconstructOptions: "reconstruct",
}

EXAMPLES = (
    "pmae pretrain --out models/digits --patch-size 2",
    "pmae pretrain --out models/mine --dataset folder:PATH --image-size 32",
    "pmae probe models/digits --kind knn",
)
USUAL = ("out", "dataset", "method", "ratio", "patch_size", "steps", "epochs", "batch_size", "preset", "config")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return exit_quietly_on_broken_pipe(lambda: _main(sys.argv[1:] if argv is None else list(argv)))


def _main(words: list[str]) -> int:
    try:
        pretrain = words[:1] == ["pretrain"]
        prog = "python -m pmae"
        usual = USUAL if pretrain and "--help-all" not in words else ()
        words = answer_help(words, f"{prog} pretrain", EXAMPLES, usual, cli_options.PretrainOptions)
        if pretrain:
            words[1:] = expand_config(words[1:], cli_options.PretrainOptions)
        options: Any = tyro.cli(
            cli_options.Command,  # type: ignore[arg-type]
            prog=prog,
            args=words,
            description="Pre-train masked autoencoders, score their encoders, and show their reconstructions.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except SystemExit as leaving:  # --help, or options that cannot be read: tyro has said why
        if isinstance(leaving.__context__, BrokenPipeError):
            raise
        return leaving.code if isinstance(leaving.code, int) else BAD_USAGE
    except ConfigError as mistake:
        return _say(mistake, BAD_USAGE)
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
