"""What base paths say: their scheme, and how they look where others may read them."""

import re
from urllib.parse import urlsplit, urlunsplit

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MODELS = "models:/"


def scheme_of(base_path: str) -> str:
    """Return the scheme of *base_path* in lower case, "file" for a plain path."""
    if base_path.startswith(_MODELS):
        return "models"
    match = _SCHEME.match(base_path)
    return match[1].lower() if match else "file"


def redacted(base_path: str) -> str:
    """Return *base_path* without a password and without its query, for logs."""
    if scheme_of(base_path) == "file":
        return base_path
    try:
        parts = urlsplit(base_path)
        password = parts.password
    except ValueError:
        return f"{scheme_of(base_path)}://…"
    netloc = parts.netloc
    if password is not None:
        user, _, host = netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}:…@{host}"
    query = "…" if parts.query else ""
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))
