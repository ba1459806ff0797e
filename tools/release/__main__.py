"""`make release`: everything that must hold before a version is tagged, and what is published with it, in dist/."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from release.bill import write_bills
from release.build import build_twice, write_sums
from release.checklist import Step, call, go_through, table
from release.install import install_everywhere, install_on_arm
from release.tree import check_changelog, check_metadata, check_tree, project_version

ROOT = Path(__file__).parents[2]
WORK, OUT = ROOT / "build/release", ROOT / "dist"


def run_ci() -> str:
    lines = call("bash", str(ROOT / ".ci/run")).strip().splitlines()
    counted = [line.strip("= ") for line in lines if " passed" in line]
    return counted[-1] if counted else "no count of tests"


def steps(tests: bool, key: Path | None) -> list[Step]:
    """The checklist in its order."""
    ci = [Step("tests", run_ci)] if tests else []
    return [
        Step("tree", partial(check_tree, ROOT)),
        Step("metadata", partial(check_metadata, ROOT)),
        Step("changelog", partial(check_changelog, ROOT)),
        *ci,
        Step("build", partial(build_twice, ROOT, WORK, OUT)),
        Step("install", partial(install_everywhere, ROOT, WORK, OUT), needs=("build",)),
        Step("arm", partial(install_on_arm, ROOT, WORK, OUT), needs=("build",)),
        Step("bills", partial(write_bills, ROOT, WORK, OUT), needs=("build",)),
        Step("sums", partial(write_sums, OUT, key), needs=("build", "bills")),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument("--rehearsal", action="store_true", help="leave the tests out")
    parser.add_argument("--key", type=Path, help="a private key of OpenSSH that signs the checksums")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    outcomes = go_through(steps(not args.rehearsal, args.key))
    print(table(outcomes))
    if any(outcome.state != "ok" for outcome in outcomes):
        print("not ready to be released", file=sys.stderr)
        return 1
    print(f"ready: git tag -s v{project_version(ROOT)}, then publish what is in {OUT}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
