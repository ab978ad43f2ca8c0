"""Which folder of the package may import which, and what must not import torch (docs/architecture.md); how long a
function and a module may be (CONTRIBUTING.md). No test imports another; what tests share is in tests/support."""

import ast
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "videobench"
BASE = {"errors", "files", "console", "tolerances", "commands"}
MAY_IMPORT = {
    "errors": set(),
    "tolerances": set(),
    "console": {"errors"},
    "files": {"errors"},
    "commands": {"errors", "files"},
    "cli": BASE | {"jobs"},
    "jobs": {"errors", "files"},
    "data": BASE,
    "device": BASE,
    "video": BASE | {"jobs"},
    "model": BASE | {"data", "device", "video"},
    "sampling": BASE | {"cli", "data", "device", "video"},
    "locate": BASE | {"device", "video", "model"},
    "run": BASE | {"cli", "jobs", "data", "device", "video", "model", "locate"},
    "compare": BASE | {"data"},
    "report": BASE | {"cli", "data", "video", "compare"},
}
MOST_MODULES, MOST_MODULE_LINES, MOST_FUNCTION_LINES = 70, 450, 50
# torch must come after open_device (device/devices.py): these are imported before it, or without any device.
WITHOUT_TORCH = ("videobench.model.prompts", "videobench.video.pixels", "videobench.compare.comparison")


def imports_of(path, *packages):
    """(line, imported module of the packages), those under TYPE_CHECKING and within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            modules = [node.module]
            if (ROOT / node.module.replace(".", "/")).is_dir():
                modules = [f"{node.module}.{each.name}" for each in node.names]
        else:
            continue
        yield from ((node.lineno, each) for each in modules if each.split(".")[0] in packages)


def modules(folder=PACKAGE):
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(folder.rglob("*.py"))}


def layer_of(module):
    return module.split(".")[1]


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_those_below_it(layer):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {imported}"
        for module, path in modules().items()
        if module != "videobench.__init__" and layer_of(module) == layer
        for line, imported in imports_of(path, "videobench")
        if layer_of(imported) not in MAY_IMPORT[layer] | {layer}
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_layer():
    assert {layer_of(module) for module in modules()} - {"__init__"} == set(MAY_IMPORT)


def test_no_imports_go_in_a_circle():
    left = {module: {imported for _, imported in imports_of(path, "videobench")} for module, path in modules().items()}
    while free := [module for module, imported in left.items() if not imported & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_functions_modules_and_their_number_stay_within_the_limits():
    sources = {path: path.read_text() for path in modules().values()}
    assert len([path for path in sources if path.name != "__init__.py"]) <= MOST_MODULES
    assert not [str(path) for path, source in sources.items() if source.count("\n") > MOST_MODULE_LINES]
    functions = [
        (node.end_lineno - node.lineno + 1, f"{path}:{node.lineno}")
        for path, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [place for lines, place in functions if lines > MOST_FUNCTION_LINES]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_is_imported_without_torch(module):
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print('torch' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "False\n"


# The tests of benchmarks.
MAY_IMPORT_BENCHMARKS = {
    "tests.compare.test_verdict_power",
    "tests.run.test_inference_benchmark",
}


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_tests_and_benchmarks_import_only_what_they_share(folder):
    tests = [path.stem for path in (ROOT / "tests").rglob("test_*.py")]  # pytest puts their folders on the path
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {imported}"
        for module, path in modules(ROOT / folder).items()
        for line, imported in imports_of(path, "tests", "benchmarks", *tests)
        if not imported.startswith("tests.support.")
        and not (imported.startswith("benchmarks.") and (folder == "benchmarks" or module in MAY_IMPORT_BENCHMARKS))
    ]
    assert not wrong, "\n".join(wrong)
