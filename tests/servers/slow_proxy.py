"""A proxy on loopback that makes a server slow and unreliable: added latency, answers that say 500, keys that expire.

python slow_proxy.py PORT SECONDS      prints the proxy's port and serves until it is killed
"""

import asyncio
import contextlib
import sys
import threading
from types import TracebackType

_REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_EXPIRY = b"<Error><Code>ExpiredToken</Code><Message>SECRETTOKEN has expired</Message></Error>"
_EXPIRED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_EXPIRY), _EXPIRY)


class SlowProxy:
    """Passes HTTP/1 on to a server, in a thread of its own.

    Args:
        port: of the server, on this machine.
        latency: seconds that are added to every request.
        fail_every: answer every so manieth request by 500 instead; 0 for none.
        without: a header that is not passed on, in lower case.

    Attributes:
        expires_after: so many requests are passed on, all others are answered by 403; None for no end.
        requests: how many requests have come.
        ranges: how many of them asked for a part of an object.
        failed: how many of them were answered by 500.
    """

    def __init__(self, port: int, *, latency: float = 0.0, fail_every: int = 0, without: str = "") -> None:
        self._target, self.latency, self.fail_every, self._without = port, latency, fail_every, without
        self.requests = self.ranges = self.failed = 0
        self.expires_after: int | None = None
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._clients: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> "SlowProxy":
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._started.set()
        self._loop.run_forever()
        self._server.close()
        for writer in tuple(self._clients):
            writer.close()
        if open_ones := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(open_ones, timeout=5))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one after the other, answers copied as they come."""
        self._clients.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            copying = asyncio.ensure_future(_copy(there, writer))
            while head := await _head(reader):
                self.requests += 1
                self.ranges += b"\r\nrange:" in head.lower()
                if self.expires_after is not None and self.requests > self.expires_after:
                    writer.write(_EXPIRED)
                    break
                if self.fail_every and self.requests % self.fail_every == 0:
                    self.failed += 1
                    writer.write(_REFUSAL)
                    break
                await asyncio.sleep(self.latency)
                back.write(self._passed(head))
                await _pass_body(head, reader, back)
            await writer.drain()
            back.close()
            await copying
        writer.close()
        self._clients.discard(writer)

    def _passed(self, head: bytes) -> bytes:
        lines = head.split(b"\r\n")
        unwanted = f"{self._without}:".encode()
        return b"\r\n".join(line for line in lines if not self._without or not line.lower().startswith(unwanted))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def _pass_body(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0].partition(b":")[2]) if lengths else 0
    while left:
        data = await reader.read(min(left, 1 << 18))
        if not data:
            return
        left -= len(data)
        writer.write(data)
        await writer.drain()


if __name__ == "__main__":
    with SlowProxy(int(sys.argv[1]), latency=float(sys.argv[2])) as the_proxy:
        print(the_proxy.port, flush=True)
        threading.Event().wait()
