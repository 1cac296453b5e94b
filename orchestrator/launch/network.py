"""Addresses, interfaces and ports of this machine, as the nodes of an attempt need them to find each other."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

import psutil

from orchestrator.errors import EnvironmentProblem

#: Ports that no program gets by asking for any: those below and above Linux's own range. Many sites keep the lowest
#: ten thousand for services.
_LOWEST_PORT = 10_000
_HIGHEST_PORT = 65_535
_PORT_TRIALS = 200


def address_of_interface(interface: str) -> str:
    """This machine's address on a network interface; IPv4 before IPv6.

    Raises:
        EnvironmentProblem: there is no such interface, or it has no address.
    """
    addresses = psutil.net_if_addrs()
    if interface not in addresses:
        raise EnvironmentProblem(
            f"{socket.gethostname()} has no network interface {interface!r}; it has {', '.join(sorted(addresses))}"
        )
    for family in (socket.AF_INET, socket.AF_INET6):
        for address in addresses[interface]:
            if address.family == family:
                return str(address.address)
    raise EnvironmentProblem(f"network interface {interface!r} of {socket.gethostname()} has no address")


def address_towards(host: str) -> str:
    """The address by which this machine would speak to ``host``. Nothing is sent.

    Raises:
        EnvironmentProblem: the name is not known here, or no route leads there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise EnvironmentProblem(
            f"{socket.gethostname()} does not reach {host!r}, the first node of the job: {error.strerror or error}; "
            "name the network between the nodes by backend.interface"
        ) from error


def interface_of(address: str) -> str:
    """The network interface that has an address of this machine.

    Raises:
        EnvironmentProblem: none has.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address.partition("%")[0] for entry in addresses):
            return name
    # The whole of 127.0.0.0/8 is this machine's, of which the interface names one address.
    if address.startswith("127."):
        return interface_of("127.0.0.1")
    raise EnvironmentProblem(f"no network interface of {socket.gethostname()} has the address {address}")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on, outside of what Linux gives to programs that ask for any.

    Raises:
        EnvironmentProblem: none was found.
    """
    low, high = _ephemeral_range()
    ranges = [range(_LOWEST_PORT, low), range(high + 1, _HIGHEST_PORT + 1)]
    ports = [port for ports in ranges for port in ports] or list(range(low, high + 1))
    for port in random.sample(ports, min(_PORT_TRIALS, len(ports))):
        if _is_free(port):
            return port
    raise EnvironmentProblem(f"{socket.gethostname()} has no free TCP port among {_PORT_TRIALS} that were tried")


def _is_free(port: int) -> bool:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise EnvironmentProblem(f"port {port} of {socket.gethostname()} cannot be probed: {error.strerror}") from error
    return True


def _ephemeral_range() -> tuple[int, int]:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return 32768, 60999
    return int(low), int(high)
