"""``--help`` (examples and the usual options) and ``--help-all`` (examples and all options), both printed by tyro."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from pmae.cli.options import field_docs, options_of

HELP = {"-h", "--help", "--help-all"}


def answer_help(
    words: Sequence[str], prog: str, examples: Sequence[str], usual: Sequence[str], kind: type
) -> list[str]:
    """Print what help begins with if it is asked for, and after ``--help`` the ``usual`` options alone, then exit.

    Returns the words for tyro, which knows no ``--help-all``. Without ``usual`` options ``--help`` shows all.
    """
    asked = HELP & {*words}
    if asked:
        print("examples:", *(f"  {example}" for example in examples), "", sep="\n")
    if asked and usual:
        brief = "--help-all" not in asked
        text = f"{kind.__doc__}{' These are the usual options; --help-all lists all of them.' if brief else ''}"
        print(textwrap.fill(" ".join(text.split()), 80), end="\n\n")  # tyro would not break its lines
        if brief:
            config = (tyro.conf.FlagCreatePairsOff,)
            tyro.cli(_usual_options(usual, kind), args=["--help"], prog=prog, description="", config=config)
    return ["--help" if word == "--help-all" else word for word in words]


def _usual_options(usual: Sequence[str], kind: type) -> Any:
    """The usual ones of a class of options and of its groups, each with the first sentence of its help."""
    known = options_of(kind)
    fields: list[Any] = []
    for name in usual:
        owner, default = known[name]
        text = field_docs(owner)[name].partition(". ")[0].rstrip(".")
        shown = tyro.conf.arg(help=text, help_behavior_hint="" if default is False else None)
        hint = get_type_hints(owner, include_extras=True)[name]
        fields.append((name, Annotated[hint, shown], dataclasses.field(default=default)))
    return dataclasses.make_dataclass("Usual", fields)
