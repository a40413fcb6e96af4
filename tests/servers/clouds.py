"""Small stand-ins on loopback for Google's and Microsoft's object storage, as far as a store needs them.

Objects are kept in memory. Conditional writes, paged listings and authorisation are those of the services' documents:
https://cloud.google.com/storage/docs/xml-api/overview and
https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key.
"""

import base64
import hashlib
import hmac
import http.server
import re
import threading
from types import TracebackType
from typing import ClassVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "team-data"
TOKEN = "ya29.TOKENSECRET"
ACCOUNT, KEY = "teamaccount", base64.b64encode(b"ACCOUNTKEYSECRET" * 2).decode()
_PAGE = 7  # a store's listing has several
_TIME = "Sat, 21 Nov 2026 00:00:00 GMT"


class Cloud(http.server.ThreadingHTTPServer):
    """One bucket, in a thread of its own.

    Attributes:
        objects: by key.
        requests: method and path of all that came.
        wrong: an environment of somebody else's.
    """

    scheme = ""
    wrong: ClassVar[dict[str, str]]
    conflict: ClassVar[tuple[int, str]]  # how an object that is there already is told
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> "Cloud":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def address(self) -> str:
        return f"{self.scheme}://{BUCKET}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment must say."""
        raise NotImplementedError

    def authorises(self, request: "_Handler") -> bool:
        raise NotImplementedError

    def forbids_overwriting(self, request: "_Handler") -> bool:
        raise NotImplementedError

    def listing(self, query: dict[str, str]) -> str:
        raise NotImplementedError

    def page(self, query: dict[str, str], token: str) -> tuple[list[str], list[str], str]:
        """The keys, the folders and the next page's token of a listing."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names = sorted(key for key in self.objects if key.startswith(prefix))
        if delimiter:
            names = sorted({_cut(name, prefix, delimiter) for name in names})
        first = int(query.get(token) or 0)
        shown = names[first : first + _PAGE]
        following = str(first + _PAGE) if first + _PAGE < len(names) else ""
        folders = [name for name in shown if delimiter and name.endswith(delimiter)]
        return [name for name in shown if name not in folders], folders, following


class GoogleCloud(Cloud):
    """Google's XML interface; a request is authorised by the token."""

    scheme = "gs"
    conflict = 412, "PreconditionFailed"
    wrong: ClassVar = {"GOOGLE_BEARER_TOKEN": "OTHERSECRET"}

    @property
    def environment(self) -> dict[str, str]:
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_BEARER_TOKEN": TOKEN}

    def authorises(self, request: "_Handler") -> bool:
        return request.headers["Authorization"] == f"Bearer {TOKEN}"

    def forbids_overwriting(self, request: "_Handler") -> bool:
        return request.headers["x-goog-if-generation-match"] == "0"

    def listing(self, query: dict[str, str]) -> str:
        keys, folders, following = self.page(query, "continuation-token")
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size>"
            f"<LastModified>2026-11-21T00:00:00.000Z</LastModified><ETag>{_tag(self.objects[key])}</ETag></Contents>"
            for key in keys
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders)
        token = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
        return f"<ListBucketResult>{contents}{prefixes}{token}</ListBucketResult>"


class AzureCloud(Cloud):
    """Azure's block blobs; a request is signed with the account's key."""

    scheme = "az"
    conflict = 409, "BlobAlreadyExists"
    wrong: ClassVar = {"AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"OTHERSECRET").decode()}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }

    def authorises(self, request: "_Handler") -> bool:
        headers = {name.lower(): value for name, value in request.headers.items()}
        length = headers.get("content-length", "")
        plain = [
            "content-encoding", "content-language", "", "content-md5", "content-type", "date", "if-modified-since",
            "if-match", "if-none-match", "if-unmodified-since", "range",
        ]  # fmt: skip
        lines = [request.command, *(headers.get(name, "") for name in plain)]
        lines[3] = "" if length == "0" else length
        lines += [f"{name}:{headers[name].strip()}" for name in sorted(headers) if name.startswith("x-ms-")]
        parts = urlsplit(request.path)
        lines.append(f"/{ACCOUNT}{parts.path}")
        lines += [f"{name}:{value}" for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))]
        digest = hmac.digest(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256)
        return headers.get("authorization") == f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"

    def forbids_overwriting(self, request: "_Handler") -> bool:
        return request.headers["If-None-Match"] == "*"

    def listing(self, query: dict[str, str]) -> str:
        keys, folders, following = self.page(query, "marker")
        blobs = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{_TIME}</Last-Modified>"
            f"<Content-Length>{len(self.objects[key])}</Content-Length><Content-Type>any</Content-Type>"
            f"<Etag>{_tag(self.objects[key])}</Etag></Properties></Blob>"
            for key in keys
        )
        prefixes = "".join(f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>" for folder in folders)
        return f"<EnumerationResults><Blobs>{blobs}{prefixes}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def cloud(self) -> Cloud:
        return cast("Cloud", self.server)

    def do_GET(self) -> None:
        key = self._begin()
        if key is None:
            return
        if not key:
            query = dict(parse_qsl(urlsplit(self.path).query))
            self._answer(200, self.cloud.listing(query).encode())
        elif key in self.cloud.objects:
            self._answer(200, self.cloud.objects[key], tagged=True)
        else:
            self._refuse(404, "NoSuchKey")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        key = self._begin()
        if key is None:
            return
        with self.cloud.lock:
            taken = key in self.cloud.objects and self.cloud.forbids_overwriting(self)
            if not taken:
                self.cloud.objects[key] = data
        if taken:
            self._refuse(*self.cloud.conflict)
        else:
            self._answer(201, b"", tag=_tag(data))

    def do_DELETE(self) -> None:
        key = self._begin()
        if key is not None:
            self._answer(202, b"") if self.cloud.objects.pop(key, None) is not None else self._refuse(404, "NoSuchKey")

    def do_POST(self) -> None:
        """Azure deletes in batches: requests in the parts of a request."""
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        if self._begin() is None:
            return
        answers = []
        for number, path in enumerate(re.findall(r"^DELETE /([^ ?]+)", body, re.MULTILINE)):
            found = self.cloud.objects.pop(unquote(path).partition("/")[2], None)
            status = "202 Accepted" if found is not None else "404 Not Found"
            answers.append(f"--parts\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\nx-ms-version: 1\r\n\r\n")
        self._answer(202, "".join([*answers, "--parts--\r\n"]).encode(), kind="multipart/mixed; boundary=parts")

    def _begin(self) -> str | None:
        """The key that is meant, empty for the bucket; None where the request was refused."""
        path = unquote(urlsplit(self.path).path)
        self.cloud.requests.append(f"{self.command} {path}")
        if not self.cloud.authorises(self):
            self._refuse(403, "AuthenticationFailed")
            return None
        bucket, _, key = path.removeprefix("/").partition("/")
        if bucket != BUCKET:
            self._refuse(404, "NoSuchBucket")
            return None
        return key

    def _refuse(self, status: int, code: str) -> None:
        said = self.headers["Authorization"]  # as careless servers do
        self._answer(status, f"<Error><Code>{code}</Code><Message>{said}</Message></Error>".encode())

    def _answer(
        self, status: int, body: bytes, *, tagged: bool = False, tag: str = "", kind: str = "application/xml"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", _TIME)
        if tagged or tag:
            self.send_header("ETag", tag or _tag(body))
            self.send_header("x-goog-generation", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _tag(data: bytes) -> str:
    """Of the content, and not its MD5: such tags prove nothing to a client."""
    return f'"0x{hashlib.sha256(data).hexdigest()[:16].upper()}"'


def _cut(name: str, prefix: str, delimiter: str) -> str:
    """The object right below a prefix, or the folder there that holds it."""
    first, found, _ = name.removeprefix(prefix).partition(delimiter)
    return prefix + first + found
