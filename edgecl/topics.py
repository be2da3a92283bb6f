"""The types of records that a journal has, and the topic that each stands in."""

from typing import Final

from edgecl.journal_pb2 import (
    Boot,
    Checkpoint,
    Class,
    ClockSet,
    Damaged,
    Domain,
    Dropped,
    End,
    Gap,
    Guard,
    Label,
    Loss,
    Prediction,
    Run,
    Sample,
    Shift,
    Update,
)

VERSION: Final = 1
"""Of the schema. It goes up when a field changes its meaning, and never because fields or topics are added."""

Record = (
    Run
    | Prediction
    | Damaged
    | Shift
    | Domain
    | Update
    | Guard
    | Label
    | Class
    | Checkpoint
    | Loss
    | Sample
    | End
    | Boot
    | ClockSet
    | Gap
    | Dropped
)

TOPICS: Final[dict[str, type[Record]]] = {
    "/run": Run,
    "/prediction": Prediction,
    "/damaged": Damaged,
    "/shift": Shift,
    "/domain": Domain,
    "/update": Update,
    "/guard": Guard,
    "/label": Label,
    "/class": Class,
    "/checkpoint": Checkpoint,
    "/loss": Loss,
    "/sample": Sample,
    "/end": End,
    "/boot": Boot,
    "/clock": ClockSet,
    "/gap": Gap,
    "/dropped": Dropped,
}
