"""What a verification found: findings that name a file each, and counts of what was looked at."""

from dataclasses import dataclass, field, replace
from typing import Literal

Severity = Literal["error", "warning"]

# what kind of thing is wrong; stable, for programs that read the JSON
Check = Literal[
    "manifest",  # the manifest, or what it says of itself
    "unfinished",  # no damage: the extraction is not finished
    "missing",
    "size",
    "checksum",
    "receipt",  # a receipt that cannot be read, or that is not this chunk's
    "schema",  # a table or Zarr document that is not what the format says
    "content",  # values that contradict each other, or that cannot be right
    "fingerprint",  # the rows together are not what the manifest says; no chunk can be blamed
    "replay",  # the teacher, run again, says something else
]

MAX_FINDINGS = 10_000
MAX_NOTES = 100


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with one file.

    Attributes:
        path: the file, relative to the store.
        chunk: the chunk it belongs to, if it belongs to one.
        check: what kind of thing is wrong.
        problem: what is wrong, in words.
        severity: a warning is worth knowing; an error must not be read.
    """

    path: str
    chunk: int | None = None
    check: Check
    problem: str
    severity: Severity = "error"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a verification found.

    Attributes:
        path: the store.
        store_id: of the store, as far as it can be known.
        state: "writing" or "complete"; None where the manifest cannot be read.
        deep: whether contents were read, or only sizes, receipts and table footers.
        findings: what is wrong, at most ``MAX_FINDINGS``.
        stopped: whether there are more findings than that; the rest of the store was then not looked at.
        notes: what is not wrong but worth saying, such as files that do not belong to a store.
        chunks: of the whole store.
        chunks_checked: chunks that have a receipt and were looked at.
        chunks_missing: chunks without a receipt.
        files_checked: files whose size, and if deep also content, was compared.
        rows_checked: rows whose values were compared with each other (deep).
        rows_recomputed: rows that the teacher computed again.
        largest_difference: between stored and recomputed logits.
        bytes_read: of the files that were read whole.
    """

    path: str
    store_id: str | None = None
    state: str | None = None
    deep: bool = False
    findings: tuple[Finding, ...] = ()
    stopped: bool = False
    notes: tuple[str, ...] = ()
    chunks: int = 0
    chunks_checked: int = 0
    chunks_missing: int = 0
    files_checked: int = 0
    rows_checked: int = 0
    rows_recomputed: int = 0
    largest_difference: float | None = None
    bytes_read: int = 0

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the store unfit to be read."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The other findings."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def whole(self) -> bool:
        """Whether the store is finished, and nothing in it was found wrong."""
        return not self.errors


class TooManyFindingsError(Exception):
    """The store is so damaged that listing more says nothing new; never leaves the verification."""


@dataclass(kw_only=True)
class Collector:
    """Findings, notes and counts while a verification runs."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chunks_checked: int = 0
    chunks_missing: int = 0
    files_checked: int = 0
    rows_checked: int = 0
    bytes_read: int = 0

    def add(
        self, path: str, check: Check, problem: str, *, chunk: int | None = None, severity: Severity = "error"
    ) -> None:
        """Note a finding.

        Raises:
            TooManyFindingsError: there are ``MAX_FINDINGS`` already; a hostile manifest could claim millions of chunks.
        """
        if len(self.findings) >= MAX_FINDINGS:
            raise TooManyFindingsError
        self.findings.append(Finding(path=path, chunk=chunk, check=check, problem=problem, severity=severity))

    def note(self, text: str) -> None:
        """Note something that is not wrong; a folder full of strange files is not listed to its end."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text)
        elif len(self.notes) == MAX_NOTES:
            self.notes.append("more such files are not listed")

    def blames(self, *checks: Check) -> bool:
        """Whether there is an error of one of these kinds."""
        return any(finding.severity == "error" and finding.check in checks for finding in self.findings)

    def into(self, report: Report) -> Report:
        """The report with all that was found."""
        return replace(
            report,
            findings=tuple(self.findings),
            notes=tuple(self.notes),
            chunks_checked=self.chunks_checked,
            chunks_missing=self.chunks_missing,
            files_checked=self.files_checked,
            rows_checked=self.rows_checked,
            bytes_read=self.bytes_read,
        )
