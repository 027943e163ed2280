"""The command line: reads the arguments and the settings, and hands both to the part that works."""

# No `from __future__ import annotations`: typer reads the annotations while the program runs.
# What a command needs is imported inside it, so that --help and --version answer at once.
import asyncio
import importlib.util
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bot import __version__

if TYPE_CHECKING:
    from bot.config import Settings

NAME: Final = "ephemeral-bot"
DEFAULT_CONFIG: Final = Path("config.yaml")
CONFIG_ERROR: Final = 2
"""The exit status when the settings cannot be used; the same as for a wrong command line."""

app = typer.Typer(
    name=NAME,
    help="Disappearing messages for any [bold]Matrix[/bold] room.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    # A pretty traceback shows local variables, and a password may be among them.
    pretty_exceptions_enable=False,
)

identity_app = typer.Typer(
    help="Show, replace or keep safe the keys by which people recognise the bot.",
    no_args_is_help=True,
)
app.add_typer(identity_app, name="identity")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        help=f"The file with the settings, {DEFAULT_CONFIG} if left out; variables that begin with "
        "EPHEMERAL_BOT_ overrule it.",
    ),
]


def main() -> None:
    """Run the command line; never returns."""
    app(prog_name=NAME)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the bot until it is told to stop."""
    settings = _prepare(config)
    from bot.app import run as run_bot  # noqa: PLC0415

    raise typer.Exit(asyncio.run(run_bot(settings)))


@app.command()
def check(
    config: ConfigOption = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="An administrator's token, to see the rate limit with."),
    ] = None,
) -> None:
    """Check that the settings, the homeserver and the login work."""
    settings = _prepare(config)
    from bot.operator.check import check as run_checks  # noqa: PLC0415

    raise typer.Exit(0 if asyncio.run(run_checks(settings, admin_token_file)) else 1)


@app.command()
def rebuild(config: ConfigOption = None) -> None:
    """Read back in every room for messages without a timer. The bot must be stopped."""
    settings = _prepare(config)
    from bot.operator.rebuild import rebuild as rebuild_timers  # noqa: PLC0415

    _carry_out(rebuild_timers(settings, typer.echo))


@app.command(name="lift-rate-limit")
def lift_rate_limit(
    admin_token_file: Annotated[
        Path,
        typer.Option(metavar="PATH", help="A file with the access token of an administrator."),
    ],
    config: ConfigOption = None,
    undo: Annotated[bool, typer.Option("--undo", help="Put the limit back.")] = False,
) -> None:
    """Let the bot redact as fast as people write. Synapse only."""
    settings = _prepare(config)
    from bot.operator import rate_limit  # noqa: PLC0415

    _carry_out(rate_limit.lift(settings, typer.echo, file=admin_token_file, undo=undo))


@app.command()
def registration(config: ConfigOption = None) -> None:
    """Print what a homeserver needs to take the bot as an application service."""
    settings = _prepare(config, token_to_come=True)
    from bot.operator import registration as service  # noqa: PLC0415

    _carry_out(service.register(settings, typer.echo, _say))


@identity_app.command()
def show(config: ConfigOption = None) -> None:
    """Show the keys that people can compare, and whether the device is signed."""
    settings = _prepare(config)
    from bot.operator import identity  # noqa: PLC0415

    _carry_out(identity.show(settings, typer.echo))


@identity_app.command()
def reset(
    config: ConfigOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
) -> None:
    """Give the account a new identity. It takes the password, and the bot must be stopped."""
    settings = _prepare(config)
    from bot.operator import identity  # noqa: PLC0415

    operator = identity.Operator(
        say=typer.echo,
        agrees=lambda question: yes or typer.confirm(question),
        password=lambda question: str(typer.prompt(question, hide_input=True, err=True)),
    )
    _carry_out(identity.reset(settings, operator))


@identity_app.command()
def backup(
    config: ConfigOption = None,
    recovery_key_file: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write the key into this new file; do not show it."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Though the account has a secret storage already.")
    ] = False,
) -> None:
    """Keep the identity in the account's secret storage, under a recovery key."""
    settings = _prepare(config)
    from bot.operator import identity  # noqa: PLC0415

    _carry_out(identity.backup(settings, typer.echo, file=recovery_key_file, replace=replace))


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running afterwards, until Ctrl-C.")
    ] = False,
) -> None:
    """Watch messages disappear on a throwaway homeserver."""
    if importlib.util.find_spec("synapse") is None:
        _say("the demo needs a homeserver: pip install 'matrix-ephemeral-bot[demo]'")
        raise typer.Exit(1)
    from bot.demo.run import demo as run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(keep=keep))


def _carry_out(work: Coroutine[Any, Any, int]) -> None:
    """Do what an operator asked for; exit with its status."""
    from bot.operator.identity import OperatorError  # noqa: PLC0415

    try:
        status = asyncio.run(work)
    except OperatorError as error:
        _say(str(error))
        status = error.status
    raise typer.Exit(status)


def _prepare(config: Path | None, *, token_to_come: bool = False) -> "Settings":
    """Return the settings with logging set up; exit with status 2 when they cannot be used."""
    from bot.config import ConfigError, load  # noqa: PLC0415
    from bot.config.logs import configure  # noqa: PLC0415

    # Before anything is written: the database and the keys are nobody else's to read.
    os.umask(0o077)
    path = config or DEFAULT_CONFIG
    try:
        settings = load(path, required=config is not None, token_to_come=token_to_come)
    except ConfigError as error:
        _say(f"{path}: {error}")
        raise typer.Exit(CONFIG_ERROR) from None
    configure(settings.log.level, settings.log.format)
    return settings


def _say(problem: str) -> None:
    typer.echo(f"{NAME}: {problem}", err=True)
