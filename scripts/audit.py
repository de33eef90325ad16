"""Ask PyPI for known vulnerabilities of the packages that are installed, once a day.

It is silent when there are none. Mirrors of PyPI often have no advisories, and pip-audit takes that
for "none known". So one package is asked for first: without an answer, one line says so, and
nothing fails. `AUDIT=0` leaves the audit out.
"""

from __future__ import annotations

import json
import os
import subprocess  # nosec B404
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

PROBE = "https://pypi.org/pypi/pip/24.0/json"
STAMP = Path(__file__).parents[1] / ".audited"  # its time is that of the last audit
DAY = 24 * 60 * 60
TIMEOUT = 5.0  # seconds


def why_not() -> str:
    """Return why there is no audit, "" where there can be one."""
    if os.environ.get("AUDIT") == "0":
        return "AUDIT=0"
    try:
        # The address is fixed, and https.
        with urllib.request.urlopen(PROBE, timeout=TIMEOUT) as answer:  # nosec B310
            found = "vulnerabilities" in json.load(answer)
    except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
        return f"no advisories at {PROBE}: {error}"
    return "" if found else f"no advisories at {PROBE}"


def audit() -> list[dict[str, Any]]:
    """Return what pip-audit found: a dictionary for each package. Raises: SystemExit."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--format", "json"]
    # No argument comes from outside, and there is no shell.
    done = subprocess.run(command, capture_output=True, text=True)  # nosec B603
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        sys.exit(f"pip-audit: failed\n{done.stderr}")
    return found


def main() -> int:
    """Print the packages that have a vulnerability, or are not known at PyPI; 1 for the former."""
    if STAMP.exists() and time.time() - STAMP.stat().st_mtime < DAY:
        return 0
    if reason := why_not():
        print(f"pip-audit: skipped, {reason}")
        return 0
    packages = audit()
    unknown = [
        p["skip_reason"] for p in packages if "not found on PyPI" in p.get("skip_reason", "")
    ]
    if unknown:
        names = ", ".join(reason.rpartition(": ")[2] for reason in unknown)
        print(f"pip-audit: not at PyPI, so not audited: {names}")
    bad = [p for p in packages if p.get("vulns")]
    for package in bad:
        for found in package["vulns"]:
            fix = ", ".join(found["fix_versions"]) or "none yet"
            print(f"{package['name']} {package['version']}: {found['id']}; fixed in: {fix}")
    if bad:
        return 1
    STAMP.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
