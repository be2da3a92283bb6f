"""The forms of a learner that one bundle carries: the same learner, made with other settings on the same encoder."""

import inspect
from collections.abc import Mapping

from edgecl.errors import ProjectError
from edgecl.manifest import Form
from export import trace
from export.learners import Learner, scored
from export.project import Project

FIRST = "first"
"""Name of the first form, where its settings do not name one."""


def forms(project: Project, learner: Learner) -> Mapping[str, Learner]:
    """By name: the project's learner under the empty one, and one for each entry of `learner.forms`.

    Raises ProjectError: the learner cannot be ranked, or settings that it does not take.
    """
    choice = project.tables.learner
    if choice.forms and not (scored(learner) and learner.encoder.taps and learner.trained):
        raise ProjectError(f"learner.forms: the board cannot rank {choice.name}; choose adaptor, with taps")
    made: dict[str, Learner] = {"": learner}
    for name, settings in choice.forms.items():
        if name in ("", first(project, learner)) or not name.isidentifier():
            raise ProjectError(f"learner.forms.{name}: the name of the first form, or no name; give it another")
        try:
            other = type(learner)(learner.encoder, **choice.settings | settings)  # type: ignore[call-arg]
        except TypeError as error:
            raise ProjectError(f"learner.forms.{name}: {error}") from None
        other.hyper = learner.hyper
        if any(trace.layout(other) == trace.layout(one) for one in made.values()):
            raise ProjectError(f"learner.forms.{name}: its state is like that of another form; leave one out")
        made[name] = other
    return made


def first(project: Project, learner: Learner) -> str:
    """The name of the first form: its `form` where the learner has such a setting."""
    parameters = inspect.signature(type(learner)).parameters
    usual = parameters["form"].default if "form" in parameters else FIRST
    return str(project.tables.learner.settings.get("form", usual))


def records(project: Project, made: Mapping[str, Learner], gates: Mapping[str, int]) -> tuple[Form, ...]:
    """What the manifest says of them, given how many gates each has; of one alone nothing."""
    if len(made) == 1:
        return ()
    return tuple(
        Form(
            name=name or first(project, made[""]),
            layout=trace.layout(one),
            trained=tuple(one.trained),
            gates=gates[name],
        )
        for name, one in made.items()
    )
