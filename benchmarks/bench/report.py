"""docs/performance.md and its plots, from the results files."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, DOCS = HERE.parent / "results", HERE.parents[1] / "docs"

INTRODUCTION = """# Performance

Printed by `make bench` (scripts in [benchmarks/bench](../benchmarks/bench), raw figures in
[benchmarks/results](../benchmarks/results)). Everything is a ratio of two things measured in turns in one run: the
median, and in brackets the smallest and largest of the rounds. Times alone hold for the machine they were measured on.
"""

# part -> heading, what stands above its table, and below it the plot's column, if any
SECTIONS: Mapping[str, tuple[str, str]] = {
    "streaming": (
        "Streaming a store",
        "Batches of 256 into kept buffers, one epoch; from the page cache, except where *cold*. `np.take` on one flat "
        ".npy file is the measure: 2 means twice its rows a second. The order itself is made in the measured time, by "
        "both. The others are read as their users call them, on the same batches; they are measured on fewer.",
    ),
    "streaming-memory": (
        "Memory of streaming",
        "Peak anonymous memory of an epoch (mapped files do not count: the system takes their pages back). "
        "`random` sorts about a million positions at a time, which bounds it.",
    ),
    "shuffling": (
        "How well streaming by chunks shuffles",
        "`chunks` mixes windows of 16 or a few more chunks. The students differ in the order alone.",
    ),
    "losses": (
        "The losses",
        "Forward and backward. GRKD against broadcasting all pairs of classes; KD and LTKD against one log-softmax of "
        "both inputs, forward and backward too.",
    ),
    "overhead": (
        "What a store costs a training step",
        "A step with the store and a loss, against the same step with labels only (batches of 128 images of 32 px).",
    ),
    "students": (
        "Many students from one store",
        "Time with the live teacher as a multiple of the time from the store, extraction included.",
    ),
    "extraction": (
        "Extraction",
        "`kdpipe extract` (ranks, checksums, writing and all) against a bare loop over the same batches that throws "
        "the logits away.",
    ),
    "onnx": ("ONNX teachers on a processor", "torch eager against `--runtime onnx`, EfficientNet-Lite0 at 224 px."),
    "startup": ("Starting", ""),
    "growth": (
        "Growth",
        "Extraction with a teacher that costs next to nothing, and streaming, as the rows grow. What grows with the "
        "rows in extraction is the data set's own index: its images, here in memory, its ids and labels.",
    ),
    "remote": (
        "Remote stores",
        "A server on this machine, 25 ms added to every request: training from it against training from a local store, "
        "and pulling a store, in memory, against the client library alone, which keeps nothing, or writes the same files and "
        "checks nothing. *target* is the least ratio that was set beforehand, for the same work.",
    ),
}


def write() -> None:
    """Write the document from whatever results are there, processors first."""
    parts = [INTRODUCTION]
    for device in ("cpu", "gpu"):
        results = {
            name: json.loads(path.read_text())
            for name in SECTIONS
            if (path := RESULTS / f"{name}-{device}.json").exists()
        }
        if not results:
            continue
        parts.append(_machine(next(iter(results.values()))["machine"]))
        for name, result in results.items():
            heading, text = SECTIONS[name]
            parts += [f"## {heading}" + (" (GPU)" if device == "gpu" else ""), text, *_tables(result["records"])]
            if name in PLOTS:
                parts.append(_plot(name, device, heading, result["records"]))
    DOCS.joinpath("performance.md").write_text("\n\n".join(part.strip() for part in parts if part.strip()) + "\n")


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured {machine['date']} on {machine['gpu'] or machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, {versions}."
    )


def _tables(records: Sequence[dict[str, Any]]) -> list[str]:
    """Records with the same keys in one table."""
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        tables.setdefault(tuple(record), []).append(record)
    return [_table(columns, rows) for columns, rows in tables.items()]


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    if len(rows) == 1 and len(columns) > 6:  # wide: one line each
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(rows[0][name])} |" for name in columns)])
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict) and {"median", "low", "high"} <= value.keys():
        return f"{_number(value['median'])} ({_number(value['low'])} to {_number(value['high'])})"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_cell(one)}" for name, one in value.items())
    return _number(value) if isinstance(value, int | float) else str(value)


def _number(value: float) -> str:
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _plot(name: str, device: str, heading: str, records: Sequence[dict[str, Any]]) -> str:
    """Draw a section's plot; returns the line that shows it."""
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]  (only the document needs it)

    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    alternative = PLOTS[name](figure.add_subplot(), records)
    folder = DOCS / "performance"
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / f"{name}-{device}.svg", metadata={"Date": None, "Creator": None})
    return f"![{heading}: {alternative}](performance/{name}-{device}.svg)"


def _plot_streaming(axes: Any, records: Sequence[dict[str, Any]]) -> str:
    found = [r for r in records if "times memmap" in r]
    readers = list(dict.fromkeys(r["reader"] for r in found))
    cases = list(dict.fromkeys((r["classes"], r["order"]) for r in found))
    for place, reader in enumerate(readers):
        ratio = {(r["classes"], r["order"]): r["times memmap"]["median"] for r in found if r["reader"] == reader}
        axes.barh([n + 0.8 * place / len(readers) for n in range(len(cases))], [ratio.get(c, 0) for c in cases],
                  height=0.8 / len(readers), label=reader)  # fmt: skip
    axes.set(xscale="log", xlabel="rows a second, times np.take on a memory-mapped .npy", ylabel="")
    axes.set_yticks([n + 0.4 for n in range(len(cases))], [f"{order}, C={classes}" for classes, order in cases])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.legend(fontsize=7, loc="lower left")
    return "bars of rows a second by reader and order; kdpipe is level with the flat file, the others are far below"


def _plot_growth(axes: Any, records: Sequence[dict[str, Any]]) -> str:
    rows = [r["rows"] for r in records]
    for column in ("extraction", "streaming"):
        axes.plot(
            rows, [r[f"{column}, s for each million rows"] * r["rows"] / 1e6 for r in records], "o-", label=column
        )
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="seconds")
    axes.legend()
    return "seconds over rows, both axes logarithmic; the lines are straight"


def _plot_students(axes: Any, records: Sequence[dict[str, Any]]) -> str:
    record = records[0]
    counts = range(1, 11)
    store = [record["seconds of the extraction"] + n * record["seconds of a student from the store"] for n in counts]
    live = [n * record["seconds of a student with the live teacher"] for n in counts]
    axes.plot(counts, live, "o-", label="live teacher")
    axes.plot(counts, store, "o-", label="from one store, extraction included")
    axes.set(xlabel="students", ylabel="seconds", ylim=(0, None))
    axes.legend()
    return "seconds over the number of students; the store's line is below the live teacher's from the first student on"


PLOTS: Mapping[str, Callable[[Any, Sequence[dict[str, Any]]], str]] = {
    "streaming": _plot_streaming,
    "students": _plot_students,
    "growth": _plot_growth,
}

if __name__ == "__main__":
    write()
