"""Fixtures: data outside the project, tiny checkpoints of every variant, packed models, a cache of one's own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file
from serving import serving

from edge_lfm.api import Model
from edge_lfm.architectures import family_of, read_shape
from edge_lfm.demo import demo_checkpoint
from edge_lfm.model.plan import TENSOR_CLASSES, Schemes, plan_tensors
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
# A shell that starts the suite in the background has it ignore SIGINT, and so would every program that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
FLOAT_SCHEMES = Schemes("float32", dict.fromkeys(TENSOR_CLASSES, "float32"))


def load_tool(name: str) -> ModuleType:
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Makes a folder's modules importable, and forgets them at the end: files of benchmarks share names with packages
    that other tests import."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent == folder:
                del sys.modules[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With EDGE_LFM_REQUIRED, as in CI, a test that is skipped for want of something has failed."""
    report = yield
    if report.skipped and os.environ.get("EDGE_LFM_REQUIRED") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if "needs" in reason:
            report.outcome, report.longrepr = "failed", f"{reason} (EDGE_LFM_REQUIRED is set)"
    return report


LONGEST = (
    "test_documents.py",
    "test_board.py",
    "test_compiler.py",
    "test_kernels.py",
    "test_batch_cluster.py",
    "test_new_scheme.py",
    "test_client_core.py",
    "test_javascript.py",
    "test_applications.py",
    "test_examples.py",
    "test_bundle.py",
    "test_page.py",
    "test_resume.py",
)
"""Files whose tests are few and take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take whole files, in this order: long files first, then those of many tests, so that none is left alone
    with a long one at the end."""
    rank = {name: n for n, name in enumerate(LONGEST)}
    sizes = Counter(item.path.name for item in items)
    items.sort(key=lambda item: (rank.get(item.path.name, len(rank)), -sizes[item.path.name]))


goldens_tool = load_tool("make_goldens")
GOLDEN_CASES: dict[str, dict] = json.loads((DATA / "goldens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden_logits() -> dict[str, np.ndarray]:
    with np.load(DATA / "goldens.npz") as file:
        return dict(file)


def write_checkpoint(folder: Path, raw_config: dict, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """A checkpoint folder in the hub's layout, by the safetensors package; seeded weights unless given."""
    folder.mkdir(parents=True)
    shape = read_shape(raw_config)
    if tensors is None:
        family = family_of(raw_config)
        sources = [source for tensor in plan_tensors(shape, FLOAT_SCHEMES) for source in tensor.sources]
        shapes = goldens_tool.stored_shapes(raw_config, {family.hub_name(s.name): s.shape for s in sources})
        tensors = {name: goldens_tool.random_weights(name, shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw_config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def case_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint per golden case."""
    base = tmp_path_factory.mktemp("cases")
    return {case: write_checkpoint(base / case, raw) for case, raw in GOLDEN_CASES.items()}


class _PackedCases(dict[str, Path]):
    """case -> packed model, packed when it is first asked for."""

    def __init__(self, folder: Path, scheme: str, sources: dict[str, Path]) -> None:
        self.folder, self.scheme, self.sources = folder, scheme, sources

    def __missing__(self, case: str) -> Path:
        convert(self.sources[case], self.folder / case, find_recipe(self.scheme))
        self[case] = self.folder / case
        return self[case]


@pytest.fixture(scope="session")
def packed_cases(
    case_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Path]]:
    """scheme -> case -> packed model."""
    base = tmp_path_factory.mktemp("packed")
    return {
        scheme: _PackedCases(base / scheme, scheme, case_checkpoints)
        for scheme in ("float32", "int8", "int4", "balanced", "compact", "tiny")
    }


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """scheme -> packed demo model."""
    base = tmp_path_factory.mktemp("demo")
    made = {scheme: base / scheme for scheme in ("float32", "int8", "int4", "balanced", "compact", "quality", "q4_0")}
    for scheme, folder in made.items():
        convert(demo_checkpoint(), folder, find_recipe(scheme))
    return made


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]) -> Iterator[Model]:
    """The demo model, loaded once for a file of tests."""
    with Model.load(demo["int4"], threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def address(demo: dict[str, Path]) -> Iterator[str]:
    """Where a server of the demo model listens, started once for a file of tests."""
    with serving(str(demo["int4"])) as where:
        yield where


@pytest.fixture(scope="session")
def demo_goldens() -> dict[str, dict]:
    """prompt name -> ids, greedy ids, logits and experts by layer of transformers on the demo model."""
    prompts = json.loads((DATA / "demo_golden" / "golden.json").read_text(encoding="utf-8"))["prompts"]
    with np.load(DATA / "demo_golden" / "golden_f32.npz") as arrays:
        for name, prompt in prompts.items():
            prompt["logits"] = arrays[f"{name}.logits"]
            at = f"{name}.experts."
            prompt["experts"] = {int(key.removeprefix(at)): arrays[key] for key in arrays.files if key.startswith(at)}
    return prompts


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data sets that are not part of the project: `EDGE_LFM_SHARED_DATA`, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("EDGE_LFM_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the shared data sets, which are not at {folder} (set EDGE_LFM_SHARED_DATA)")
    return folder
