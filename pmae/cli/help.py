"""The beginning of ``--help``: examples and the usual options; tyro prints all options after it."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from pmae.cli.options import field_docs


def print_introduction(examples: Sequence[str], usual: Sequence[str], options: type) -> None:
    """Print the examples, and the usual options with the first sentence of their help."""
    docs = all_docs(options)
    print("examples:", *(f"  {example}" for example in examples), sep="\n")
    if usual:
        print("usual options (all are listed below):")
    for name in usual:
        text = docs[name].partition(". ")[0].rstrip(".")
        print(textwrap.fill(f"  --{name.replace('_', '-'):<16} {text}", 80, subsequent_indent=" " * 21))
    print()


def all_docs(options: type) -> dict[str, str]:
    """Return the help of every option of a command by field name."""
    docs = field_docs(options)
    for f in dataclasses.fields(options):
        if f.default_factory is not dataclasses.MISSING:
            docs |= field_docs(type(f.default_factory()))
    return docs
