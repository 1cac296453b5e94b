"""Passwords in addresses, kept out of messages and of what is stored beside results."""

from __future__ import annotations

import re

#: The login of an address ends where its host begins: before the first of ``/ ? #``.
_LOGIN = re.compile(r"(://[^\s:/?#@]*):[^\s/?#]*@")
#: PostgreSQL takes a password among the options of an address too.
_OPTION = re.compile(r"([?&]password=)[^&#\s]*")


def redacted(text: str) -> str:
    """A text, such as an address, with ``***`` in place of the password of every address in it."""
    return _OPTION.sub(r"\1***", _LOGIN.sub(r"\1:***@", text))
