"""What base paths say: their scheme, and how they look where others may read them."""

import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]*@")
_MODELS = "models:/"
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")


def scheme_of(base_path: str) -> str:
    """Return the scheme of *base_path* in lower case, "file" for a plain path."""
    if base_path.startswith(_MODELS):
        return "models"
    match = _SCHEME.match(base_path)
    return match[1].lower() if match else "file"


def place_of(base_path: str) -> str:
    """Return what of *base_path* says whom to ask: scheme, and host or bucket."""
    scheme = scheme_of(base_path)
    rest = base_path.partition("://")[2] or base_path
    return f"{scheme}://{rest.partition('/')[0]}"


def redacted(base_path: str) -> str:
    """Return *base_path* without a password and without its query, for logs."""
    if scheme_of(base_path) == "file":
        return base_path
    place, has_query, rest = base_path.partition("?")
    key = rest[rest.index("#") :] if "#" in rest else ""
    return _PASSWORD.sub(r"\1:…@", place) + ("?…" if has_query else "") + key


def redacted_text(text: str) -> str:
    """Return *text*, which may hold URLs, without their passwords and queries."""
    return _QUERY.sub(r"\1?…", _PASSWORD.sub(r"\1:…@", text))
