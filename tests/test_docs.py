"""The documentation keeps its promises: links lead somewhere, commands have the options they name, examples run."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from studies import judge, read_study
from studies.formatting import at_most, in_points
from studies.report.overview import write_overview

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])
USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES = 120
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"--[a-z][a-z-]*[a-z]")
INLINE = re.compile(r"`(--[a-z][a-z-]*[a-z])[^`]*`")
STUDY = tuple(f"tune/masking_ratio_study.py{study}" for study in ("", " basis", " theory"))
SCRIPTS = {"pmae": "-m pmae", "pmae-report": "-m studies", "pmae-study": STUDY[0]}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@cache
def help_text(program: str) -> str:
    everything = "--help" if program.startswith("-m studies") else "--help-all"
    done = subprocess.run(
        [sys.executable, *program.split(), everything],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return done.stdout


def commands(text: str) -> list[tuple[str, str]]:
    """(program with its sub-command, rest of the line) of every command of this project in a page's console blocks."""
    found = []
    for language, block in FENCE.findall(text):
        if language != "bash":
            continue
        for line in re.sub(r"\\\n", " ", block).splitlines():
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                script = next((s for s in STUDY if word.endswith(s)), None)
                module = word == "-m" and words[i + 1 : i + 2] in (["pmae"], ["studies"])
                alias = SCRIPTS.get(word) if i == 0 else None
                if not (script or module or alias):
                    continue
                program = script or alias or f"-m {words[i + 1]}"
                rest = words[i + 2 :] if module else words[i + 1 :]
                if program.startswith("-m") and rest and not rest[0].startswith("-"):
                    program, rest = f"{program} {rest[0]}", rest[1:]
                found.append((program, " ".join(rest)))
                break
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_of_the_repository_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}, which does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name(page)} links to {link}; {path} has no such heading"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", USER_PAGES, ids=name)
def test_commands_name_options_that_help_knows(page):
    text = page.read_text(encoding="utf-8")
    for program, rest in commands(text):
        for option in OPTION.findall(rest):
            assert option in OPTION.findall(help_text(program)), f"{name(page)}: {program} has no option {option}"


@pytest.mark.parametrize("page", USER_PAGES, ids=name)
def test_options_in_the_text_exist(page):
    programs = [*STUDY, "-m studies report", "-m studies verdict", "-m studies export", "-m pmae pretrain"]
    known = {option for program in programs for option in OPTION.findall(help_text(program))} | {"--help-all"}
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert not {option for option in INLINE.findall(text) if option not in known}


@pytest.mark.timeout(900)  # trains an epoch; a busy machine needs minutes
def test_python_examples_give_what_the_page_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("python.md", "recipes.md"))
    examples = "\n".join(block for language, block in FENCE.findall(text) if language == "pycon")
    test = doctest.DocTestParser().get_doctest(examples, {}, "python.md", "docs/python.md", 0)
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    assert result.attempted > 20 and not result.failed, "".join(report)


EVIDENCE = sorted(path.parent for path in (ROOT / "docs" / "evidence").glob("*/trials.arrow"))


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_the_readme_quotes_the_verdicts_of_the_committed_rows(folder):
    stored = json.loads((folder / "verdict.json").read_text())
    judged = judge(read_study(folder)).to_dict()
    assert judged["answer"] == stored["answer"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert folder.name != "digits" or f"> {stored['answer']}\n" in readme
    main = not folder.name.endswith("-longer-mae")  # trained for as long as PMAE, for the comparison of methods
    for row, same in zip(judged["rows"], stored["rows"], strict=True):
        assert row["verdict"] == same["verdict"] and row["ci_high"] == pytest.approx(same["ci_high"])
        loses = "" if row["verdict"] == "uninformative" else at_most(row["ci_high"])
        adds = in_points(row["training_gain"])
        quoted = [line.replace("*", "") for line in readme.splitlines() if line.startswith(f"| {folder.name} |")]
        assert not main or any(
            f"| {row['verdict']} | {loses}".rstrip() + " |" in line and line.endswith(f"| {adds} |") for line in quoted
        )


def test_the_overview_is_made_of_the_committed_rows(tmp_path):
    write_overview(EVIDENCE, tmp_path / "overview.md")
    assert (tmp_path / "overview.md").read_text() == (ROOT / "docs" / "evidence" / "overview.md").read_text()
