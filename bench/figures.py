"""`python -m bench.figures`: README's table of measured figures, from `bench/results/*.json`.

Nobody types a figure: each stands in a result file with the command and the machine that gave it,
and `tests/test_docs.py` compares README with what is rendered here. Without a result file the block
says that nothing was measured. One thread.

| result file | rows |
| --- | --- |
| `fanout*` | bench.fanout: writes/s, latency, memory, where the time goes, the oracle's verdict |
| `reads*` | bench.reads: pages/s and latency of each kind of page, idle and beside fan-out |
| `compare*` | bench.compare: inbox writes/s of each path, its ratios, processor seconds |
| `stream*` | bench.stream: events/s out, idle consumers, latency, a rewind's plan |
| `bulk*` | bench.bulk: inbox writes/s into HBase by adopted runs, processor seconds, merges |
| `replay*` | bench.replay: posts/s replayed against live, and what it costs live work |
| others | one row that names the file |
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.report import RESULTS
from engine.errors import FirecellError, Misconfigured

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
NOTHING = "Not measured yet: `./run firecell bench fanout` and `./run firecell bench reads` do it."
_BLOCK = re.compile(rf"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
_ALONE = "_one_connection"
_PAGE = re.compile(r"page_(\d+)_(cold|hot|deep)")
_WHOSE = {
    "cold": "any reader, never asked for before",
    "hot": "any reader, asked for before",
    "deep": "longest inboxes",
}
_AGAINST = {"happybase": "happybase", "pe_random": "PerformanceEvaluation"}

Document = dict[str, Any]
Row = tuple[str, str]  # what, figure


def render(folder: Path = RESULTS) -> str:
    """The tables of all result files in `folder`, as Markdown, those of the default parts first;
    `NOTHING` when there is none.

    Misconfigured when a file is no result of `bench.report.write_result`.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: (_is_real(path.stem), path.name))
    documents = [_read(path) for path in paths]
    return "\n\n".join(_section(document) for document in documents) or NOTHING


def _is_real(name: str) -> bool:
    """Whether Kafka, HBase or Redis took part."""
    return any(part in name for part in ("kafka", "hbase", "redis", "compare"))


def fill(text: str, rendered: str) -> str:
    """`text` with `rendered` in its block. Misconfigured when it does not have exactly one."""
    if len(_BLOCK.findall(text)) != 1:
        raise Misconfigured(f"README needs one block between {BEGIN} and {END}: put it back")
    return _BLOCK.sub(lambda _: f"{BEGIN}\n{rendered}\n{END}", text)


def _read(path: Path) -> Document:
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
        _ = document["name"], document["machine"]["cores"], document["measured_at"]
    except (ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{path} is no result file ({error!r}): measure again") from None
    return document


def _section(document: Document) -> str:
    name = str(document["name"])
    rows = next((list(make(document)) for kind, make in _ROWS if name.startswith(kind)), [])
    lines = [
        f"**{name}** ({document['measured_at'][:10]}, {machine(document)})",
        "",
        f"```text\n{command(document)}\n```",
        "",
        "| what | figure |",
        "| --- | --- |",
    ]
    rows = rows or [("all figures", f"`bench/results/{name}.json`")]
    return "\n".join(lines + [f"| {what} | {figure} |" for what, figure in rows])


def command(document: Document) -> str:
    """What to type to measure it again; folders of the machine are left out of it."""
    words = shlex.split(str(document.get("command", "")))
    words = [word if "://" in word else word.rpartition("/")[2] or word for word in words]
    text = shlex.join(words) or "not recorded"
    return re.sub(r"^python -m bench\.(\w+)", r"./run firecell bench \1", text)


def machine(document: Document) -> str:
    """The machine in a few words."""
    about = document["machine"]
    memory = about.get("memory_bytes", 0) / 2**30
    cpu = about.get("cpu", "unknown")
    return f"{about['cores']:g} cores of {cpu}, {memory:.0f} GiB, Python {about.get('python')}"


# --- rows -----------------------------------------------------------------------------------------


def _fanout(document: Document) -> Iterator[Row]:
    seconds = document["seconds"]
    yield (
        f"inbox writes/s, sustained for {seconds:,.0f} s, durable",
        f"**{document['inbox_writes_per_second']:,.0f}** ({document['posts_per_second']:,.0f}"
        f" posts/s, {document['mean_fanout']:,.0f} followers each)",
    )
    slowest = document.get("slowest_10_seconds_writes_per_second")
    if slowest is not None:
        yield "of them in the slowest 10 s", f"{slowest:,.0f}/s"
    latency = document.get("publish_to_inbox_ms")
    if latency and latency.get("events", 1):  # percentiles of nothing are no figure
        yield (
            f"publish to inbox at {latency['posts_per_second']:,.0f} posts/s",
            f"p50 {latency['p50']:,.0f} ms, p99 {latency['p99']:,.0f} ms",
        )
    steps = document.get("step_seconds", {})
    if steps:
        shares = [f"{name} {spent / seconds:.0%}" for name, spent in steps.items()]
        yield "where the time goes", ", ".join(shares)
    if "gil_share" in document:
        yield "steps that run Python (an upper bound of the GIL)", f"{document['gil_share']:.0%}"
    yield "CPU seconds", f"{document['cpu_seconds']:,.0f} in {seconds:,.0f} s"
    yield "memory at most", f"{document['memory_bytes_max'] / 2**20:,.0f} MiB"
    written = f"{document['bytes_per_inbox_write']:.1f} bytes"
    yield (
        "sent to the disk per inbox write",
        f"{written}; compaction wrote {document.get('compaction_bytes', 0) / 2**20:,.0f} MiB",
    )
    if document.get("inbox_writes_saved"):
        share = document["inbox_writes_saved_share"]
        yield "inbox writes saved by pulling", f"{document['inbox_writes_saved']:,} ({share:.1%})"
    for pages in document.get("pulled_pages", {}).values():
        if isinstance(pages, dict):
            mean = f"{pages['pulled_authors_mean']:g} pulled authors"
            yield f"a page of readers with {mean}", f"p50 {pages['p50']} ms, p99 {pages['p99']} ms"
    yield from _start(document)
    yield from _verdict(document)


def _start(document: Document) -> Iterator[Row]:
    start = document.get("start")
    if start:
        per_edge = start["memory_bytes_per_edge"]
        yield (
            f"start with {start['edges']:,} follows",
            f"{start['seconds']:.1f} s; {per_edge:.1f} bytes of memory a follow, all included",
        )
    prepared = document.get("prepare")
    if prepared:
        yield "follows applied, from the firehose", f"{prepared['edges_per_second']:,.0f}/s"


def _verdict(document: Document) -> Iterator[Row]:
    oracle = document.get("oracle")
    if oracle:
        yield (
            f"oracle: whole dashboards of {oracle['readers']:,} readers",
            f"{oracle['missing']:,} missing, {oracle['extra']:,} extra,"
            f" {oracle['duplicates']:,} twice",
        )


def _reads(document: Document) -> Iterator[Row]:
    for part, title in (("idle", ""), ("beside_fan_out", ", beside fan-out")):
        measured = document.get(part, {})
        for name, kind in measured.items():
            if not isinstance(kind, dict) or name.endswith(_ALONE):
                continue
            figure = (
                f"{kind['pages_per_second']:,.0f} pages/s over {document['connections']}"
                f" connections (p99 {kind['ms']['p99']:.2f} ms)"
            )
            alone = measured.get(name + _ALONE)
            if alone:
                ms = alone["ms"]
                figure += f"; one at a time p50 {ms['p50']:.2f} ms, p99 {ms['p99']:.2f} ms"
            yield f"{_page(name)}{title}", figure
        if part == "idle" and document.get("page_300_costs_page_1"):
            yield "page 300 costs", f"{document['page_300_costs_page_1']:.2f} times page 1"
        if "inbox_writes_per_second" in measured:
            yield "inbox writes/s meanwhile", f"{measured['inbox_writes_per_second']:,.0f}"


def _page(name: str) -> str:
    match = _PAGE.fullmatch(name)
    if match is None:
        return name
    return f"page {match[1]}, {_WHOSE[match[2]]}"


def _compare(document: Document) -> Iterator[Row]:
    for path in document["paths"].values():
        ratios = [f"{times:.2f} x {_AGAINST[base]}" for base, times in path["ratios"].items()]
        used = (
            f"CPU seconds in {path['seconds']:.0f} s: clients {path['client_cpu_seconds']:.0f},"
            f" servers {path['server_cpu_seconds']:.0f}"
        )
        rate = f"**{path['inbox_writes_per_second']:,.0f}** inbox writes/s"
        yield f"{path['title']} ({path['how']})", "; ".join([rate, *ratios, used])
    for base, target in document.get("targets_of_puts", {}).items():
        yield (
            f"target: puts at least {target['at_least']:g} x {_AGAINST[base]}",
            f"{target['is']:.2f} x",
        )


def _stream(document: Document) -> Iterator[Row]:
    replay, idle = document["replay"], document["idle"]
    speed = f"**{replay['events_per_second']:,.0f}**, {replay['megabytes_per_second']:,.0f} MB/s"
    yield f"events/s out of the firehose ({document['firehose']}) to one consumer, median", speed
    yield f"of a core for {idle['consumers']} idle consumers", f"{idle['share_of_a_core']:.1%}"
    for what, name in (("consumer's line", "consumer"), ("publisher's answer", "answer")):
        found = document.get(f"publish_to_{name}_ms")
        if found:
            yield (
                f"from publishing to the {what}",
                f"p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f}",
            )
    rewind = document["rewind"]
    yield f"a rewind over {rewind['events']:,} events, planned", f"{rewind['plan_seconds']:.2f} s"


def _bulk(document: Document) -> Iterator[Row]:
    yield from _fanout(document)
    used = ", ".join(f"{n} {s:,.0f}" for n, s in document["processor_seconds"].items())
    yield "CPU seconds of each process", used
    merged = document["merged_meanwhile"]
    yield (
        "merges by HBase meanwhile",
        f"{merged['compactions']}, {merged['written_bytes'] / 2**20:,.0f} MiB written",
    )


def _replay(document: Document) -> Iterator[Row]:
    live, alone = document["posts_per_second"], document["replay_posts_per_second"]
    yield "posts/s fanned out live", f"{live:,.0f}"
    yield "posts/s replayed into the idle cell", f"**{alone:,.0f}**, {alone / live:.0%} of live"
    yield "publish to inbox at half of that load, p99", f"{document['live_p99_ms']:,.0f} ms"
    yield (
        "the same beside a replay",
        f"{document['beside_p99_ms']:,.0f} ms, {document['p99_beside_of_live']:.1f} times;"
        f" {document['beside_replay_posts_per_second']:,.0f} posts/s replayed",
    )


_ROWS: Sequence[tuple[str, Callable[[Document], Iterator[Row]]]] = (
    ("fanout", _fanout),
    ("reads", _reads),
    ("stream", _stream),
    ("compare", _compare),
    ("bulk", _bulk),
    ("replay", _replay),
)

# --- the command line -----------------------------------------------------------------------------

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def write(
    results: Annotated[Path, typer.Option(help="Folder of result files.")] = RESULTS,
    readme: Annotated[Path, typer.Option(help="The file with the block.")] = README,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; 1 if it would.")] = False,
) -> None:
    """Fill README's block of figures from the result files."""
    before = readme.read_text(encoding="utf-8")
    after = fill(before, render(results))
    if check:
        raise typer.Exit(int(after != before))
    readme.write_text(after, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command; the exit code."""
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except FirecellError as error:
        typer.echo(f"figures: {error.message}", err=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
