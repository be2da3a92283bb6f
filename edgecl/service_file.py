"""`STORE/service.toml`: where a service takes its samples from, and how its loop runs."""

import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgecl import sources
from edgecl.commands.options import parse_bytes
from edgecl.engine_choice import AUTO, DEFAULT
from edgecl.errors import ProjectError
from edgecl.settings import Settings

FILE: Final = "service.toml"
CANARIES: Final = "canaries"


class ServiceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file. Every field but `source` has the meaning and the default that the option of `edgecl run` has."""

    source: str
    hyper: dict[str, float] = {}
    checkpoint_every: Annotated[int, msgspec.Meta(ge=1)] = Settings.checkpoint_every
    memory: str = ""
    """Empty for the bundle's own budget."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1
    domains: int | None = None
    hysteresis: int = Settings.hysteresis
    keep: str = "16 MB"
    """Samples on the disk; unlike a run, a service keeps some: deployments are tried on them, and labels come late."""
    rehearsal: str = "1 MB"
    engine: str = AUTO
    """`auto`: ONNX Runtime with a GPU where the board has one and the bundle carries ONNX, else ExecuTorch."""

    def settings(self, where: Path) -> Settings:
        """Those of the loop. Raises ProjectError, SettingError."""
        return Settings(
            hyper=self.hyper,
            wait=self.source.partition(":")[0] in (*sources.RECORDED, CANARIES),
            checkpoint_every=self.checkpoint_every,
            budget_bytes=_bytes(self.memory, "memory", where) if self.memory else None,
            seed=self.seed,
            threads=self.threads,
            domains=self.domains,
            hysteresis=self.hysteresis,
            keep_bytes=_bytes(self.keep, "keep", where),
            rehearsal_bytes=_bytes(self.rehearsal, "rehearsal", where),
            engine=DEFAULT if self.engine == AUTO else self.engine,
        )


def read(directory: Path) -> ServiceFile:
    """The file of a store. Raises ProjectError: it is missing, or says what cannot be."""
    path = directory / FILE
    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), ServiceFile)
    except FileNotFoundError:
        raise ProjectError(f'{path}: missing; write it, with a line like source = "folder:/srv/frames"') from None
    except OSError as error:
        raise ProjectError(f"{path}: {error.strerror}; give the store of a service") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ProjectError(f"{path}: {error}; see docs/commands/serve.md") from None
    sources.check_spec(found.source, CANARIES)
    return found


def _bytes(text: str, name: str, where: Path) -> int:
    found = parse_bytes(text)
    if found is None:
        raise ProjectError(f'{where}: {name} = "{text}" is no size; write it like "64 MB"')
    return found
