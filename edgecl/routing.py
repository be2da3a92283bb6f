"""What a loop routes by: from the bundle, from its settings, and from what an earlier run learned."""

from dataclasses import dataclass

import msgspec
import numpy as np

from edgecl.bank import SOURCE, Bank, source_bank
from edgecl.bundle import Bundle, read_router
from edgecl.checkpoints import Learned
from edgecl.manifest import Calibration, Manifest
from edgecl.router import Router
from edgecl.settings import SettingError, Settings
from edgecl.signature import Signatures


@dataclass(frozen=True)
class Routing:
    """At the start of a run."""

    signatures: Signatures | None
    """None where the bundle has no router."""
    bank: Bank
    router: Router | None
    """None where samples are not routed."""
    rests: int
    """The domain that the stream was left in."""


def routing(bundle: Bundle, settings: Settings, learned: Learned | None) -> Routing:
    """Raises SettingError: the bundle cannot route."""
    record, features = bundle.manifest.router, bundle.manifest.features
    most, rests = domains(settings, bundle.manifest), learned.active if learned else SOURCE
    found = read_router(bundle)
    if not record or not found:
        nothing = Calibration(threshold=-1.0, mean=0.0, deviation=1.0, drift=1.0)
        return Routing(None, learned.bank if learned else source_bank(nothing, _NOBODY, features), None, rests)
    bank = learned.bank if learned else source_bank(record.calibration, found.prototype, features)
    router = None
    if most > 1:
        record = msgspec.structs.replace(record, domains=most)
        router = Router(record, bank, hysteresis=settings.hysteresis, active=rests)
    return Routing(found.signatures, bank, router, rests)


def domains(settings: Settings, manifest: Manifest) -> int:
    """How many the bank may hold. Raises SettingError."""
    if settings.domains is None:
        return manifest.router.domains if manifest.router else 1
    if settings.domains > 1 and not manifest.router:
        raise SettingError(f"domains {settings.domains}: {manifest.name} names no taps to tell them by; give 1")
    return settings.domains


_NOBODY = np.zeros(0, np.uint8)
