"""What a loop routes by: from the bundle, from its settings, and from what an earlier run learned."""

import hashlib
from dataclasses import dataclass

import msgspec
import numpy as np

from edgecl.bank import SOURCE, Bank, source_bank
from edgecl.bundle import Bundle, read_router
from edgecl.checkpoints import Resumed
from edgecl.contents import ROUTER
from edgecl.errors import BundleError
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
    digest: str
    """Of what domains are told by."""


def routing(bundle: Bundle, settings: Settings, resumed: Resumed | None) -> Routing:
    """Raises SettingError: the bundle cannot route. BundleError: the domains were told by other taps."""
    record, features, learned = bundle.manifest.router, bundle.manifest.features, resumed and resumed.learned
    most, found, own = domains(settings, bundle.manifest), read_router(bundle), digest(bundle)
    if resumed and learned and learned.router != own:
        if len(learned.bank.domains) > 1 or resumed.heads:
            raise BundleError(
                f"{resumed.path}: its domains were told by the taps of another bundle; give another --state"
            )
        learned = None  # the source is what this bundle says of it
    rests = learned.active if learned else SOURCE
    if not record or not found:
        nothing = Calibration(threshold=-1.0, mean=0.0, deviation=1.0, drift=1.0)
        bank = learned.bank if learned else source_bank(nothing, _NOBODY, features)
        return Routing(None, bank, None, rests, own)
    bank = learned.bank if learned else source_bank(record.calibration, found.prototype, features)
    router = None
    if most > 1:
        record = msgspec.structs.replace(record, domains=most)
        router = Router(record, bank, hysteresis=settings.hysteresis, active=rests)
    return Routing(found.signatures, bank, router, rests, own)


def digest(bundle: Bundle) -> str:
    """sha256 over what signatures and heads are made with: bundles that agree on it may share domains."""
    return digest_of(bundle.manifest)


def digest_of(manifest: Manifest) -> str:
    """The same, by the manifest alone."""
    record = manifest.router
    files = [file.sha256 for file in manifest.files if file.path == ROUTER]
    made = [*files, str(record.dimensions), str(record.seed)] if record else []
    return hashlib.sha256(" ".join(made).encode()).hexdigest()


def domains(settings: Settings, manifest: Manifest) -> int:
    """How many the bank may hold. Raises SettingError."""
    if settings.domains is None:
        return manifest.router.domains if manifest.router else 1
    if settings.domains > 1 and not manifest.router:
        raise SettingError(f"domains {settings.domains}: {manifest.name} names no taps to tell them by; give 1")
    return settings.domains


_NOBODY = np.zeros(0, np.uint8)
