"""
Replay the recorded exchanges with TensorFlow Serving against a server command.

The recordings lie beside the repository, in ../shared/conformance, where they are
present.  A mismatch is accepted only when docs/compatibility.md names it: as
`case:ID`, in a row that says how the answer is deliberately better, or as
`pending:AREA` or `pending:ID`, for what is not built yet.  What is named and agrees
after all is an error, too, so that the page stays true.
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


def named(kind: str, text: str) -> set[str]:
    """Return what the compatibility page names as *kind*."""
    return set(re.findall(rf"`{kind}:([^`\s]+)`", text))


def recorded_areas() -> list[str]:
    """Return the areas there are recordings of."""
    return sorted(path.stem for path in (RECORDINGS / "cases").glob("*.jsonl"))


def main() -> int:
    """Run the replay, compare its report with the page, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="the command to start")
    parser.add_argument("--only", help="areas to replay, separated by commas")
    parser.add_argument("--jobs", default="2", help="servers at one time")
    args = parser.parse_args()
    replay = RECORDINGS / "replay.py"
    if not replay.is_file():
        print(f"There are no recordings at {RECORDINGS}.")
        return 1
    page = COMPATIBILITY.read_text() if COMPATIBILITY.is_file() else ""
    pending = named("pending", page)
    areas = args.only.split(",") if args.only else recorded_areas()
    areas = [area for area in areas if area not in pending]
    server = Path(args.server)
    command = [sys.executable, str(replay), "--jobs", args.jobs]
    command += ["--server", str(server.absolute() if server.exists() else server)]
    command += ["--only", ",".join(areas)]
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.json"
        subprocess.run([*command, "--json", str(report_file)], check=False)  # noqa: S603 - our own command line
        if not report_file.is_file():
            return 1
        report = json.loads(report_file.read_text())
    excused = named("case", page) | {case for case in pending if "/" in case}
    mismatches = set(report["mismatches"])
    unexpected = sorted(mismatches - excused)
    replayed = {case for case in excused if case.split("/")[0] in areas}
    stale = sorted(replayed - mismatches)
    print(f"{report['passed']} passed, {len(unexpected)} failed")
    print(f"{len(mismatches & excused)} differ as {COMPATIBILITY.name} says")
    for area in sorted(pending - excused):
        print(f"  not replayed, because it is not built yet: {area}")
    for case in unexpected:
        print(f"  unexpected: {case}")
    for case in stale:
        print(f"  named in {COMPATIBILITY.name}, but agrees: {case}")
    return 1 if unexpected or stale else 0


if __name__ == "__main__":
    sys.exit(main())
