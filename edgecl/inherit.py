"""What becomes of learned state when a bundle replaces another: it is discarded, carried, or learned again.

* `carry`    domains, states, heads, labels and rehearsal are taken over as they are. Both bundles must have the same
             layouts and classes, and tell domains by the same taps.
* `rebase`   the new bundle sees the samples of the old one's rehearsal once more, and is told their labels.
* `discard`  it begins as built.

What is taken over must pass the new bundle's canaries; what does not is discarded, and that is told. In every case the
new bundle goes on where the old one was in its source.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

from edgecl import rehearsal
from edgecl.bank import SOURCE
from edgecl.bundle import Bundle, read_state
from edgecl.checkpoints import Checkpoints, Learned, Parts, Place, Resumed
from edgecl.deployments import Policy
from edgecl.errors import BundleError, RequestError, StoreError
from edgecl.labels import Given
from edgecl.learning import Learning
from edgecl.loop import Loop
from edgecl.manifest import Manifest
from edgecl.programs import Programs
from edgecl.routing import digest, routing
from edgecl.settings import Settings, hyper_values
from edgecl.view import Views

REBASE_KEEP_BYTES: Final = 64 << 20
"""Disk for samples that are learned again, meanwhile."""


def check(old: Bundle, learned: Path, new: Manifest, router: str, policy: Policy) -> None:
    """Raises BundleError: this policy cannot take over what has been learned. `router`: `routing.digest` of the new."""
    resumed = Checkpoints(learned).newest(*old.manifest.layouts.values()) if policy == "carry" else None
    if not resumed:
        return
    layouts = {state.layout.digest for state in resumed.learned.states.values()}
    cure = "deploy with --learned rebase or discard"
    if layouts - {layout.digest for layout in new.layouts.values()}:
        raise BundleError(f"{new.name}: its states have another layout than what was learned; {cure}")
    if old.manifest.classes != new.classes:
        raise BundleError(f"{new.name}: its classes are others than those of what was learned; {cure}")
    if resumed.learned.router != router and (len(resumed.learned.bank.domains) > 1 or resumed.heads):
        raise BundleError(f"{new.name}: it tells domains by other taps than what was learned; {cure}")


def inherit(old: Bundle, learned: Path, new: Bundle, into: Path, policy: Policy, scratch: Path) -> str:
    """Write the first checkpoint of a new bundle into an empty directory; what became of learned state, in words.

    `scratch` is an empty directory too. Raises BundleError, StoreError, ProgramError.
    """
    try:
        resumed = Checkpoints(learned).newest(*old.manifest.layouts.values())
    except StoreError as error:
        if policy != "discard":
            raise
        return f"discarded: {error}"
    if not resumed:
        return "nothing had been learned"
    built = _as_built(new, resumed.learned.place)
    if policy == "carry":
        check(old, learned, new.manifest, digest(new), policy)
        carried = _carried(resumed, new, built)
        if problem := _canaries(new, carried):
            Checkpoints(into).write(built, Parts())
            return f"discarded, as it did not pass the canaries: {problem}"
        Checkpoints(into).write(carried, _parts(resumed))
        steps = sum(state.step for state in carried.states.values())
        count = len(carried.states)
        return f"carried: {count} domain{'s' * (count != 1)}, {steps} update{'s' * (steps != 1)}"
    if policy == "rebase":
        return _rebase(old, resumed, new, into, built, scratch)
    Checkpoints(into).write(built, Parts())
    return "discarded"


def _as_built(new: Bundle, place: Place) -> Learned:
    start = routing(new, Settings(), None)
    return Learned(
        bundle=new.id,
        place=place,
        bank=start.bank,
        states={SOURCE: read_state(new)},
        active=SOURCE,
        router=start.digest,
    )


def _carried(resumed: Resumed, new: Bundle, built: Learned) -> Learned:
    learned = replace(resumed.learned, bundle=new.id)
    if learned.router != built.router:  # there is the source alone, and that is what this bundle says of it
        learned = replace(
            learned, bank=built.bank, router=built.router, active=SOURCE, states={SOURCE: learned.states[SOURCE]}
        )
    return learned


def _parts(resumed: Resumed) -> Parts:
    return Parts(
        heads={number: path.read_bytes() for number, path in resumed.heads.items()},
        rehearsal=resumed.rehearsal.read_bytes() if resumed.rehearsal else None,
        labels=resumed.labels.read_bytes() if resumed.labels else None,
    )


def _canaries(new: Bundle, learned: Learned) -> str:
    """What is wrong with states by the canaries of the new bundle; empty for nothing."""
    manifest = new.manifest
    with Programs(new) as programs:
        learning = Learning(
            new,
            programs,
            learned.states,
            hyper=hyper_values(manifest.learner, None),
            seed=0,
            crowded=lambda: "",
            now_ns=lambda: 0,
            note=lambda record: None,
            views=Views(),
        )
        for domain in learned.bank.domains:
            accuracy = learning.canary_accuracy(learned.states[domain.number])
            if accuracy < manifest.guard.canary_floor:
                return f"{domain.name} answers {accuracy:.3f} of them, the floor is {manifest.guard.canary_floor:.3f}"
    return ""


def _rebase(old: Bundle, resumed: Resumed, new: Bundle, into: Path, built: Learned, scratch: Path) -> str:
    """Learn the rehearsed samples again."""
    stored = list(rehearsal.load(resumed.rehearsal, 1 << 62)) if resumed.rehearsal else []
    names = (*old.manifest.classes, *resumed.learned.added)
    if not stored or old.manifest.input != new.manifest.input:
        Checkpoints(into).write(built, Parts())
        return "discarded: there is no labelled sample to learn again" if not stored else "discarded: the input differs"
    settings = Settings(sync=True, keep_bytes=REBASE_KEEP_BYTES, checkpoint_every=1 << 30)
    with Loop(new.directory, scratch, settings, source=None, learned=into) as loop:
        loop.operations.held = True  # these samples are learned with their labels, not by themselves
        for name in resumed.learned.added:
            if name not in loop.classes:
                try:
                    loop.operations.add_class(name)
                except RequestError:
                    continue  # it has no head to tell it; the samples of this class are then refused one by one
        given = []
        for sample in sorted(stored, key=lambda one: one.seq):
            given.append(Given(loop.predict(sample.x).seq, names[sample.label]))
        try:
            done = loop.operations.label(given)
        except BundleError as error:
            return f"discarded: {error}"
    newest = Checkpoints(into).newest(*new.manifest.layouts.values())
    if newest:
        again = replace(newest.learned, place=resumed.learned.place)
        if problem := _canaries(new, again):
            Checkpoints(into).write(built, Parts())
            return f"discarded, as it did not pass the canaries: {problem}"
        Checkpoints(into).write(again, _parts(newest))
    return f"rebased: {done.learned} labelled samples learned again"
