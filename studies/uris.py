"""URIs in text: which name an object store, and how they are stored, printed and logged without their secrets."""

from __future__ import annotations

import re

_LOGIN = re.compile(r"(\w*)://([^/@\s]+)@")
_OPTION = re.compile(r"(?i)([?&][\w-]*(?:token|key|secret|password|signature|credential|sig)[\w-]*=)[^&\s'\"]+")


def is_uri(text: str) -> bool:
    """Whether ``text`` names an object store: a URI of another kind than ``file://``."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme != "file"


def without_secrets(text: str) -> str:
    """``text`` with user names, passwords and tokens in URLs replaced by ``***``.

    From ``s3://`` the login is taken out altogether: without it the URI works with the ``AWS_*`` variables.
    """
    return _OPTION.sub(r"\1***", _LOGIN.sub(_without_login, text))


def _without_login(found: re.Match[str]) -> str:
    scheme, login = found.groups()
    if scheme == "s3":
        return "s3://"
    # Azure's container, and Google's "nobody", stand where others have a login.
    named = (scheme in ("abfs", "abfss") and ":" not in login) or login == "anonymous"
    return found[0] if named else f"{scheme}://***@"
