"""Who may import whom, read from the syntax trees: rows, the one layer of Ray, one adapter for each vendor, no gold."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from rayalign.config import Stage

PACKAGE = Path(__file__).parents[1] / "rayalign"
ROWS = [
    {"config", "cores", "dialogues", "errors", "metric", "pickling", "types", "user_code", "waiting"},
    {"algorithms", "data", "statistics"},
    {"models", "weights", "rollout", "scoring", "storage", "annotator", "serving"},
    {"actors"},
    {"cluster"},
    {"coordinator", "evaluation", "evolve", "annotator.service"},
    {"pipeline", "rehearsal", "forecast"},
    {"cli", "__init__"},
]
SAME_ROW = {
    ("config", "errors"), ("config", "types"), ("user_code", "errors"), ("waiting", "errors"), ("dialogues", "types"),
    ("types", "metric"), ("types", "pickling"),
    ("models", "weights"), ("rollout", "models"), ("rollout", "weights"),
    ("scoring", "rollout"), ("scoring", "models"), ("scoring", "annotator"),
    ("annotator", "models"), ("annotator", "rollout"),
    ("serving", "annotator"), ("serving", "models"), ("serving", "rollout"), ("serving", "weights"),
    ("rehearsal", "pipeline"), ("forecast", "pipeline"),
}  # fmt: skip
"""(importer, imported) pairs allowed beside each other"""
RAY = ("cluster", "actors", "coordinator.offline", "annotator.service")
VENDORS = {
    "vllm": (
        "rollout.vllm",
        "rollout.vllm_chat",
        "rollout.vllm_names",
        "rollout.vllm_transfer",
        "weights.paths.device",
    ),
    "deepspeed": (
        "models.zero",
        "models.whole",
        "models.partitioned",
        "models.process_group",
        "models.deepspeed_0_19",
    ),
    "wandb": ("storage.metrics",),
    "tensorboard": ("storage.metrics",),
    "openai": ("annotator",),
    "datasets": ("data.files",),
    "transformers": ("data", "models", "rollout.local", "rollout.growing_cache"),
}
"""library -> the modules that may import it, inside a function"""
GOLD = ("evaluation", "annotator.judges", "data.paddock")


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    late: bool
    """inside a function, or for the type checker only"""
    typing: bool = False
    """for the type checker only"""

    def __str__(self) -> str:
        return f"rayalign/{self.importer.replace('.', '/')}.py:{self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path: Path) -> Iterator[Import]:
    importer = module_name(path)

    def walk(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(importer, alias.name, node.lineno, late, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: relative import"
            yield from (Import(importer, f"{node.module}.{a.name}", node.lineno, late, typing) for a in node.names)
        typing = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        late = late or typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, late, typing)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


def within(module: str, places: tuple[str, ...] | set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def row(module: str) -> int:
    fitting = [(len(place), i) for i, places in enumerate(ROWS) for place in places if within(module, (place,))]
    assert fitting, f"{module} has no row: say in this test where it belongs"
    return max(fitting)[1]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)]


def inside(imports: list[Import]) -> list[Import]:
    """Imports of the package's own modules, without its name."""
    return [
        Import(i.importer, i.imported.removeprefix("rayalign."), i.line, i.late, i.typing)
        for i in imports
        if i.imported.startswith("rayalign.")
    ]


def test_the_walk_sees_what_it_should(imports: list[Import]) -> None:
    seen = {(i.importer, i.imported, i.late) for i in imports}
    assert ("config.job", "yaml", False) in seen
    assert ("cli", "rayalign.pipeline.doctor.examine", True) in seen
    assert ("algorithms.base", "rayalign.errors.InputError", False) in seen


def test_packages_import_lower_rows_only(imports: list[Import]) -> None:
    wrong = []
    for found in inside(imports):
        mine, other = found.importer.partition(".")[0], found.imported.partition(".")[0]
        higher = row(found.imported) > row(found.importer)
        beside = row(found.imported) == row(found.importer) and mine != other and (mine, other) not in SAME_ROW
        if higher or beside:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_the_top_row_imports_inside_functions(imports: list[Import]) -> None:
    top = [i for i in inside(imports) if row(i.importer) == len(ROWS) - 1 and not i.late]
    assert not [str(i) for i in top if not within(i.imported, ("errors", "cli"))]


def test_row_zero_needs_the_standard_library_pydantic_and_yaml_only(imports: list[Import]) -> None:
    outside = {i.imported.partition(".")[0] for i in imports if row(i.importer) == 0 and not i.late}
    assert outside - set(sys.stdlib_module_names) <= {"pydantic", "yaml", "rayalign"}


def test_algorithms_need_torch_only(imports: list[Import]) -> None:
    outside = {i.imported.partition(".")[0] for i in imports if within(i.importer, ("algorithms",))}
    assert outside - set(sys.stdlib_module_names) <= {"pydantic", "torch", "rayalign"}


def test_statistics_need_numpy_only(imports: list[Import]) -> None:
    outside = {i.imported.partition(".")[0] for i in imports if within(i.importer, ("statistics",))}
    assert outside - set(sys.stdlib_module_names) <= {"numpy", "rayalign"}


def test_ray_stays_in_its_layer(imports: list[Import]) -> None:
    wrong = [i for i in imports if i.imported.partition(".")[0] == "ray" and not within(i.importer, RAY)]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("library", VENDORS)
def test_a_vendor_is_imported_late_by_its_adapter_alone(imports: list[Import], library: str) -> None:
    found = [i for i in imports if library in i.imported.split(".") and not i.imported.startswith("rayalign.")]
    wrong = [i for i in found if not i.typing and not (i.late and within(i.importer, VENDORS[library]))]
    assert not wrong, "\n".join(map(str, wrong))


def test_gold_is_for_evaluation_and_judges(imports: list[Import]) -> None:
    users = [i for i in inside(imports) if within(i.imported, ("data.paddock.gold",))]
    assert users
    assert not [str(i) for i in users if not within(i.importer, GOLD)]


def test_nobody_asks_a_stage_for_its_class_or_the_name_of_its_kind() -> None:
    """A stage kind is a section and the pipeline's file of its name; nothing else knows kinds apart."""
    sections = get_args(get_args(Stage)[0])
    names = {kind for section in sections for kind in get_args(section.model_fields["kind"].annotation)}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if asks_for_a_class(node, r"'\w*(Stage|Kind)'") or compares_kind(node, names):
                wrong.append(f"{module_name(path)}:{node.lineno}")  # type: ignore[attr-defined]
    assert not wrong


def asks_for_a_class(node: ast.AST, pattern: str) -> bool:
    """Whether a node is `isinstance`, or a case of `match`, with a class of such a name."""
    asks = isinstance(node, ast.MatchClass)
    if isinstance(node, ast.Call):
        asks = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
    return asks and re.search(pattern, ast.dump(node)) is not None


def compares_kind(node: ast.AST, names: Collection[str]) -> bool:
    """Whether a node compares some `stage.kind`, or the kind itself, with the name of one."""
    if not isinstance(node, ast.Compare):
        return False
    constants = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
    return "stage" in ast.unparse(node.left) and "kind" in ast.unparse(node.left) and not constants.isdisjoint(names)


def test_every_kind_of_a_job_has_its_file() -> None:
    kinds = {
        kind for section in get_args(get_args(Stage)[0]) for kind in get_args(section.model_fields["kind"].annotation)
    }
    assert {kind for kind in kinds if not (PACKAGE / "pipeline" / f"{kind}.py").is_file()} == set()
