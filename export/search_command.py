"""The command `edgecl search`: which form of adaptor suits a new domain, at which taps."""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Final

import click
import numpy as np
import torch

from edgecl import devices
from edgecl.commands.options import duration_ms
from edgecl.errors import ProjectError
from edgecl.sources import Damaged, Sample, open_source
from export import project as projects
from export import quiet  # noqa: F401  before what imports torch
from export.build import load_model
from export.candidates import Candidate, candidates, estimated, within
from export.correlations import Correlation, correlations
from export.encoder import Encoder, capture
from export.project import Project, parse_bytes
from export.search import Domain, Found, Row, search
from export.source_data import SourceData

READ: Final = 4096
"""Samples of a domain that are looked at, from the first on."""
KEPT: Final = 512
"""Of these, evenly: what a board could have gathered, and enough to tell candidates apart."""


@click.command("search", short_help="Choose a form of adaptor for new domains.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="PROJECT")
@click.option(
    "--domain", "specs", multiple=True, required=True, metavar="npz:FILE", help="Samples of a new domain; repeatable."
)
@click.option("--memory", metavar="SIZE", help='The most that the workspace of "adapt" may take, such as "8 MB".')
@click.option("--state-bytes", metavar="SIZE", help='The most that state and momentum may take, such as "32 KB".')
@click.option("--latency", type=duration_ms, metavar="TIME", help='The most that an answer may take, such as "5 ms".')
@click.option("--device", metavar="NAME", help="Whose speed that is estimated for; else the project's.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Candidates to show.")
@click.option("--train", is_flag=True, help="Train every candidate too, and tell what each score was worth.")
@click.option("--seed", default=0, show_default=True, help="Of draws and of the order of samples.")
@click.option("--json", "as_json", is_flag=True, help="Print all candidates as JSON.")
def search_command(
    folder: Path,
    specs: tuple[str, ...],
    memory: str | None,
    state_bytes: str | None,
    latency: float | None,
    device: str | None,
    top: int,
    train: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Score every form of adaptor at the taps of the project in the folder PROJECT on samples of new domains.

    Where the samples have labels, the best three are fitted for 30 steps, and the most accurate wins.
    """
    project = projects.read(folder)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    if train and len(specs) < 2:
        raise ProjectError("--train: one domain tells nothing of the next; give --domain twice or more")
    state_limit, memory_limit = (parse_bytes(size) if size else 0 for size in (state_bytes, memory))
    encoder = _encoder(project)
    domains = [_domain(project, spec) for spec in specs]
    batch = project.tables.learner.batch
    every = candidates(encoder)
    sized = within(
        encoder,
        every,
        state_bytes=state_limit,
        memory_bytes=memory_limit,
        batch=batch,
        latency_ms=latency or 0.0,
        profile=devices.find(device or project.tables.build.device),
        say=say,
    )
    found = search(encoder, sized, domains, seed=seed, train=train, say=say)
    shown = found.rows if as_json else found.rows[:top]
    if not as_json:
        say(f"estimating the memory of {len(shown)} candidates")
        shown = tuple(replace(row, sized=estimated(encoder, row.sized, batch)) for row in shown)
    worth = correlations(found.rows) if train else []
    print(_as_json(found, worth) if as_json else _as_text(found, shown, worth, encoder))


def _encoder(project: Project) -> Encoder:
    source = SourceData(*project.data(project.tables.data.train), project.given)
    encoder = capture(load_model(project), source.inputs(slice(0, 2)), taps=project.tables.model.taps)
    if encoder.classes != len(project.tables.model.classes):
        raise ProjectError(
            f"model.classes names {len(project.tables.model.classes)}, the model has {encoder.classes} outputs"
        )
    return encoder


def _domain(project: Project, spec: str) -> Domain:
    """The samples of a source, spread over what was read of it."""
    read = list(islice(open_source(spec, project.given, project.tables.model.classes), READ))
    damaged = [one for one in read if isinstance(one, Damaged)]
    whole = [one for one in read if isinstance(one, Sample)]
    if damaged:
        print(f"{spec}: {len(damaged)} samples left out, the first: {damaged[0].reason}", file=sys.stderr)
    if not whole:
        raise ProjectError(f"{spec}: no sample could be read; give another source")
    places = np.unique(np.linspace(0, len(whole) - 1, min(KEPT, len(whole))).round().astype(np.int64))
    kept = [whole[place] for place in places]
    labels = [sample.y for sample in kept]
    y = np.array([-1 if label is None else label for label in labels], np.int64)
    data = SourceData(np.stack([sample.x for sample in kept]), y, project.given)
    return Domain(spec, data.inputs(slice(None)), None if None in labels else torch.from_numpy(y))


# what is printed

HEAD: Final = ("form", "taps", "numbers", "state", "workspace", "zico", "naswot", "condition", "rank", "probe")


def _as_text(found: Found, shown: Sequence[Row], worth: Sequence[Correlation], encoder: Encoder) -> str:
    trained = bool(found.rows[0].trained)
    names = tuple(tap.name for tap in encoder.taps)
    timed = found.rows[0].sized.answer_ms is not None
    head = [*HEAD, *(["answer"] if timed else []), *(["trained"] if trained else [])]
    lines = [head, *(_cells(row, names) for row in shown)]
    text = _table(lines)
    if found.as_built:
        text += f"\n\nas trained, without an adaptor: {_percent(found.as_built)} right"
    else:
        text += "\n\nno labels: nothing was fitted, and the first is the best guess"
    if worth:
        head = ["tau", "with accuracy", "at equal bytes", "with numbers"]
        lines = [[one.proxy, *map(_tau, (one.accuracy, one.equal_bytes, one.parameters))] for one in worth]
        text += f"\n\n{_table([head, *lines])}"
    return f"{text}\n\nedgecl.toml: [learner] {_settings(found.winner.sized.candidate)}"


def _cells(row: Row, names: tuple[str, ...]) -> list[str]:
    sized, candidate = row.sized, row.sized.candidate
    cells = [
        candidate.form,
        "all" if candidate.at == names else " ".join(candidate.at) or "input",
        str(sized.parameters),
        f"{sized.state_bytes / 1e3:.1f} kB",
        "" if sized.workspace_bytes is None else f"{sized.workspace_bytes / 1e3:.0f} kB",
        *(f"{fmean(getattr(score, proxy) for score in row.scores):.1f}" for proxy in ("zico", "naswot")),
        f"{fmean(score.condition for score in row.scores):.3g}",
        f"{row.rank:.1f}",
        _percent(row.probed) if row.probed else "",
    ]
    answer = [] if sized.answer_ms is None else [f"{sized.answer_ms:.1f} ms"]
    return [*cells, *answer, *([_percent(row.trained)] if row.trained else [])]


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * fmean(shares):.1f} %"


def _tau(tau: float | None) -> str:
    return "-" if tau is None else f"{tau:+.2f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first two to the left."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    padded = [
        [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _settings(candidate: Candidate) -> str:
    at = f", at = {json.dumps(candidate.at)}" if candidate.at else ""
    return f'name = "adaptor", settings = {{ form = "{candidate.form}"{at} }}'


def _as_json(found: Found, worth: Sequence[Correlation]) -> str:
    content = {
        "winner": asdict(found.winner.sized.candidate),
        "settings": _settings(found.winner.sized.candidate),
        "as_built": found.as_built,
        "rows": [_flat(row) for row in found.rows],
        "correlations": [asdict(one) for one in worth],
    }
    return json.dumps(_finite(content), allow_nan=False)


def _flat(row: Row) -> dict[str, object]:
    flat: dict[str, object] = asdict(row.sized.candidate) | asdict(row.sized)
    del flat["candidate"]
    scores = [asdict(score) for score in row.scores]
    return flat | {"rank": row.rank, "scores": scores, "probed": row.probed, "trained": row.trained}


def _finite(content: object) -> object:
    """Numbers that JSON does not have become null."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
