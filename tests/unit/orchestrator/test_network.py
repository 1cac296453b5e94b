"""How the nodes of an attempt find each other: this machine's real interfaces and ports."""

from __future__ import annotations

import socket

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.launch import network


def test_an_interface_has_an_address_and_the_address_leads_back() -> None:
    assert network.address_of_interface("lo") == "127.0.0.1"
    assert network.interface_of("127.0.0.1") == network.interface_of("127.0.1.1") == "lo"


def test_the_address_towards_a_host_is_our_own() -> None:
    assert network.address_towards("127.0.0.1") == "127.0.0.1"


def test_what_cannot_be_found_is_an_error_and_never_localhost() -> None:
    with pytest.raises(EnvironmentProblem, match=r"has no network interface 'ib9'; it has .*lo"):
        network.address_of_interface("ib9")
    with pytest.raises(EnvironmentProblem, match=r"does not reach 'no-such-node\.invalid'"):
        network.address_towards("no-such-node.invalid")
    with pytest.raises(EnvironmentProblem, match=r"no network interface .* has the address 192\.0\.2\.99"):
        network.interface_of("192.0.2.99")


def test_a_port_is_free_and_outside_of_what_programs_get_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    port = network.free_port()
    low, high = network._ephemeral_range()
    assert 10_000 <= port <= 65_535 and not low <= port <= high
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not network._is_free(port)
        # A machine on which nothing else is left: all ports but this one belong to Linux's own range.
        monkeypatch.setattr(network, "_ephemeral_range", lambda: (port + 1, 65_535))
        monkeypatch.setattr(network, "_LOWEST_PORT", port)
        with pytest.raises(EnvironmentProblem, match="no free TCP port"):
            network.free_port()
