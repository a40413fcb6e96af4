"""Objects in object storage or on the web, by obstore; every failure becomes a sentence that holds no secret."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from ..errors import CorruptStoreError, KdpipeError, UsageError, missing_extra
from .location import Location
from .objects import Found
from .profile import profile_settings
from .transfer import FORKED

# how long a request that fails is tried again: a server may be started again meanwhile
_RETRY_SECONDS = 60.0
_MAX_RETRIES = 1000
_MAX_BACKOFF_SECONDS = 5.0
# of one request: the largest chunks are 32 MB, and a line may be slow; a stalled one is given up much earlier
_REQUEST_SECONDS = 300.0
_STALLED_SECONDS = 30.0
_CONNECT_SECONDS = 10.0

_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT",
              "GOOGLE_BASE_URL")  # fmt: skip
# what to set where nothing says who asks
_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public place AWS_SKIP_SIGNATURE=true",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS; for a public place GOOGLE_SKIP_SIGNATURE=true",
    "az": "Set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN; for a public place AZURE_SKIP_SIGNATURE=true",
}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
# where a machine is asked for its role, because nothing else says who asks
_ROLE = re.compile(r"169\.254\.169\.254|169\.254\.170\.2|/computeMetadata/|GET \S+\?api-version=\S+&resource=")
_KEY_FILE = "the key file that GOOGLE_APPLICATION_CREDENTIALS names"
_SETTINGS = (
    (re.compile("Account must be specified"), "no account is named. Set AZURE_STORAGE_ACCOUNT_NAME"),
    (re.compile("Invalid Access Key"), "AZURE_STORAGE_ACCOUNT_KEY is not a key: it is not base64"),
    (re.compile("Unable to open service account file"), f"{_KEY_FILE} cannot be opened. Check its path"),
    (re.compile("decode service account file|pem file|KeyRejected"), f"{_KEY_FILE} is not one of Google's"),
)

# obstore's threads do not survive a fork: another process that uses them waits for ever
_used_by: int | None = None


class RemoteObjects:
    """The objects below an address. Usable from many threads, but in one process only.

    Args:
        location: the address.

    Raises:
        MissingExtraError: obstore is not installed.
        UsageError: the environment or the profile does not say enough, such as the name of an account.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._check_process()
        try:
            from obstore.store import from_url  # an optional dependency
        except ImportError:
            raise missing_extra("remote", f"The address {location}") from None
        settings: Any = profile_settings() if location.scheme == "s3" else {}
        with self._explained("", "opened"):
            self._store = from_url(
                location.address,
                config=settings or None,
                client_options={
                    "allow_http": _allows_http(location, settings),
                    "timeout": timedelta(seconds=_REQUEST_SECONDS),
                    "read_timeout": timedelta(seconds=_STALLED_SECONDS),
                    "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                },
                retry_config={
                    "max_retries": _MAX_RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                    "backoff": {"max_backoff": timedelta(seconds=_MAX_BACKOFF_SECONDS)},
                },
            )

    def read(self, path: str, *, limit: int) -> memoryview | None:
        """See :class:`.objects.Objects`."""
        with self._explained(path, "read"):
            try:
                answer = self._store.get(path)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None
            size = answer.meta["size"]
            data = memoryview(b"") if size > limit else memoryview(answer.bytes())
        if size > limit:
            raise CorruptStoreError(f"{self.location}/{path} has {size} bytes instead of at most {limit}.")
        return data

    def create(self, path: str, data: bytes | memoryview) -> Found | None:
        """See :class:`.objects.Objects`."""
        from obstore.exceptions import AlreadyExistsError

        try:
            return self._put(path, data, "create")
        except AlreadyExistsError:
            return None

    def replace(self, path: str, data: bytes | memoryview) -> Found:
        """See :class:`.objects.Objects`."""
        return self._put(path, data, "overwrite")

    def delete(self, path: str) -> None:
        """See :class:`.objects.Objects`."""
        with self._explained(path, "deleted"):
            try:
                self._store.delete(path)
            except FileNotFoundError:
                return

    def found(self) -> dict[str, Found]:
        """See :class:`.objects.Objects`."""
        with self._explained("", "listed"):
            pages = self._store.list(chunk_size=1000)
            return {one["path"]: Found(bytes=one["size"], e_tag=one["e_tag"]) for page in pages for one in page}

    def children(self) -> tuple[list[str], list[str]]:
        """See :class:`.objects.Objects`."""
        with self._explained("", "listed"):
            listing = self._store.list_with_delimiter()
        folders = [path.rstrip("/").rpartition("/")[2] for path in listing["common_prefixes"]]
        return sorted(folders), sorted(one["path"].rpartition("/")[2] for one in listing["objects"])

    def _put(self, path: str, data: bytes | memoryview, mode: Any) -> Found:
        with self._explained(path, "written"):
            # one request: an object is whole or absent, and its tag is then of all its bytes
            answer = self._store.put(path, data, mode=mode, use_multipart=False)
        return Found(bytes=memoryview(data).nbytes, e_tag=answer["e_tag"])

    @contextmanager
    def _explained(self, path: str, done: str) -> Iterator[None]:
        """Turn what the client says into a sentence of ours: its own text holds whole addresses."""
        self._check_process()
        try:
            yield
        except (KdpipeError, KeyboardInterrupt):
            raise
        except Exception as error:
            if type(error).__name__ == "AlreadyExistsError":
                raise
            place = f"{self.location}/{path}" if path else str(self.location)
            what, kind = f"{place} cannot be {done}", type(error).__name__
            raise _explanation(what, self.location.scheme, kind, str(error)) from None

    def _check_process(self) -> None:
        global _used_by
        if _used_by is None:
            _used_by = os.getpid()
        elif _used_by != os.getpid():
            raise KdpipeError(FORKED)


def proves(found: Found, data: bytes | memoryview) -> bool:
    """Whether the server's tag shows that it holds exactly these bytes.

    S3's tag of an object written by one request is its MD5, unless a key service encrypts it. A tag of another kind
    proves nothing: the object has to be read to know.
    """
    tag = (found.e_tag or "").strip('"')
    return found.bytes == memoryview(data).nbytes and tag == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _allows_http(location: Location, settings: dict[str, str]) -> bool:
    """Whether plain HTTP is meant: the endpoint was written so, or the environment allows it."""
    endpoints = [settings.get("endpoint", ""), *(os.environ.get(name, "") for name in _ENDPOINTS)]
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    return allowed or location.scheme == "http" or any(endpoint.startswith("http://") for endpoint in endpoints)


def _explanation(what: str, scheme: str, kind: str, text: str) -> KdpipeError:
    """Only words known to be harmless are taken from the client's text."""
    if setting := next((says for pattern, says in _SETTINGS if pattern.search(text)), None):
        return UsageError(f"{what}: {setting}.")
    status, code = _STATUS.search(text), _CODE.search(text)
    advice = "Run the same command again: what is transferred is kept"
    if _ROLE.search(text):
        reason, advice = "no credentials were found", _CREDENTIALS.get(scheme, advice)
    elif status and status[1] in ("401", "403"):
        reason = f"the server refused ({status[1]}{f' {code[1]}' if code else ''})"
        advice = "Check that the credentials are right, not expired, and allow this"
    elif "performing token request" in text:
        reason, advice = "the credentials could not be renewed", "Check that they are right, and the network"
    elif code and code[1] == "NoSuchBucket":
        reason, advice = "there is no such bucket", "Check the name, or create it"
    elif status:
        reason = f"the server answered {status[1]}{f' {code[1]}' if code else ''}"
    elif "kind: Timeout" in text or "TimedOut" in text:
        reason = "the server is too slow"
    elif "kind: Connect" in text or "error sending request" in text:
        reason = "the server cannot be reached"
        advice = f"Check the network and the endpoint, then run the same command again{advice.partition('again')[2]}"
    else:
        reason = f"the client reports {kind}"
    return KdpipeError(f"{what}: {reason}. {advice}.")
