"""Print shell completion.

bash:  eval "$(repro completion bash)"                 in ~/.bashrc
zsh:   repro completion zsh > ~/.zfunc/_repro          with ~/.zfunc in fpath
tcsh:  repro completion tcsh > ~/.repro.tcsh; source ~/.repro.tcsh
"""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell to complete for")


def execute(arguments: argparse.Namespace) -> int:
    import shtab

    from repro_est.cli.command import full_parser

    print(shtab.complete(full_parser(), shell=arguments.shell))
    return 0
