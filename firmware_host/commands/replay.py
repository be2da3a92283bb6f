"""`edgecl replay`: run a recorded journal again, ask what other settings had done, or get back any state.

Exit codes: 0 all is as recorded · 1 something is not, or nothing could be replayed · 3 as recorded, but parts are
missing · 7 of several devices, some are 1.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from edgecl import disk, state
from edgecl.commands.table import aligned
from edgecl.errors import EXIT_DATA_LOST, EXIT_FAILED, EXIT_OK, EXIT_PARTIAL, EdgeclError, StoreError
from firmware_host.commands.options import json_option
from firmware_host.replay import what_if as tries
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.compare import Difference
from firmware_host.replay.device import Replay, Verdict, domain_number, state_at
from firmware_host.replay.recording import Recording, recordings
from firmware_host.replay.what_if import Result


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
@json_option
def replay(
    journals: tuple[Path, ...],
    verify: bool,
    what_if: Path | None,
    step: int | None,
    domain: str,
    dump_state: Path | None,
    bundles: tuple[Path, ...],
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
    homes = [one.home for one in found if one.home]
    with Bundles(bundles, homes) as known:
        if what_if is not None:
            return _what_if(found, what_if, known, as_json=as_json)
        if step is not None and dump_state is not None:
            return _dump(found, step, domain, dump_state, known)
        return _verify(found, known, as_json=as_json)


def _verify(found: Sequence[Recording], bundles: Bundles, *, as_json: bool) -> int:
    verdicts = []
    for recording in found:
        verdict = Replay(recording, bundles).verify()
        verdicts.append(verdict)
        print(_json(verdict) if as_json else _text(verdict), flush=True)
    failed = sum(one.outcome in ("diverged", "not replayable") for one in verdicts)
    if failed:
        return EXIT_FAILED if failed == len(verdicts) else EXIT_PARTIAL
    return EXIT_DATA_LOST if any(one.gaps for one in verdicts) else EXIT_OK


def _what_if(found: Sequence[Recording], file: Path, bundles: Bundles, *, as_json: bool) -> int:
    given = tries.read(file)
    for recording in found:
        results = tries.what_if(recording, given, bundles, folder=file.parent)
        if as_json:
            for one in results:
                print(msgspec.json.encode({"device": recording.name, **_facts(one)}).decode(), flush=True)
        else:
            print(f"{recording.name}\n\n{_table(results)}", flush=True)
    return EXIT_OK


def _dump(found: Sequence[Recording], step: int, domain: str, file: Path, bundles: Bundles) -> int:
    if len(found) != 1:
        raise click.UsageError("--to goes back on one device; give its journal alone")
    number = domain_number(found[0], domain)
    again = Replay(found[0], bundles)
    verdict = again.find(step, state_at(found[0], step, number))
    if not again.found:
        print(_text(verdict))
        raise EdgeclError(f"{found[0].name}: step {step} of {domain} could not be reached; the verdict says why")
    try:
        disk.replace(file.absolute(), state.dump(again.found))
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; give another file") from None
    print(f"{file}: {domain} of {found[0].name} at step {step}, {again.found.digest}")
    return EXIT_OK


def _text(verdict: Verdict) -> str:
    did = f"{verdict.runs} runs, {verdict.answers} answers, {verdict.updates} updates"
    lines = [f"{verdict.device}: {_outcome(verdict)} ({did} in {verdict.seconds:.1f} s)"]
    lines += [f"  {note}" for note in verdict.notes]
    if verdict.unchecked:
        lines.append(f"  {verdict.unchecked} answers had no samples on the disk yet when their run was killed")
    lines += [f"  not replayed: {gap}" for gap in verdict.gaps]
    if verdict.difference:
        lines += ["", _side_by_side(verdict.difference)]
    return "\n".join(lines)


def _outcome(verdict: Verdict) -> str:
    if not verdict.difference:
        return verdict.outcome
    seq = verdict.difference.seq
    where = "" if seq is None else f", sample {seq}"
    return f"diverged at step {verdict.difference.step}{where}, in run {verdict.run}"


def _side_by_side(difference: Difference) -> str:
    record = difference.recorded or difference.replayed
    rows: list[tuple[str, ...]] = [(type(record).__name__.lower(), "the board", "the replay")]
    if difference.recorded is None or difference.replayed is None:
        rows.append(("", *("nothing" if one is None else "this" for one in (difference.recorded, difference.replayed))))
    rows += [(name, _short(one), _short(other)) for name, (one, other) in difference.fields().items()]
    return "\n".join(f"  {line}" for line in aligned(rows).splitlines())


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 64 else f"{text[:61]}..."


def _json(verdict: Verdict) -> str:
    shown = {name: value for name, value in vars(verdict).items() if name not in ("difference", "run")}
    if verdict.difference:
        of = verdict.difference
        fields = {name: [str(one), str(other)] for name, (one, other) in of.fields().items()}
        record = type(of.recorded or of.replayed).__name__
        shown |= {"run": verdict.run, "step": of.step, "seq": of.seq, "record": record, "differs": fields}
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
