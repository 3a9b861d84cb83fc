"""The command `repro`: finds the verb, imports only its module, and turns errors into messages and exit codes.

A verb is a module of this package with two functions: `configure(parser)` and `execute(arguments) -> int`.
Nothing of another verb is imported, so that a hit stays near the start-up time of Python.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import NamedTuple

from repro_est import __version__
from repro_est.console import Console
from repro_est.errors import InfrastructureError, ReproError
from repro_est.store.guard import FULL


class Verb(NamedTuple):
    """A verb, the group it is listed in, and one line of help.

    Args:
        needs_store: it only looks at a store that is there, and must not make one.
    """

    name: str
    group: str
    help: str
    needs_store: bool = False

    @property
    def module(self) -> str:
        """The module of a verb: of its name, with `_` after a word of Python."""
        return f"repro_est.cli.{self.name}_" if iskeyword(self.name) else f"repro_est.cli.{self.name}"


VERBS = (
    Verb("run", "Work", "run a recipe, or return the run that already has its hash"),
    Verb("attach", "Work", "follow a run that its hosts own, to its end", needs_store=True),
    Verb("cancel", "Work", "end a run, wherever it is", needs_store=True),
    Verb("plan", "Work", "say what `run` would do and why; exit code 10 when it would execute"),
    Verb("lock", "Work", "pin everything a recipe depends on; `--check` without network"),
    Verb("check", "Work", "validate a recipe without running it; execute a run again and compare"),
    Verb("model", "Work", "register, promote, trace and download models"),
    Verb("import", "Work", "make a recipe of Azure ML code, a .runconfig, conda.yaml or MLproject"),
    Verb("ls", "Look", "list runs, newest first"),
    Verb("ps", "Look", "list the runs that go on, here and at hosts", needs_store=True),
    Verb("show", "Look", "one run: status, metrics, outputs, what identifies it", needs_store=True),
    Verb("page", "Look", "write the page of a run, a file for the browser; `--open` shows it", needs_store=True),
    Verb("tensorboard", "Look", "start TensorBoard on runs, also while they go on", needs_store=True),
    Verb("logs", "Look", "logs of a run, `-f` follows one that is running", needs_store=True),
    Verb("get", "Look", "copy a file out of a run, verified", needs_store=True),
    Verb("why", "Look", "name what differs from the nearest earlier run", needs_store=True),
    Verb("diff", "Look", "compare two runs: inputs, metrics, outputs", needs_store=True),
    Verb("models", "Look", "list registered models"),
    Verb("provenance", "Look", "where a run came from: in-toto and SLSA, an SBOM, a checklist", needs_store=True),
    Verb("capsule", "Look", "carry a whole run to another machine, to be executed there without network"),
    Verb("challenge", "Team", "compare a run with what others have made of the same plan", needs_store=True),
    Verb("push", "Team", "push runs to a remote of the team, signed", needs_store=True),
    Verb("pull", "Team", "take a run of the team into this store, every byte checked"),
    Verb("remotes", "Team", "list the remotes and ask each whether it answers"),
    Verb("key", "Team", "the key that signs what you push, and whose results are believed here"),
    Verb("snapshot", "Parts", "what the source directory contributes; `--list` shows each file"),
    Verb("env", "Parts", "show, build, enter, list and verify environments"),
    Verb("image", "Parts", "build, list, verify, push and pull images of environments"),
    Verb("hosts", "Parts", "probe the hosts of the inventory and say what to do about each problem"),
    Verb("schema", "Parts", "print the JSON Schema of recipes"),
    Verb("verify", "Store", "check every byte of the store", needs_store=True),
    Verb("gc", "Store", "remove what crashed processes left; `--collect` what nothing keeps; `--why` it is kept"),
    Verb("du", "Store", "what takes the space: by kind, by recipe, by run", needs_store=True),
    Verb("pin", "Store", "keep a run whatever is collected", needs_store=True),
    Verb("unpin", "Store", "take the pin of a run away", needs_store=True),
    Verb("pins", "Store", "list the pinned runs"),
    Verb("doctor", "Store", "check this machine and say what to do"),
    Verb("completion", "Store", "print shell completion for bash, zsh or tcsh"),
)

_ABOUT = """\
usage: repro VERB [...]        repro VERB --help explains one

Runs ML training from a recipe so that the same inputs give the same hash, the same hash
is computed once, and every result can be checked.
"""

_EXAMPLES = """\
Examples:
  repro run recipes/digits.toml                        lock, hash, execute, keep
  repro run recipes/digits.toml                        the same again: cached, in milliseconds
  repro run recipes/digits.toml --set script_params.--regularization=0.1
  repro why @                                          what differs from the run before
  repro get @ outputs/model.joblib model.joblib        `@` is the newest run, `@2` the one before

Exit codes: 0 ok; 1 the script failed; 2 usage or recipe; 3 lock missing or stale;
            4 verification failed; 5 infrastructure; 130 interrupted
"""


def run_command(words: Sequence[str]) -> int:
    """Runs one command.

    Args:
        words: what comes after `repro`.

    Returns:
        The exit code.
    """
    try:
        code = _dispatch(list(words))
        sys.stdout.flush()
        return code
    except ReproError as error:
        Console().error(error.message, hint=error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away (`repro ls | head`): not an error, and no second message at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return InfrastructureError.exit_code if words[0] == "run" else 0  # a run that nobody listens to is cancelled
    except OSError as error:
        if os.environ.get("REPRO_DEBUG"):
            raise
        hint = FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else "repro doctor"
        Console().error(f"{error.filename or 'system'}: {error.strerror or error}", hint=hint)
        return 5


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[0] == "help":
            return _dispatch([words[1], "--help"])
        print(top_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"repro {__version__}")
        return 0
    verb = next((verb for verb in VERBS if verb.name == words[0]), None)
    if verb is None:
        _unknown(words[0])
        return 2
    module = import_module(verb.module)
    parser = argparse.ArgumentParser(
        prog=f"repro {verb.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    arguments = parser.parse_args(words[1:])
    if verb.needs_store:
        from repro_est.cli.common import check_store_exists

        check_store_exists()
    code: int = module.execute(arguments)
    return code


def _unknown(word: str) -> None:
    import difflib

    near = difflib.get_close_matches(word, [verb.name for verb in VERBS], n=1)
    hint = f"repro {near[0]}" if near else "repro --help"
    Console().error(f"`{word}` is not a verb of repro", hint=hint)


def top_help() -> str:
    """Returns the text of `repro --help`."""
    lines = [_ABOUT]
    for group in dict.fromkeys(verb.group for verb in VERBS):
        lines.append(f"{group}:")
        lines += [f"  {verb.name:<11} {verb.help}" for verb in VERBS if verb.group == group]
        lines.append("")
    return "\n".join([*lines, _EXAMPLES]).rstrip()


def full_parser() -> argparse.ArgumentParser:
    """Returns one parser with every verb in it, for shell completion and the documentation's tests."""
    parser = argparse.ArgumentParser(prog="repro", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(dest="verb")
    for verb in VERBS:
        module = import_module(verb.module)
        module.configure(verbs.add_parser(verb.name, help=verb.help.replace("%", "%%")))
    return parser
