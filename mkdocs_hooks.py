"""Links from a page to a file of the repository outside ``docs/`` work on the site too: such files are copied to it.

The pages are written to be read as plain Markdown in the repository, where ``../benchmarks/README.md`` is a valid link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent
COPIES = "repository"  # folder of the site that holds files from outside docs/
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add every linked file of the repository, and what the added Markdown files link to."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for _before, link, _after in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            target = _target(page, link)
            if target is None or files.get_file_from_path(_site_path(target)) is not None:
                continue
            # Pages that are added this way are reached through links, not through the navigation.
            file = File.generated(config, _site_path(target), abs_src_path=str(ROOT / target))
            if target.endswith(".md"):
                pages.append(target)
                file.inclusion = file.inclusion.NOT_IN_NAV
            files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links to files of the repository into links of the site."""
    site = page.file.src_uri
    source = site.removeprefix(f"{COPIES}/") if site.startswith(f"{COPIES}/") else f"docs/{site}"

    def rewrite(match: re.Match[str]) -> str:
        target = _target(source, match[2])
        if target is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(_site_path(target), posixpath.dirname(site) or '.')}{match[3]}"

    return LINK.sub(rewrite, markdown)


def _target(page: str, link: str) -> str | None:
    """Path in the repository of the file that ``link`` on ``page`` points to; None where there is none."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def _site_path(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{COPIES}/{path}"
