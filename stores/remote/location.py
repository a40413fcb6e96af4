"""Where a store lies: a local folder, or an address in object storage or on the web."""

import re
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ..errors import UsageError, unknown

SCHEMES = ("s3", "gs", "az", "https", "http")
# what a slip of the hand, or `pathlib`, makes of an address; no folder is meant by it
_ONE_SLASH = re.compile(rf"({'|'.join(SCHEMES)}):/(?!/)")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Location:
    """A place for stores.

    Attributes:
        scheme: of the address; empty for a local path.
        address: the whole address; it may hold a signed query or a password and is never shown.
        public: how to name the place in messages and records: without user, password and query.
    """

    scheme: str
    address: str = field(repr=False)
    public: str

    def __str__(self) -> str:
        return self.public

    @classmethod
    def parse(cls, text: str | PathLike[str]) -> "Location":
        """Read an address or a path.

        Raises:
            UsageError: an unknown scheme, no bucket or host, or credentials where none may be.
        """
        text = str(text)
        if not is_url(text):
            return cls("", text.rstrip("/") or text, text)
        parts = urlsplit(text)
        path = parts.path.strip("/")
        public = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
        if parts.scheme not in SCHEMES:
            raise unknown("kind of storage", parts.scheme, SCHEMES)
        if not parts.netloc.rpartition("@")[2]:
            raise UsageError(f"The address {public} names no bucket or host. Write {parts.scheme}://NAME/PATH.")
        if ".." in path.split("/") or "//" in path:
            raise UsageError(f"The address {public} has an empty or '..' part. Write the path plainly.")
        is_web = parts.scheme in ("https", "http")
        if not is_web and ("@" in parts.netloc or parts.query or parts.fragment):
            raise UsageError(
                f"The address {public} was given with a user, a password or a query. "
                "Credentials come from the environment or a profile, never from the address."
            )
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise UsageError(f"{public} is not encrypted. Use https://; http:// is only for this machine.")
        return cls(parts.scheme, urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")), public)

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine."""
        return not self.scheme

    @property
    def is_writable(self) -> bool:
        """Whether kdpipe can write there: everywhere but on the web."""
        return self.scheme not in ("https", "http")

    @property
    def folder(self) -> Path:
        """The local folder."""
        return Path(self.address)

    def child(self, name: str) -> "Location":
        """The place of that name below this one."""
        if self.is_local:
            return Location("", f"{self.address}/{name}", f"{self.public.rstrip('/')}/{name}")
        parts = urlsplit(self.address)
        path = f"{parts.path}/{name}".lstrip("/")
        return Location(
            self.scheme, urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")), f"{self.public}/{name}"
        )


def is_url(text: str | PathLike[str]) -> bool:
    """Whether a STORE is an address, not a local path.

    Raises:
        UsageError: it has one slash where an address has two.
    """
    text = str(text)
    if mistyped := _ONE_SLASH.match(text):
        raise UsageError(f"An address begins with {mistyped[1]}://, two slashes, and is given as text, not as a Path.")
    return "://" in text
