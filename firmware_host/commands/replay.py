"""`edgecl replay`: run a recorded journal again, ask what other settings had done, or get back any state.

Exit codes: 0 all is as recorded · 1 something is not, or nothing could be replayed · 3 as recorded, but parts are
missing · 7 of several devices, some are 1.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from edgecl import disk, state
from edgecl.commands.table import aligned
from edgecl.errors import EXIT_DATA_LOST, EXIT_FAILED, EXIT_OK, EXIT_PARTIAL, EdgeclError, StoreError
from firmware_host.commands.options import json_option, workers_option
from firmware_host.executor import open_executor
from firmware_host.replay import many
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.device import Replay, domain_number, state_at
from firmware_host.replay.many import Differs, Job, Replayed, Tried, replayed
from firmware_host.replay.recording import Recording, recordings
from firmware_host.replay.results_file import ResultsFile
from firmware_host.replay.what_if import Result, read


@click.command()
@click.argument("journals", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Say whether all comes out as recorded; so it does without other options.")
@click.option("--what-if", "what_if", type=click.Path(path_type=Path), metavar="FILE",
              help="Try the settings of a file on the same stream.")  # fmt: skip
@click.option("--to", "step", type=click.IntRange(min=0), metavar="STEP", help="Go to this update of a domain.")
@click.option("--domain", default="source", show_default=True, help="Name or number, for --to.")
@click.option("--dump-state", type=click.Path(path_type=Path), metavar="FILE", help="Write the state at --to.")
@click.option("--bundles", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Where to look for bundles. May be repeated.")  # fmt: skip
@workers_option
@click.option("--results", type=click.Path(path_type=Path), metavar="FILE",
              help="Keep the result of each device there, and do none again that it has.")  # fmt: skip
@json_option
def replay(
    journals: tuple[Path, ...],
    verify: bool,
    what_if: Path | None,
    step: int | None,
    domain: str,
    dump_state: Path | None,
    bundles: tuple[Path, ...],
    workers: int,
    executor: str,
    results: Path | None,
    as_json: bool,
) -> int:
    """Run recorded journals again with the board's own code.

    JOURNALS are state directories, directories of several, or segments. Samples must have been kept: edgecl run --keep.
    """
    if (step is None) != (dump_state is None):
        raise click.UsageError("give --to and --dump-state together")
    if sum((verify, what_if is not None, step is not None)) > 1:
        raise click.UsageError("give one of --verify, --what-if and --to")
    found = recordings(journals)
    if step is not None and dump_state is not None:
        with Bundles(bundles, [one.home for one in found if one.home]) as known:
            return _dump(found, step, domain, dump_state, known)
    given, tries = tuple(path.absolute() for path in bundles), read(what_if) if what_if else ()
    folder = what_if.parent.absolute() if what_if else Path()
    with contextlib.ExitStack() as stack:
        unpacked = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecl-replay-")))
        jobs = [many.Job(_absolute(one), given, unpacked, tries, folder) for one in found]
        kept = stack.enter_context(ResultsFile(results)) if results else None
        opened = stack.enter_context(open_executor(executor, min(workers, len(jobs))))
        if what_if is not None:
            return _what_if(many.each(opened, many.try_out, jobs, Tried, kept, _progress(len(jobs))), as_json=as_json)
        return _verify(many.each(opened, many.verify, jobs, Replayed, kept, _progress(len(jobs))), as_json=as_json)


def _verify(results: Iterator[tuple[Job, Replayed | EdgeclError]], *, as_json: bool) -> int:
    count, failed, lost = 0, 0, False
    for job, one in results:
        count += 1
        if isinstance(one, EdgeclError):
            failed += 1
            _refused(job, one)
            continue
        print(_json(one) if as_json else _text(one), flush=True)
        lost |= bool(one.gaps)
        failed += one.outcome in ("diverged", "not replayable")
    if failed:
        return EXIT_FAILED if failed == count else EXIT_PARTIAL
    return EXIT_DATA_LOST if lost else EXIT_OK


def _what_if(results: Iterator[tuple[Job, Tried | EdgeclError]], *, as_json: bool) -> int:
    count, failed = 0, []
    for job, one in results:
        count += 1
        if isinstance(one, EdgeclError):
            failed.append(one)
            _refused(job, one)
        elif as_json:
            for result in one.results:
                print(msgspec.json.encode({"device": one.device, **_facts(result)}).decode(), flush=True)
        else:
            print(f"{one.device}\n\n{_table(one.results)}", flush=True)
    if failed and len(failed) == count:
        return failed[0].exit_code
    return EXIT_PARTIAL if failed else EXIT_OK


def _refused(job: Job, error: EdgeclError) -> None:
    """An error in a line, with the name of its device."""
    name, text = job.recording.name, str(error)
    _clear()
    print(f"edgecl: {text if name in text else f'{name}: {text}'}", file=sys.stderr)


def _progress(count: int) -> Callable[[int], object]:
    """A line on a terminal, of several devices."""

    def show(done: int) -> None:
        if count > 1 and sys.stderr.isatty():
            _clear()
            print(f"  {done} of {count} devices", end="", file=sys.stderr, flush=True)

    return show


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _absolute(one: Recording) -> Recording:
    """As a worker in another folder finds it."""
    segments, samples = ([path.absolute() for path in paths] for paths in (one.segments, one.samples))
    return Recording(one.name, tuple(segments), tuple(samples), one.home.absolute() if one.home else None)


def _dump(found: Sequence[Recording], step: int, domain: str, file: Path, bundles: Bundles) -> int:
    if len(found) != 1:
        raise click.UsageError("--to goes back on one device; give its journal alone")
    number = domain_number(found[0], domain)
    again = Replay(found[0], bundles)
    verdict = again.find(step, state_at(found[0], step, number))
    if not again.found:
        print(_text(replayed(verdict)))
        raise EdgeclError(f"{found[0].name}: step {step} of {domain} could not be reached; the verdict says why")
    try:
        disk.replace(file.absolute(), state.dump(again.found))
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; give another file") from None
    print(f"{file}: {domain} of {found[0].name} at step {step}, {again.found.digest}")
    return EXIT_OK


def _text(verdict: Replayed) -> str:
    did = f"{verdict.runs} runs, {verdict.answers} answers, {verdict.updates} updates"
    lines = [f"{verdict.device}: {_outcome(verdict)} ({did} in {verdict.seconds:.1f} s)"]
    lines += [f"  {note}" for note in verdict.notes]
    if verdict.unchecked:
        lines.append(f"  {verdict.unchecked} answers had no samples on the disk yet when their run was killed")
    lines += [f"  not replayed: {gap}" for gap in verdict.gaps]
    if verdict.differs:
        lines += ["", _side_by_side(verdict.differs)]
    return "\n".join(lines)


def _outcome(verdict: Replayed) -> str:
    if not verdict.differs:
        return verdict.outcome
    seq = verdict.differs.seq
    where = "" if seq is None else f", sample {seq}"
    return f"diverged at step {verdict.differs.step}{where}, in run {verdict.run}"


def _side_by_side(differs: Differs) -> str:
    rows: list[tuple[str, ...]] = [(differs.record.lower(), "the board", "the replay")]
    if differs.missing:
        rows.append(("", *("nothing" if who == differs.missing else "this" for who in ("the board", "the replay"))))
    rows += [(one.name, _short(one.recorded), _short(one.replayed)) for one in differs.fields]
    return "\n".join(f"  {line}" for line in aligned(rows).splitlines())


def _short(value: str | None) -> str:
    text = "-" if value is None else value
    return text if len(text) <= 64 else f"{text[:61]}..."


def _json(verdict: Replayed) -> str:
    shown = {name: value for name, value in msgspec.structs.asdict(verdict).items() if name not in ("differs", "run")}
    if of := verdict.differs:
        fields = {one.name: [str(one.recorded), str(one.replayed)] for one in of.fields}
        shown |= {"run": verdict.run, "step": of.step, "seq": of.seq, "record": of.record, "differs": fields}
    return msgspec.json.encode(shown).decode()


def _table(results: Sequence[Result]) -> str:
    rows = [("", "accuracy", "agrees", "entropy", "updates", "refused", "domains", "seconds")]
    for one in results:
        share = one.agreeing / one.answers if one.answers else 0.0
        accuracy = "-" if one.accuracy is None else f"{one.accuracy:.4f}"
        numbers = (f"{one.entropy:.4f}", str(one.updates), str(one.refused), str(one.domains), f"{one.seconds:.2f}")
        rows.append((one.name, accuracy, f"{share:.4f}", *numbers))
    return aligned(rows)


def _facts(one: Result) -> dict[str, object]:
    return {**vars(one), "accuracy": one.accuracy}
