"""
Replay the recorded exchanges with TensorFlow Serving against a server command.

The recordings lie beside the repository, in ../shared/conformance, where they are
present.  A mismatch is accepted only when docs/compatibility.md names the case in a
row that says how the answer is deliberately better; a row that names a case which
agrees after all is an error, too, so that the page stays true.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = ROOT.parent / "shared" / "conformance"
COMPATIBILITY = ROOT / "docs" / "compatibility.md"


def deliberate(text: str) -> set[str]:
    """Return the ids of the cases that the compatibility page names as deviations."""
    return set(re.findall(r"`case:([^`\s]+)`", text))


def main() -> int:
    """Run the replay, compare its report with the page, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="the command to start")
    parser.add_argument("--only", help="areas to replay, separated by commas")
    parser.add_argument("--jobs", default="3", help="servers at one time")
    args = parser.parse_args()
    replay = RECORDINGS / "replay.py"
    if not replay.is_file():
        print(f"There are no recordings at {RECORDINGS}.")
        return 1
    server = Path(args.server)
    command = [sys.executable, str(replay), "--jobs", args.jobs]
    command += ["--server", str(server.absolute() if server.exists() else server)]
    if args.only:
        command += ["--only", args.only]
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.json"
        subprocess.run([*command, "--json", str(report_file)], check=False)  # noqa: S603 - our own command line
        if not report_file.is_file():
            return 1
        report = json.loads(report_file.read_text())
    named = deliberate(COMPATIBILITY.read_text() if COMPATIBILITY.is_file() else "")
    mismatches = set(report["mismatches"])
    unexpected = sorted(mismatches - named)
    stale = set() if args.only else named - mismatches
    print(f"{report['passed']} passed, {len(unexpected)} failed")
    print(f"{len(mismatches & named)} differ as {COMPATIBILITY.name} says")
    for case in unexpected:
        print(f"  unexpected: {case}")
    for case in sorted(stale):
        print(f"  named in {COMPATIBILITY.name}, but agrees: {case}")
    return 1 if unexpected or stale else 0


if __name__ == "__main__":
    sys.exit(main())
