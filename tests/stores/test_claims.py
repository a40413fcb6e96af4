"""Claims: one process a chunk, and the claims of dead processes do not bar the living."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from kdpipe.stores.claims import ChunkClaims, Claim, living_claims


def write_claim(root: Path, chunk: int, **changes: object) -> Path:
    claim = {**msgspec.to_builtins(Claim.mine()), **changes}
    path = root / "locks" / f"{chunk:05d}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode(claim))
    return path


def test_a_chunk_is_claimed_once(tmp_path: Path) -> None:
    one, other = ChunkClaims(tmp_path), ChunkClaims(tmp_path)
    assert one.take(3)
    assert not other.take(3)
    assert other.take(4)
    (claim,) = other.others([3, 4])
    assert (claim.pid, claim.host) == (os.getpid(), socket.gethostname())
    one.release(3)
    assert other.take(3)
    other.release_all()
    one.release_all()
    assert not (tmp_path / "locks").exists()


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_claim(tmp_path, 0, pid=dead.pid)
    assert living_claims(tmp_path) == []
    assert ChunkClaims(tmp_path).take(0)


def test_what_dead_processes_left_is_removed_at_the_end(tmp_path: Path) -> None:
    write_claim(tmp_path, 7, process_started=1)
    claims = ChunkClaims(tmp_path)
    claims.take(0)
    claims.release_all()
    assert not (tmp_path / "locks").exists()


def test_a_process_number_used_again_is_another_process(tmp_path: Path) -> None:
    write_claim(tmp_path, 0, process_started=1)
    assert ChunkClaims(tmp_path).take(0)


@pytest.mark.parametrize(("age", "taken"), [(60, False), (3600, True)])
def test_the_claim_of_another_host_is_stale_without_a_sign_of_life(tmp_path: Path, age: int, taken: bool) -> None:
    path = write_claim(tmp_path, 0, host="elsewhere")
    os.utime(path, (time.time() - age, time.time() - age))
    assert ChunkClaims(tmp_path).take(0) is taken


def test_a_coordinator_s_word_takes_a_claim_over(tmp_path: Path) -> None:
    """It has given the chunk to this process: the claim is of one that it has lost, on another host perhaps."""
    write_claim(tmp_path, 0, host="elsewhere")
    assert not ChunkClaims(tmp_path).take(0)
    claims = ChunkClaims(tmp_path, take_over=True)
    assert claims.take(0)
    (claim,) = living_claims(tmp_path)
    assert claim.host == socket.gethostname()
    claims.release(0)
    assert living_claims(tmp_path) == []


def test_a_claim_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = ChunkClaims(tmp_path)
    claims.take(0)
    path = tmp_path / "locks" / "00000.json"
    os.utime(path, (0, 0))
    claims.renew()
    assert path.stat().st_mtime == 0, "not yet due"
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 31)
    claims.renew()
    assert path.stat().st_mtime > time.time() - 60


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}'])
def test_a_claim_that_cannot_be_read_is_taken_over_when_it_is_old(tmp_path: Path, content: bytes) -> None:
    path = write_claim(tmp_path, 0)
    path.write_bytes(content)
    assert not ChunkClaims(tmp_path).take(0), "its writer may be filling it"
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert ChunkClaims(tmp_path).take(0)


def test_many_processes_share_the_chunks(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom kdpipe.stores.claims import ChunkClaims\n"
        "claims = ChunkClaims(Path(sys.argv[1]))\n"
        "print(*[c for c in range(200) if claims.take(c)])\nsys.stdout.flush()\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(3)]
    taken = [[int(word) for word in (p.stdout.readline() if p.stdout else "").split()] for p in processes]
    for process in processes:
        process.communicate("")
    assert sorted(chunk for chunks in taken for chunk in chunks) == list(range(200)), "each chunk once"
