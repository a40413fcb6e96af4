"""What a machine does to an extraction: full disks, read-only folders, failing fsync, stops and signals."""

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from children import Child, Row, command, sentence
from extraction import CHUNK_ROWS, DATA, TEACHER, content, extraction, reference


def all_faults(folder: Path, stopped_seconds: float) -> list[Row]:
    """Every fault of this module, each followed by a resume that must give the reference store."""
    return [
        _limited_files(folder),
        *_small_disk(folder),
        _failing_fsync(folder),
        _stopped_writer(folder, stopped_seconds),
        _signalled(folder, signal.SIGINT),
        _signalled(folder, signal.SIGTERM),
    ]


def _command(out: Path) -> Callable[[], None]:
    return command(
        "extract", "--data", DATA, "--teacher", TEACHER, "--out", out, "--chunk-rows", CHUNK_ROWS, "--batch-size", 32
    )


def _resumed(folder: Path, out: Path, fault: str, code: int | None, wanted: int, said: str) -> Row:
    Child(extraction(out)).wait()
    right = code == wanted and content(out) == reference(folder)
    return Row(fault, 1, f"exit code {code}: “{said}” Resumed: {'identical' if right else 'DIFFERENT'}", right)


def _limited_files(folder: Path) -> Row:
    out, output = folder / "limited.kd", folder / "limited-output"

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
        _command(out)()

    code = Child(limited, folder / "limited-output").wait()
    del output
    return _resumed(folder, out, "a limit on the size of files", code, 1, sentence(folder / "limited-output"))


def _small_disk(folder: Path) -> list[Row]:
    disk, output = folder / "disk", folder / "output"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        return [Row("a full disk; a read-only disk", 0, "not injected: mounting needs root", held=True)]
    try:
        out = disk / "d.kd"
        code = Child(_command(out), output).wait()
        said = sentence(output).replace(str(disk), "DISK")
        remount = ["mount", "-o", "remount,size=50m", str(disk)]
        subprocess.run(remount, check=True)
        full = _resumed(folder, out, "a full disk (tmpfs of 120 kB)", code, 1, said)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code = Child(_command(disk / "e.kd"), output).wait()
        said = sentence(output).replace(str(disk), "DISK")
        return [full, Row("a read-only disk", 1, f"exit code {code}: “{said}”", code == 1)]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _failing_fsync(folder: Path) -> Row:
    out, output, real = folder / "fsync.kd", folder / "output", os.fsync
    calls = 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    def run() -> None:
        os.fsync = failing
        _command(out)()

    code = Child(run, output).wait()
    return _resumed(folder, out, "fsync fails (EIO)", code, 1, sentence(output).replace(str(folder), "FOLDER"))


def _stopped_writer(folder: Path, seconds: float) -> Row:
    out, output = folder / "stopped.kd", folder / "output"
    first = Child(_command(out))
    while not list(out.glob("receipts/*")):
        time.sleep(0.001)
    first.kill(signal.SIGSTOP)
    second = Child(_command(out), output)
    waited = second.wait(seconds)
    first.kill(signal.SIGCONT)
    codes = (first.wait(), second.wait() if waited is None else waited)
    right = codes == (0, 0) and content(out) == reference(folder)
    said = "the other process says whom it waits for" if "waiting for chunks" in output.read_text() else "it waited"
    how = f"both end with exit codes {codes[0]} and {codes[1]}; {said}; {'identical' if right else 'DIFFERENT'}"
    return Row(f"a writer stopped for {seconds:.0f} s beside another (SIGSTOP)", 1, how, right)


def _signalled(folder: Path, number: signal.Signals) -> Row:
    out, output = folder / f"{number.name}.kd", folder / "output"
    child = Child(_command(out), output)
    while not list(out.glob("receipts/*")):
        time.sleep(0.001)
    child.kill(number)
    code = child.wait()
    return _resumed(folder, out, f"{number.name} to an extraction", code, 130, sentence(output))
