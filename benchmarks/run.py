"""`make bench`: runs the benchmarks and writes what they find into results/.

With names of benchmarks after it, `python benchmarks/run.py` runs those: BENCHMARKS names them. Without names it runs
all but ASKED_FOR.
"""

import sys
import time
from collections.abc import Callable
from typing import Final

import accuracy
import board
import classes
import data
import domains
import evaluate
import fleet
import gas
import ingest
import interruptions
import journal
import link
import memory
import ood
import replay
import results
import search
import speech
import steps

STARTED_S: Final = time.monotonic()


def say(line: str) -> None:
    """Progress, on stderr."""
    print(f"{time.monotonic() - STARTED_S:6.0f} s  {line}", file=sys.stderr, flush=True)


def run_accuracy() -> None:
    """Errors on CIFAR-10; about 12 minutes on two cores."""
    found = []
    for row in accuracy.rows():
        found.append(row)
        say(f"{row.learner} {row.precision} batch {row.batch} {row.engine}: {row.mean:.2f} %")
    results.write("accuracy", "Accuracy under corruption: CIFAR-10, ResNet-20", accuracy.render(found), found)


def run_steps() -> None:
    """Times and memory of single steps; about 8 minutes."""
    timed, used = [], []
    for times, memories in steps.run(steps.all_cases()):
        timed += times
        used += memories
        case = times[0].case
        say(f"{case.model} {case.title} batch {case.batch}")
    found = {"timed": timed, "used": used}
    results.write("steps", "Single steps: time and memory", steps.render(timed, used), found)


def run_ood() -> None:
    """The detector beside others; about 2 minutes."""
    found = ood.run()
    results.write("ood", "Inputs that do not belong: CIFAR-10, ResNet-20", ood.render(found), found)


def run_domains() -> None:
    """Domains one after another; about 8 minutes."""
    found = domains.run(say)
    title = "Domains that come back: CIFAR-10 under corruption, ResNet-20"
    results.write("domains", title, domains.render(found), found)


def run_memory() -> None:
    """Memory of whole processes; about 2 minutes."""
    found = memory.run()
    results.write("memory", "Memory of whole processes", memory.render(found), found)


def run_search() -> None:
    """Scores of adaptors beside their accuracies; about 11 minutes on two cores."""
    found = search.run()
    results.write("search", "Zero-shot search over adaptors: CIFAR-10, ResNet-20", search.render(found), found)


def run_classes() -> None:
    """Classes one after another; trains a network first, which is kept for the next time."""
    found = classes.run(say)
    results.write("classes", "Classes that come one by one: CIFAR-10, ResNet-20", classes.render(found), found)


def run_gas() -> None:
    """Sensors that drift."""
    found = gas.run(say)
    results.write("gas", "Sensors that drift for three years", gas.render(found), found)


def run_speech() -> None:
    """Speakers one after another."""
    found = speech.run(say)
    results.write("speech", "Spoken digits: speakers as domains", speech.render(found), found)


def run_board() -> None:
    """The emulated board; about 15 minutes."""
    found = board.run()
    results.write("board", "An emulated 64-bit Arm board", board.render(found), found)


def run_link() -> None:
    """Throughput of the links; about a minute."""
    found = link.run(say)
    results.write("link", "Links: throughput", link.render(found), found)


def run_interruptions() -> None:
    """550 deployments, each interrupted once; about half an hour."""
    found = interruptions.run(say)
    results.write("interruptions", "Interrupted deployments", interruptions.render(found), found)


def run_journal() -> None:
    """Costs of the journal; about two minutes."""
    found = journal.run()
    results.write("journal", "What the journal costs", journal.render(found), found)


def run_ingest() -> None:
    """Ten million records into tables; about ten minutes."""
    found = ingest.run()
    results.write("ingest", "A host store of ten million records", ingest.render(found), found)


def run_evaluate() -> None:
    """Evaluating a device and a fleet; about two minutes."""
    found = evaluate.run()
    results.write("evaluate", "Evaluating a host store", evaluate.render(found), found)


def run_replay() -> None:
    """Replay beside the loop; about ten minutes."""
    found = replay.run(say)
    results.write("replay", "Replay: rates, what-ifs, workers", replay.render(found), found)


def run_fleet() -> None:
    """A thousand simulated boards; about half an hour."""
    found = fleet.run(say)
    results.write("fleet", "A simulated fleet of a thousand boards", fleet.render(found), found)


BENCHMARKS: Final[dict[str, Callable[[], None]]] = {
    "accuracy": run_accuracy,
    "steps": run_steps,
    "memory": run_memory,
    "ood": run_ood,
    "search": run_search,
    "domains": run_domains,
    "classes": run_classes,
    "gas": run_gas,
    "speech": run_speech,
    "interruptions": run_interruptions,
    "board": run_board,
    "link": run_link,
    "journal": run_journal,
    "ingest": run_ingest,
    "evaluate": run_evaluate,
    "replay": run_replay,
    "fleet": run_fleet,
}

ASKED_FOR: Final = ("board", "ingest", "fleet")
"""Only where they are named: they need more than the data, or longer."""


def main(names: list[str]) -> None:
    """Run these, or all."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"{unknown[0]}: no such benchmark; choose {', '.join(BENCHMARKS)}")
    data.root()
    for name in names or (name for name in BENCHMARKS if name not in ASKED_FOR):
        say(name)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
