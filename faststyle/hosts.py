"""Names of this machine in requests, for the servers of live/ and serve/.

A web page of a stranger can point its own name at 127.0.0.1 (DNS rebinding) and would then reach
servers on loopback. So a request must name an address of this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port: "[::1]:8080" gives "::1"."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_unspecified(host: str) -> bool:
    """Return whether an address stands for all addresses of a machine, as 0.0.0.0 does."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def why_refused(scope: Mapping[str, Any], allowed: Collection[str], command: str) -> str:
    """Return why a request (an ASGI scope) is not for us, or "" where all is well.

    It must name a host of `allowed`, and the page that sent it, if any, must be of one too. The
    address that the client reached us at is always allowed. `command` is the one to start with
    another --host.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    own = str((scope.get("server") or ("",))[0])
    name = host_name(headers.get(b"host", ""))
    if name not in allowed and name != own:
        return f"the name {name!r:.80} is not served; {command} --host NAME allows it"
    # A page of a stranger may send forms to us, from the browser of somebody who can reach us.
    origin = headers.get(b"origin")
    if origin is not None:
        try:
            page = host_name(urlsplit(origin).netloc)
        except ValueError:  # no address at all
            page = ""
        if page not in allowed and page != own:
            return f"pages of {origin!r:.80} may not use this service"
    return ""
