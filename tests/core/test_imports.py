"""Imports run one way: cli, server -> jobs -> core -> util -> errors, and runtimes -> the contract.

The sources are parsed, not imported, so that an import within a function counts too.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lcmcore
import runtimes

ROOTS = [Path(package.__file__).parent for package in (lcmcore, runtimes)]

# What the modules of a room may import, of lcmcore and runtimes; a room stands for all within it.
ROOMS = {
    "lcmcore.errors": set(),
    "lcmcore.util": {"lcmcore.errors", "lcmcore.util"},
    "core": {"lcmcore.errors", "lcmcore.util", "core"},
    "lcmcore.jobs": {"lcmcore.errors", "lcmcore.util", "core", "lcmcore.jobs"},
    "lcmcore.server": {"lcmcore.errors", "lcmcore.util", "core", "lcmcore.jobs", "lcmcore.server"},
    "lcmcore.cli": {
        *("lcmcore.errors", "lcmcore.util", "core"),
        *("lcmcore.jobs", "lcmcore.server", "lcmcore.cli"),
    },
    "runtimes": {"lcmcore.errors", "lcmcore.util", "lcmcore.runtime", "runtimes"},
}

# What builds models is a part of `lcm build`; whoever reads a model directory needs its layout; and
# the package's version is a part of the graph cache's key.
EXCEPTIONS = {
    "runtimes.onnx.graph_cache": {"lcmcore"},
    "runtimes.onnx.build": {"lcmcore.bundle", "lcmcore.cli.progress"},
    "runtimes.onnx.checkpoint.configs": {"lcmcore.tokenizer.clip_vocabulary"},
    "runtimes.onnx.checkpoint.source": {"lcmcore.tokenizer.clip_vocabulary"},
    "runtimes.rknn.build": {"lcmcore.bundle", "lcmcore.cli.progress"},
    "runtimes.rknn.calibration": {
        *("lcmcore.bundle", "lcmcore.guidance", "lcmcore.image", "lcmcore.image_files.opening"),
        *("lcmcore.noise", "lcmcore.scheduler"),
    },
    "runtimes.rknn.diagnosis": {"lcmcore.bundle"},
    "runtimes.rknn.shapes": {"lcmcore.bundle"},
}


def modules_of(roots):
    """Each module's name, and its source parsed."""
    modules = {}
    for root in roots:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = ast.parse(path.read_text())
    return modules


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree, within_functions):
    """All but what stands below `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        yield node
        if within_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(node, within_functions)


def imported(tree, modules, within_functions):
    """The modules of ours that a module imports; `from a import b` is a.b where that is one."""
    for node in statements(tree, within_functions):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not read here"
            joined = {f"{node.module}.{alias.name}" for alias in node.names}
            # Of a package's own names (`from lcmcore import load`) the package remains.
            names = [*(joined & set(modules)), *([node.module] if joined - set(modules) else [])]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in ("lcmcore", "runtimes"))


def room_of(module):
    """The most special room that a module is in."""
    parts = module.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in names if name in ROOMS), "core")


def is_allowed(module, target):
    allowed = ROOMS[room_of(module)] | EXCEPTIONS.get(module, set())
    return target in allowed or room_of(target) in allowed


def breaches(modules):
    """Each import against the rule."""
    return [
        f"{module} imports {target}"
        for module, tree in modules.items()
        for target in imported(tree, modules, within_functions=True)
        if not is_allowed(module, target)
    ]


def circle(modules):
    """Modules that import each other while they are loaded, or None."""
    arrows = {
        module: {*imported(tree, modules, within_functions=False)} - {module}
        for module, tree in modules.items()
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_imports_run_one_way():
    assert not breaches(modules_of(ROOTS))


def test_no_imports_in_circles():
    assert circle(modules_of(ROOTS)) is None


def test_every_exception_is_needed():
    modules = modules_of(ROOTS)
    needed = {
        module: {*imported(modules[module], modules, within_functions=True)} & targets
        for module, targets in EXCEPTIONS.items()
    }
    assert needed == EXCEPTIONS


@pytest.mark.parametrize(
    ("module", "line", "breach"),
    [
        ("networks", "import runtimes.onnx", "lcmcore.networks imports runtimes.onnx"),
        ("networks", "from lcmcore.jobs.pool import Pool", "imports lcmcore.jobs.pool"),
        ("networks", "from lcmcore.cli import main", "imports lcmcore.cli.main"),
        ("networks", "def f():\n    import lcmcore.cli.main", "imports lcmcore.cli.main"),
        ("util/files", "from lcmcore.bundle import demo_dir", "files imports lcmcore.bundle"),
        ("util/files", "from lcmcore import bundle", "lcmcore.util.files imports lcmcore.bundle"),
        ("jobs/pool", "import lcmcore.cli.main", "lcmcore.jobs.pool imports lcmcore.cli.main"),
        ("jobs/pool", "def f():\n    import runtimes.onnx", "imports runtimes.onnx"),
        ("errors", "from lcmcore.util import files", "lcmcore.errors imports lcmcore.util.files"),
    ],
)
def test_a_breach_is_found(module, line, breach, house):
    (house / f"{module}.py").write_text(line)
    (found,) = breaches(modules_of([house]))
    assert breach in found


def test_a_runtime_that_reaches_into_the_core_is_found(house):
    other = house.with_name("runtimes")
    other.mkdir()
    (other / "mine.py").write_text("import lcmcore.runtime\nfrom lcmcore.pipeline import load")
    assert breaches(modules_of([house, other])) == ["runtimes.mine imports lcmcore.pipeline"]


def test_a_circle_is_found(house):
    (house / "bundle.py").write_text("from lcmcore.networks import Networks")
    (house / "networks.py").write_text("import lcmcore.bundle")
    assert {*circle(modules_of([house]))} == {"lcmcore.bundle", "lcmcore.networks"}


@pytest.mark.parametrize(
    "header", ["def later():", "if TYPE_CHECKING:", "if typing.TYPE_CHECKING:"]
)
def test_what_is_imported_later_makes_no_circle(header, house):
    (house / "bundle.py").write_text(f"{header}\n    from lcmcore.networks import Networks")
    (house / "networks.py").write_text("import lcmcore.bundle")
    assert circle(modules_of([house])) is None


@pytest.fixture
def house(tmp_path):
    """A package of the name lcmcore, with empty modules."""
    root = tmp_path / "lcmcore"
    for name in ("__init__", "errors", "bundle", "networks", "util/files", "jobs/pool", "cli/main"):
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return root
