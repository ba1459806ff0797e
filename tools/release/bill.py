"""What a release brings along: a bill of materials (CycloneDX 1.6, JSON) and a list of licences, from wheels."""

from __future__ import annotations

import hashlib
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from packageurl import PackageURL

from edge_lfm.devices.licences import licence_list, read_wheel
from edge_lfm.devices.wheels import download_wheels
from release.checklist import ReleaseError, call
from release.tree import commit_seconds, project_version

_MACHINES = ("x86_64", "aarch64")
_PYTHON = "3.11"


def write_bills(root: Path, work: Path, out: Path) -> str:
    """For what pip installs here, and for a bundle of each machine: NAME.cdx.json and NAME.licenses.txt in `out`.

    Raises:
        ReleaseError: a package states no licence, or a bill is not as the standard says.
    """
    own = next(out.glob("*.whl"))
    version, seconds = project_version(root), commit_seconds(root)
    counts = []
    for name in ("pip", *(f"bundle-{machine}" for machine in _MACHINES)):
        folder = work / "wheels" / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        if name == "pip":
            call(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--only-binary=:all:",
                "--dest",
                str(folder),
                str(own),
            )
        else:
            download_wheels(name.removeprefix("bundle-"), _PYTHON, folder)
        wheels = sorted({own, *folder.glob("*.whl")} - {folder / own.name})
        stem = f"edge-lfm-{version}-{name}"
        (out / f"{stem}.cdx.json").write_text(bill(own, wheels, seconds), encoding="utf-8")
        (out / f"{stem}.licenses.txt").write_text(licence_list(wheels), encoding="utf-8")
        counts.append(f"{name} {len(wheels)} packages")
    return ", ".join(counts)


def bill(own: Path, wheels: Sequence[Path], seconds: int) -> str:
    """The JSON of a bill of materials: `own` with the others as its parts, at a time in seconds since 1970.

    The same wheels give the same bytes.

    Raises:
        ReleaseError: a package states no licence, or the JSON is not valid.
    """
    main = component(own, ComponentType.APPLICATION)
    parts = [component(wheel, ComponentType.LIBRARY) for wheel in wheels if wheel != own]
    digest = "".join(sorted(hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels))
    bom = Bom(components=parts, serial_number=uuid.uuid5(uuid.NAMESPACE_OID, digest))
    bom.metadata.component = main
    bom.metadata.timestamp = datetime.fromtimestamp(seconds, UTC)
    bom.register_dependency(main, parts)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    wrong = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(text)
    if wrong:
        raise ReleaseError(f"the bill of materials is not valid: {wrong}")
    return text + "\n"


def component(wheel: Path, kind: ComponentType) -> Component:
    package = read_wheel(wheel)
    if not package.licence:
        raise ReleaseError(f"{wheel.name} states no licence: find it, and say so in tools/release/bill.py")
    return Component(
        name=package.name,
        version=package.version,
        type=kind,
        bom_ref=f"{package.name}@{package.version}",
        purl=PackageURL("pypi", None, package.name.lower().replace("_", "-"), package.version),
        licenses=[LicenseFactory().make_from_string(package.licence)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(wheel.read_bytes()).hexdigest())],
    )
