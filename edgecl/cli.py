"""The `edgecl` command: one line per subcommand, imported only when called."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from edgecl import __version__
from edgecl.errors import EXIT_FAILED, EXIT_INTERRUPTED, EdgeclError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "build": ("export.command:build", "Compile a project into a bundle."),
    "learners": ("export.command:learners", "List the learners that a project can name."),
    "search": ("export.search_command:search_command", "Choose a form of adaptor for new domains."),
    "inspect": ("edgecl.commands.inspect:inspect", "Show what a bundle is and what it needs."),
    "verify": ("edgecl.commands.verify:verify", "Check on this machine that a bundle computes what it should."),
    "keys": ("edgecl.commands.keys:keys", "Make keys that sign bundles, and say which a board trusts."),
    "sign": ("edgecl.commands.sign:sign", "Sign a bundle."),
    "run": ("edgecl.commands.run:run", "Answer samples and learn from them."),
    "deploy": ("firmware_host.commands.deploy:deploy", "Bring a bundle onto devices."),
    "status": ("firmware_host.commands.status:status", "Show how devices are."),
    "history": ("firmware_host.commands.history:history", "Show what was deployed to a device."),
    "rollback": ("firmware_host.commands.rollback:rollback", "Go back to the bundle before."),
    "cancel": ("firmware_host.commands.rollback:cancel", "Give up a deployment that is under way."),
    "pause": ("firmware_host.commands.pause:pause", "Stop learning on devices."),
    "resume": ("firmware_host.commands.pause:resume", "Let devices learn again."),
    "snapshot": ("firmware_host.commands.pause:snapshot", "Write down what devices have learned."),
    "pull": ("firmware_host.commands.pull:pull", "Fetch journals, samples and learned states from devices."),
    "logs": ("firmware_host.commands.logs:logs", "Show what the service of a device has said."),
    "serve": ("edgecl.commands.serve:serve", "Answer with the bundle that is deployed to a store."),
    "replay": ("firmware_host.commands.replay:replay", "Run a recorded journal again: verify it, or ask what if."),
    "simulate": ("firmware_host.commands.simulate:simulate", "Make journals of boards that are not there."),
    "domains": ("edgecl.commands.domains:domains", "List and change the domains of a state directory."),
    "classes": ("edgecl.commands.classes:classes", "List the classes of a state directory, and add new ones."),
    "label": ("edgecl.commands.label:label", "Give samples that were answered their labels."),
    "journal": ("edgecl.commands.journal:journal", "See to the segments of a journal."),
    "ingest": ("firmware_host.commands.ingest:ingest", "Make tables of the journals that were pulled."),
    "query": ("firmware_host.commands.query:query", "Ask the tables of a host store, in SQL."),
    "evaluate": (
        "firmware_host.commands.evaluate:evaluate_command",
        "Say what learning was worth on devices, and what to label next.",
    ),
    "report": ("firmware_host.commands.report:report", "Show in one HTML file what devices met and learned."),
    "harvest": ("firmware_host.commands.harvest:harvest", "Make a data set of samples that boards have kept."),
    "merge": ("firmware_host.commands.merge:merge", "Make one learned state of those of several boards."),
    "top": ("firmware_host.commands.top:top", "Watch devices, live."),
    "agent": ("edgecl.commands.agent:agent", "Answer a host on stdin and stdout; hosts start it."),
    "devices": ("firmware_host.commands.devices:devices", "List the devices of the fleet, or the boards there are."),
    "probe": ("firmware_host.commands.probe:probe", "Show what a board is."),
    "doctor": ("firmware_host.commands.doctor:doctor", "Find out what is wrong with a board, or with this computer."),
    "check": ("firmware_host.commands.check:check", "Say whether a bundle will run on a board."),
    "provision": ("firmware_host.commands.provision:provision", "Put edgecl onto a board, with its service."),
}
"""Name of a command -> where it is, and what it does."""

EXTRAS: Final = {
    "torch": "export",
    "executorch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "duckdb": "host",
    "plotly": "host",
    "pyarrow": "host",
    "ray": "ray",
    "textual": "host",
    "serial": "serial",
}
"""Packages that the base install does not bring -> the extra that does."""


class _Table(click.Group):
    """The commands of the table, none of which is imported for `--help`."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, function = COMMANDS[name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module), function)
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in EXTRAS:
                raise
            raise EdgeclError(f"{name} needs {missing}: pip install 'edgecl[{EXTRAS[missing]}]'") from None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.group(cls=_Table, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="edgecl %(version)s")
def edgecl() -> None:
    """Continual learning on the board: build a bundle, run it, and see what it learned."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code; what the codes mean stands in `edgecl/errors.py`."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: products here are small, and threads cost memory
    try:
        code = edgecl.main(arguments, prog_name="edgecl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except EdgeclError as error:
        print(f"edgecl: {error}", file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is silent
        return EXIT_FAILED
