"""Connecting to many hosts at once, with a limit: an sshd drops more than ten connections that are being made at a time
(`MaxStartups`), and a jump host is one sshd for all the hosts behind it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from repro_est.hosts.host import Host, HostError
from repro_est.hosts.inventory import HostSpec


def host_of(spec: HostSpec) -> Host:
    """Returns a host that is not connected yet."""
    if spec.is_local:
        from repro_est.hosts.local import LocalHost

        return LocalHost(spec)
    from repro_est.hosts.ssh import SshHost

    return SshHost(spec)


def connect_all(hosts: Sequence[Host], *, limit: int = 32, per_gateway: int = 8) -> dict[str, Host | HostError]:
    """Connects to hosts, in parallel.

    Args:
        hosts: with names that differ.
        limit: connections being made at once.
        per_gateway: those of them through one jump host.

    Returns:
        For each name, in the order given, the host, or why there is no connection.
    """
    room = threading.BoundedSemaphore(limit)

    def connect(host: Host) -> Host | HostError:
        with room:
            try:
                host.connect()
            except HostError as error:
                return error
            return host

    groups: defaultdict[str | None, list[Host]] = defaultdict(list)
    for host in hosts:
        groups[host.spec.gateway.name if host.spec.gateway else None].append(host)
    pools: list[ThreadPoolExecutor] = []
    futures: dict[str, Future[Host | HostError]] = {}
    try:
        for gateway, members in groups.items():
            pool = ThreadPoolExecutor(min(len(members), limit if gateway is None else per_gateway))
            pools.append(pool)
            futures |= {host.name: pool.submit(connect, host) for host in members}
        return {host.name: futures[host.name].result() for host in hosts}
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
