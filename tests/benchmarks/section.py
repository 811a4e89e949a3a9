"""The tables of docs/benchmarks/full-size.md, made from the results that lie there."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from measure import format_seconds, format_size

BEGIN, END = "<!-- full-size:begin -->", "<!-- full-size:end -->"
TITLE = "# Full size"
DASH = "-"
_EXPORTS = ("ours-w8a8", "ours-w4a16", "ours-mixed")
_GRAPHS = ("ours-fp32-graph", "naive-onnx", "modelopt", "modelopt-max")

Result = Mapping[str, Any]
Results = Mapping[str, Result]


def replace_section(text: str, body: str, title: str = TITLE, begin: str = BEGIN, end: str = END) -> str:
    """``text`` with what lies between the markers replaced; a new section at the end where it has no markers."""
    if begin not in text:
        return f"{text.rstrip()}\n\n{title}\n{begin}\n{body.strip()}\n{end}\n".lstrip()
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{begin} without {end}")
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def render(results: Results, titles: Mapping[str, str], what: str, *, random_weights: bool) -> str:
    """Markdown of all tables that have results. what: one line on model and input; titles: by measurement name."""
    marked = " Weights are **random**: sizes, times and memory are real, accuracy figures are not." * random_weights
    parts = [f"{what}.{marked} {_machines(results)}"]
    makers = (_exports, _stages, _parity, _rtx, _latency, _resume, _commands)
    parts += [part for maker in makers if (part := maker(results, titles))]
    return "\n\n".join(parts)


def _machines(results: Results) -> str:
    """Where the results come from; more than one line of versions means that some should be measured again."""
    seen = []
    for result in results.values():
        machine = result["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        line = f"{machine['cores']} cores, {format_size(machine['memory_bytes'])} of memory; {versions}."
        if line not in seen:
            seen.append(line)
    return " ".join(seen)


def _exports(results: Results, titles: Mapping[str, str]) -> str:
    rows = [
        (
            titles[name],
            format_seconds(result["wall_s"]),
            format_size(result["peak_bytes"]),
            format_size(result.get("own_peak_bytes")),
            result["figures"].get("nodes", DASH),
            result["figures"].get("computing_nodes", result["figures"].get("computing", DASH)),
            format_size(result["figures"].get("onnx_bytes")),
            _number(result["figures"].get("fp32_over_onnx"), "{:.2f}"),
            result["ended"],
        )
        for name, result in _some(results, (*_EXPORTS, *_GRAPHS))
    ]
    columns = ("program", "wall", "peak memory", "without children", "ONNX nodes", "without Q/DQ/Cast", "ONNX")
    return "## Whole programs\n" + table((*columns, "FP32 / ONNX", "ended"), rows) if rows else ""


def _stages(results: Results, titles: Mapping[str, str]) -> str:
    """Seconds by stage, those in the model's own forward in brackets."""
    columns = {name: _stage_cells(result["figures"]) for name, result in _some(results, _EXPORTS)}
    stages = list(dict.fromkeys(stage for cells in columns.values() for stage in cells if stage != "sum"))
    rows = [(stage, *(cells.get(stage, DASH) for cells in columns.values())) for stage in (*stages, "sum")]
    heads = ("stage", *(titles[name] for name in columns))
    return "## Seconds by stage (of these in the model's own forward)\n" + table(heads, rows) if stages else ""


def _stage_cells(figures: Mapping[str, Any]) -> dict[str, str]:
    """The manifest's timings, or else what the progress lines said."""
    timings = figures.get("timings") or [
        {"step": stage, "seconds": seconds} for stage, seconds in figures.get("stage_seconds", {}).items()
    ]
    seconds = {one["step"]: (one["seconds"], one.get("forward_seconds") or 0.0) for one in timings}
    seconds |= {"sum": (sum(all_of for all_of, _ in seconds.values()), sum(own for _, own in seconds.values()))}
    return {stage: f"{both[0]:.1f}" + (f" ({both[1]:.1f})" if both[1] else "") for stage, both in seconds.items()}


def _parity(results: Results, titles: Mapping[str, str]) -> str:
    rows = []
    for name, result in _some(results, _EXPORTS):
        for output, figures in (result["figures"].get("validation") or {}).items():
            cells = (_number(figures.get(metric), form) for metric, form in _PARITY.items())
            rows.append((titles[name], output, *cells))
    heads = ("program", "output", *_PARITY)
    return "## The QDQ ONNX in ONNX Runtime against the simulation in torch\n" + table(heads, rows) if rows else ""


_PARITY = {"cosine": "{:.7f}", "sqnr_db": "{:.1f}", "max_abs": "{:.2e}"}


def _rtx(results: Results, titles: Mapping[str, str]) -> str:
    rows = [
        (
            titles[name],
            format_seconds(result["wall_s"]),
            format_size(result["peak_bytes"]),
            format_size(result["figures"].get("plan_bytes")),
            result["figures"].get("layers", DASH),
            result["figures"].get("detail") or result["ended"],
        )
        for name, result in _some(results, ("rtx-w8a8",))
    ]
    columns = ("compile", "seconds", "peak memory", "plan", "layers", "result")
    return "## TensorRT for RTX\n" + table(columns, rows) if rows else ""


def _latency(results: Results, titles: Mapping[str, str]) -> str:
    for _, result in _some(results, ("ort-latency",)):
        figures = result["figures"]
        if "ratio" not in figures:
            return f"## Latency of the FP32 graphs\n{result['ended']}"
        rows = [
            (titles[name], f"{figures['median_seconds'][name]:.3g}", ", ".join(f"{one:.3g}" for one in seconds))
            for name, seconds in figures["seconds"].items()
        ]
        heads = ("graph", "median, s", "every repetition, s")
        worst = max(figures["largest_relative_difference"].values())
        ratio = f"Ratio of the medians (ours / naive): **{figures['ratio']:.3f}**, {figures['threads']} threads, all "
        same = f"optimisations, runs alternating. Largest relative difference of the outputs: {worst:.1e}."
        return f"## Latency of the FP32 graphs in ONNX Runtime\n{table(heads, rows)}\n\n{ratio}{same}"
    return ""


def _resume(results: Results, titles: Mapping[str, str]) -> str:
    for _, result in _some(results, ("kill-and-resume",)):
        figures = result["figures"]
        rows = [(run["aim"], run["ended"]) for run in figures["runs"]]
        equal = ", ".join(f"{name}: {'equal' if same else '**differs**'}" for name, same in figures["equal"].items())
        heads = ("run", "ended")
        return f"## Killed and resumed\n{table(heads, rows)}\n\nAgainst the uninterrupted bundle: {equal}."
    return ""


def _commands(results: Results, titles: Mapping[str, str]) -> str:
    lines = [f"# {name}: {titles[name]}\n{_wrapped(result['command'])}" for name, result in results.items()]
    lead = "`$CKPT` is the checkpoint, `$DIR` the benchmark's folder; all of them are run by\n"
    lead += "`python tests/benchmarks/full_size.py --checkpoint $CKPT --work $DIR`."
    return f"## The commands\n{lead}\n\n```\n" + "\n".join(lines) + "\n```" if lines else ""


def _wrapped(command: str) -> str:
    """A shell command on lines of at most 120 characters."""
    lines = textwrap.wrap(command, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines)


def _some(results: Results, names: Iterable[str]) -> list[tuple[str, Result]]:
    return [(name, results[name]) for name in names if name in results]


def _number(value: float | None, form: str) -> str:
    shown: Callable[[float], str] = form.format
    return DASH if value is None else shown(value)
