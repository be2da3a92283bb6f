"""`edgecl run`: answer the samples of a source, learn from them, and keep what was learned in a state directory.

Exit codes: 0 also where samples were damaged, or an earlier run lost the end of its journal: both are told and
journalled, and nothing that this run was asked for is missing. 130 after Ctrl-C or SIGTERM: the same command goes on.
"""

import contextlib
import csv
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from edgecl import control, resident, sources
from edgecl.answer import Answer
from edgecl.bundle import read_canaries
from edgecl.commands.interrupt import Interrupt
from edgecl.commands.options import named_number, size
from edgecl.commands.printer import Printer
from edgecl.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, StoreError
from edgecl.loop import Loop
from edgecl.manifest import MAX_DOMAINS
from edgecl.settings import Settings
from edgecl.sources import Damaged, Sample

CANARIES: Final = "canaries"
"""The source that every bundle brings along, for a try without data."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="folder:DIR, npz:FILE, stdin, or canaries: the bundle's own samples.")
@click.option("--state", type=click.Path(path_type=Path), help="Directory that keeps what is learned, and the journal.")
@click.option("--again", is_flag=True, help="Begin the source at its start, though an earlier run got further.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many samples.")
@click.option("--sync", is_flag=True, help="Learn before the next answer instead of in the background.")
@click.option(
    "--hyper",
    type=named_number,
    metavar="NAME=NUMBER",
    multiple=True,
    help="Another value of a hyper-parameter. May be repeated.",
)
@click.option(
    "--memory", type=size, metavar="SIZE", help='Budget above which no update is taken, like "64 MB"; 0 for none.'
)
@click.option("--checkpoint-every", type=click.IntRange(min=1), default=Settings.checkpoint_every, show_default=True,
              help="Updates between two checkpoints.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads that learning uses.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the learner's noise.")
@click.option("--engine", default=Settings.engine, show_default=True, help="executorch or onnxruntime.")
@click.option("--domains", type=click.IntRange(1, MAX_DOMAINS), help="Keep so many domains at most; 1 for no routing.")
@click.option("--hysteresis", type=click.IntRange(min=1), default=Settings.hysteresis, show_default=True,
              help="Samples that routing goes back; 1 routes each by itself.")  # fmt: skip
@click.option("--keep", type=size, default="0", metavar="SIZE",
              help='Disk for the newest samples, for labels that come later, like "64 MB".')  # fmt: skip
@click.option("--journal", "journal_size", type=size, default="1 GB", show_default=True, metavar="SIZE",
              help="Disk for the journal, beyond which nothing is learned; 0 for no limit.")  # fmt: skip
@click.option("--rehearsal", type=size, default="1 MB", show_default=True, metavar="SIZE",
              help="Memory for labelled samples that are learned again.")  # fmt: skip
@click.option("--answers", type=click.Path(path_type=Path), help="Write the answers, a line of CSV each.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write what the program did, as ETDump. Implies --sync.")
@click.option("--json", "as_json", is_flag=True, help="Print every record as a line of JSON.")
def run(
    bundle: Path,
    source: str,
    state: Path | None,
    again: bool,
    limit: int | None,
    sync: bool,
    hyper: tuple[tuple[str, float], ...],
    memory: int | None,
    checkpoint_every: int,
    threads: int,
    seed: int,
    engine: str,
    domains: int | None,
    hysteresis: int,
    keep: int,
    journal_size: int,
    rehearsal: int,
    answers: Path | None,
    trace: Path | None,
    as_json: bool,
) -> int:
    """Answer samples and learn from them.

    A run with the same --state and --source goes on where the one before ended.
    """
    sources.check_spec(source, CANARIES)
    settings = Settings(
        hyper=dict(hyper),
        sync=sync or trace is not None,
        wait=source.partition(":")[0] in (*sources.RECORDED, CANARIES),
        checkpoint_every=checkpoint_every,
        budget_bytes=memory,
        seed=seed,
        threads=threads,
        domains=domains,
        hysteresis=hysteresis,
        keep_bytes=keep,
        journal_bytes=journal_size,
        rehearsal_bytes=rehearsal,
        engine=engine,
        trace=trace is not None,
    )
    printer = Printer(as_json=as_json)
    with contextlib.ExitStack() as stack:
        if temporary := state is None:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecl-state-")))
            printer.say("nothing that is learned will be kept; give --state DIR to keep it")
        interrupt = stack.enter_context(Interrupt())
        loop = stack.enter_context(Loop(bundle, state, settings, source=source, again=again, on_record=printer.note))
        printer.classes = loop.classes
        stack.enter_context(control.served(loop.operations, state))
        printer.say(_start(loop, source))
        write = _csv(stack, answers) if answers else None
        reason = ""
        for item in interrupt.until(_items(loop, source)):
            if isinstance(item, Damaged):
                loop.damaged(item.position, item.reason)
                printer.say(f"sample {item.position} is damaged: {item.reason}")
                continue
            answer = loop.predict(item.x, position=item.position, y=item.y)
            if write:
                write(item, answer)
            printer.progress()
            reason = "output closed" if printer.broken else "limit" if printer.tally.samples == limit else ""
            if reason:
                break
        reason = interrupt.caught or reason
        if trace is not None:
            _save(trace, loop.trace())
        if not reason and not printer.tally.seen:
            left = "left; give --again to run through it once more" if loop.place.position else "in it"
            printer.say(f"{source}: no sample is {left}")
        used = resident.resident_bytes()
        loop.close(reason)
        printer.end(used, None if temporary else loop.checkpoint)
    if printer.broken:
        return EXIT_FAILED
    return EXIT_INTERRUPTED if interrupt.caught else EXIT_OK


def _start(loop: Loop, source: str) -> str:
    """What a run begins with, in a line."""
    manifest = loop.manifest
    what = f"{manifest.name} version {manifest.version}, learner {manifest.learner.name}"
    if not loop.resumed:
        return f"{what}: starts as built"
    goes_on = f"goes on at step {loop.state.step}, sample {loop.place.position} of {source}"
    for problem in loop.resumed.passed_over:
        goes_on += f"; passed over {problem}"
    return f"{what}: {goes_on}"


def _items(loop: Loop, source: str) -> Iterator[Sample | Damaged]:
    """What the source has from the loop's place on."""
    if source == CANARIES:
        canaries = read_canaries(loop.bundle)
        for position in range(loop.place.position, len(canaries.x)):
            yield Sample(position, canaries.x[position], int(canaries.y[position]))
        return
    opened = sources.open_source(source, loop.manifest.input, loop.classes)
    opened.skip_to(loop.place.position)
    yield from opened


def _csv(stack: contextlib.ExitStack, path: Path) -> Callable[[Sample, Answer], None]:
    """What writes an answer into a new file of comma-separated values. Raises StoreError."""
    try:
        file = stack.enter_context(path.open("w", newline="", encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give another file") from None
    rows = csv.writer(file)
    rows.writerow(("seq", "position", "class", "confidence", "entropy", "y", "similarity", "domain"))

    def write(sample: Sample, answer: Answer) -> None:
        numbers = f"{answer.confidence:.6g}", f"{answer.entropy:.6g}"
        y = "" if sample.y is None else sample.y
        similarity = "" if answer.similarity is None else f"{answer.similarity:.6g}"
        rows.writerow((answer.seq, sample.position, answer.label, *numbers, y, similarity, answer.domain))

    return write


def _save(path: Path, data: bytes) -> None:
    """Raises StoreError."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give another file") from None
