"""The documents: their examples run, their commands and options exist, links lead somewhere, no field is left out."""

import json
import os
import re
import shutil
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import numpy as np
import pytest

import edgecl
from edgecl import deployer, deployments
from edgecl.cli import COMMANDS
from edgecl.cli import edgecl as command_line
from edgecl.control import served
from edgecl.devices import Profile
from edgecl.requests import LEARNED, REQUESTS, SERVICE, Reopen
from edgecl.service import Service
from edgecl.service_file import ServiceFile
from edgecl.settings import Settings
from export import project as projects
from export.build import build
from export.project import Tables
from firmware_host import fleet
from tests.edgecl import stores
from tests.export import projects as small

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [ROOT / "README.md", *(ROOT / "docs" / "guide" / name for name in ("library.md", "labels.md"))]
FREELY = ('memory = "200 MB"', 'memory = "0 MB"')
"""This process has torch in it, more than any budget allows."""
CLASSES = [str(number) for number in range(10)]


def each(documents: list[Path]) -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in documents]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every `edgecl` command that a document shows, in blocks and in the text."""
    text = path.read_text("utf-8")
    for line in re.findall(r"^(?:\$ |    )edgecl (\w.*)$", text, re.MULTILINE) + re.findall(
        r"`edgecl ([^`\n]+)`", text
    ):
        yield line.split("#")[0].split()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle named as in the examples, which adapts and learns."""
    folder = small.write(tmp_path_factory.mktemp("project") / "digits", *small.named("tent", FREELY))
    text = (folder / "edgecl.toml").read_text().replace('["red", "green", "blue"]', str(CLASSES).replace("'", '"'))
    (folder / "edgecl.toml").write_text(text)
    model = (folder / "model.py").read_text().replace("nn.Linear(16, 3)", "nn.Linear(16, 10)")
    (folder / "model.py").write_text(model)
    build(projects.read(folder), folder / "digits.ecl").bundle.close()
    return folder / "digits.ecl"


@pytest.mark.parametrize("path", each(EXAMPLES))
def test_the_examples_run(path: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(path, "python")
    assert found
    monkeypatch.chdir(tmp_path)
    shutil.copy(digits, tmp_path)
    for number, block in enumerate(found):
        camera = np.random.default_rng(number).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
        exec(compile(block, f"{path.name} example {number + 1}", "exec"), {"camera": camera, "image": camera[0]})
    with edgecl.open("digits.ecl", state="state") as loop:
        assert loop.state.step > 0


@pytest.mark.parametrize("path", each(DOCUMENTS))
def test_commands_and_their_options_exist(path: Path) -> None:
    context = click.Context(command_line)
    for words in commands(path):
        assert words[0] in COMMANDS, words
        command = command_line.get_command(context, words[0])
        assert command is not None
        if isinstance(command, click.Group) and words[1:]:
            assert words[1] in command.commands, words
            command = command.commands[words[1]]
        options = {name for parameter in command.params for name in parameter.opts}
        used = {word.strip("[]").partition("=")[0] for word in words if word.strip("[").startswith("-")}
        assert used <= options | {"--help"}, words


@pytest.mark.parametrize("path", each(DOCUMENTS))
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target
    ours = r"(?<![\w/.~-])((?:docs|demo|export|edgecl|tests|devices)/[\w./-]+\.(?:md|py|toml|proto))\b"
    for target in re.findall(ours, text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", each(DOCUMENTS))
def test_parts_of_edgecl_toml_have_fields_that_exist(path: Path) -> None:
    sections = {field.name: field.type for field in msgspec.structs.fields(Tables)}
    for block in blocks(path, "toml"):
        for name, value in tomllib.loads(block).items():
            assert name in sections
            if isinstance(value, dict):
                assert set(value) <= {field.name for field in msgspec.structs.fields(sections[name])}, name


def test_every_command_has_a_document() -> None:
    assert {path.stem for path in (ROOT / "docs" / "commands").glob("*.md")} == set(COMMANDS)


def test_every_command_of_a_group_is_told() -> None:
    context = click.Context(command_line)
    for name in COMMANDS:
        group = command_line.get_command(context, name)
        if isinstance(group, click.Group):
            shown = {words[1] for words in commands(ROOT / "docs" / "commands" / f"{name}.md") if words[0] == name}
            assert shown == set(group.commands), name


def fenced(page: Path, kind: str) -> list[str]:
    """The lines of all fenced blocks of a kind."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line for given, block in found if given == kind for line in block.splitlines()]


def test_requests_are_answered_as_told(digits: Path, tmp_path: Path) -> None:
    """All of the page on one loop that has founded a domain, but for what depends on the bundle."""
    lines = fenced(ROOT / "docs" / "formats" / "control.md", "")
    told = list(zip(lines[::2], lines[1::2], strict=True))
    asked = {json.loads(request)["do"] for request, _ in told}
    assert {kind.__struct_config__.tag for kind in get_args(LEARNED)} == asked - {"explode"}
    dark = np.random.default_rng(0).integers(0, 60, (200, 8, 8, 3)).astype(np.uint8)
    with edgecl.open(digits, state=tmp_path, domains=8, keep_bytes=1 << 20) as loop, served(loop.operations, tmp_path):
        for image in dark:
            loop.predict(image)
        folder = os.open(tmp_path, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/self/fd/{folder}/socket")
            stream = connection.makefile("rwb")
            for request, answer in told:
                stream.write(request.replace("/tmp/", f"{tmp_path}/").encode() + b"\n")
                stream.flush()
                assert plain(json.loads(stream.readline())) == plain(json.loads(answer)), request
        os.close(folder)


def test_what_a_service_is_asked_is_told(digits: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in fenced(ROOT / "docs" / "formats" / "control.md", "json")]
    assert {kind.__struct_config__.tag for kind in get_args(SERVICE)} == {line["do"] for line in lines if "do" in line}
    told = next(line["done"] for line in lines if "done" in line)
    store = stores.made(tmp_path / "store")
    stores.begun(store, digits)
    deployer.carry_on(store)
    (store / "service.toml").write_text('source = "stdin"\n')
    service = Service(store, say=lambda line: None)
    service.perform(Reopen())
    for request in (line for line in lines if "do" in line):
        answer = service.perform(msgspec.convert(request, REQUESTS))
        assert msgspec.to_builtins(answer).keys() == told.keys()
    service.close("")


def plain(answer: Any) -> Any:
    """Without the numbers that are those of a bundle."""
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    if isinstance(answer, dict):
        return {key: key if key in ("step", "bytes", "digest", "updates") else plain(answer[key]) for key in answer}
    return answer


def test_every_document_is_in_the_table_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        here = path.relative_to(ROOT)
        assert f"({here})" in text or f"({here.parent})" in text, here


def test_every_field_of_a_project_is_told_with_its_default() -> None:
    parts = re.split(r"^## ", (ROOT / "docs" / "formats" / "project.md").read_text("utf-8"), flags=re.MULTILINE)
    told = {part.split("\n")[0]: table(part) for part in parts}
    sections = {"The file itself": Tables}
    for field in msgspec.structs.fields(Tables):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            sections[f"[{field.name}]"] = field.type  # type: ignore[assignment]
    for name, section in sections.items():
        fields = [f for f in msgspec.structs.fields(section) if f"[{f.name}]" not in sections]
        assert list(told[name]) == [f.name for f in fields], name
        for field in fields:
            default = told[name][field.name]
            if field.required:
                assert default == "required", field.name
            elif field.default not in (None, ()) and field.default is not msgspec.NODEFAULT:
                assert default == f"`{msgspec.json.encode(field.default).decode()}`", field.name
            else:
                assert default not in ("required", ""), field.name


def test_every_field_of_a_device_is_told() -> None:
    told = table((ROOT / "docs" / "formats" / "device.md").read_text("utf-8"))
    assert list(told) == [field.name for field in msgspec.structs.fields(Profile)]


def test_every_field_of_a_service_is_told_with_its_default() -> None:
    told = table((ROOT / "docs" / "commands" / "serve.md").read_text("utf-8"))
    assert list(told) == [field.name for field in msgspec.structs.fields(ServiceFile)]
    for field in msgspec.structs.fields(ServiceFile):
        if not field.required and field.default is not msgspec.NODEFAULT and field.default is not None:
            assert told[field.name] == f"`{msgspec.json.encode(field.default).decode()}`", field.name


def test_every_field_of_a_fleet_is_told_with_its_default() -> None:
    parts = re.split(r"^## ", (ROOT / "docs" / "formats" / "fleet.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    kinds: list[type[msgspec.Struct]] = [fleet.Defaults, fleet.Entry, fleet.Rollout]
    for part, struct in zip(parts, kinds, strict=True):
        told = table(part)
        assert list(told) == [field.name for field in msgspec.structs.fields(struct)]
        for field in msgspec.structs.fields(struct):
            if field.required:
                assert told[field.name] == "required"
            elif field.default is not msgspec.NODEFAULT and field.default is not None:
                default = list(field.default) if isinstance(field.default, tuple) else field.default
                assert told[field.name] == f"`{msgspec.json.encode(default).decode()}`", field.name


def test_every_field_of_the_record_of_deployments_is_told() -> None:
    text = (ROOT / "docs" / "formats" / "store.md").read_text("utf-8")
    told = [name for row in re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    structs = (deployments.Control, deployments.Deployment, deployments.Figures)
    fields = [field.name for struct in structs for field in msgspec.structs.fields(struct)]
    assert told == [*fields, *deployments.NAMES]


def test_every_setting_of_the_library_is_told() -> None:
    text = (ROOT / "docs" / "guide" / "library.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)=", text, re.MULTILINE) and set(
        re.findall(r"^\| `(\w+)=", text, re.MULTILINE)
    ) == set(Settings.__dataclass_fields__)


def test_the_learner_of_the_guide_finds_the_prior_that_it_was_given(tmp_path: Path) -> None:
    name, prior = "bias_only:BiasOnly", np.array([0.25, 0.25, 0.5])
    settings = "batch = 4\nsettings = { prior = [0.25, 0.25, 0.5] }\nhyper = { lr = 32.0 }"
    untrained = ("canaries = 9", "canaries = 0")  # whose answers are no measure of anything
    folder = small.write(tmp_path / "project", *small.named(name, ("batch = 4", settings), untrained, FREELY))
    shutil.copy(ROOT / "docs" / "guide" / "examples" / "bias_only.py", folder)
    build(projects.read(folder), tmp_path / "own.ecl").bundle.close()
    images = np.random.default_rng(5).integers(0, 256, (252, 8, 8, 3)).astype(np.uint8)
    with edgecl.open(tmp_path / "own.ecl", state=tmp_path / "state", sync=True) as loop:
        logits = np.array([loop.predict(image).logits for image in images])
        assert loop.manifest.learner.name == "BiasOnly"
        assert loop.state.theta.size == 3
    probable = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    early, late = (np.abs(part.mean(0) - prior).max() for part in (probable[:20], probable[-60:]))
    assert late < 0.03 < 0.1 < early


def table(text: str) -> dict[str, str]:
    """First and second cell of the rows whose first cell is a name in backquotes."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", text, re.MULTILINE))
