"""What holds for the package as a whole: floors, names, imports, stubs, flags."""

import ast
import dataclasses
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cmf

PACKAGE = Path(cmf.__file__).parent
ROOT = Path(__file__).parent.parent

# Examples and neighbors stand where they help; descriptions may start with a symbol.
ACCEPTED = {"EX01", "SA01", "SA04", "ES01", "GL01", "RT02", "RT03", "PR08", "PR09", "SS05", "SS06"}

# A file imports only from floors below its own.
FLOORS = [
    {"_kernels", "exceptions", "_typing", "_version"},
    {"_state", "_random", "_ids", "_parameters", "_cells", "_ranges", "_rows", "_threads"},
    {"_frames", "_movielens", "_pieces"},
    {"_checks"},
    {"config", "_counts"},
    {"objectives"},
    {
        "losses",
        "initialization",
        "fold_in",
        "recommendation",
        "metrics",
        "datasets",
        "plotting",
        "grid",
        "biases",
        "posterior",
        "scales",
        "implicit",
    },
    {"schedule", "serialization", "model_selection"},
    {"epochs"},
    {"training"},
    {"stopping"},
    {"model"},
    {"__init__"},
]
FLOOR = {module: number for number, floor in enumerate(FLOORS) for module in floor}
# A file of a package inside imports, of that package, only from those before it.
PACKAGES = {
    "model_selection": [
        "splits",
        "_jobs",
        "_folds",
        "validation",
        "_halving",
        "search",
        "__init__",
    ]
}
MODULES = sorted([*(path.stem for path in PACKAGE.glob("*.py")), *PACKAGES])


def imports_of(module):
    """Names of the modules of cmf, without its own, that a module or package imports."""
    if module not in PACKAGES:
        return imported_modules(PACKAGE / f"{module}.py")
    files = (PACKAGE / module).glob("*.py")
    return set().union(*map(imported_modules, files)) - {module}


def imported_modules(path):
    """Names of the modules of cmf that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            parts = node.module.split(".")
            if parts == ["cmf"]:
                found.update(alias.name for alias in node.names)
            elif parts[0] == "cmf":
                found.add(parts[1])
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("cmf."))
    return found


def run(code, **environment):
    """Run code in a new interpreter that sees the installed package only."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_has_a_floor():
    assert set(MODULES) | {"_kernels"} == set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_from_lower_floors_only(module):
    imported = imports_of(module)
    too_high = {name for name in imported if FLOOR[name] >= FLOOR[module]}
    assert not too_high


@pytest.mark.parametrize("package", PACKAGES)
def test_files_of_packages_import_from_files_before_them_only(package):
    folder, files = PACKAGE / package, PACKAGES[package]
    assert {path.stem for path in folder.glob("*.py")} == set(files)
    for number, name in enumerate(files):
        text = (folder / f"{name}.py").read_text("utf-8")
        imported = re.findall(rf"from cmf\.{package}\.(\w+) import", text)
        assert set(imported) <= set(files[:number]), name


@pytest.mark.parametrize("module", [name for name in MODULES if name != "_checks"])
def test_kernels_are_reached_with_checked_arrays(module):
    # Only modules above the gate, and the gate itself, may call kernels.
    if "_kernels" in imports_of(module):
        assert FLOOR[module] > FLOOR["_checks"]


def test_all_is_what_can_be_imported():
    for module in [cmf, *(importlib.import_module(f"cmf.{name}") for name in MODULES)]:
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), (module.__name__, name)


def test_import_loads_nothing_heavy():
    unwanted = "narwhals tqdm pandas polars pyarrow sklearn matplotlib joblib scipy.linalg"
    loaded = run(
        "import sys, numpy, scipy.sparse\nbefore = set(sys.modules)\nimport cmf\n"
        f"print([m for m in {unwanted.split()} if m in sys.modules and m not in before])"
    )
    assert loaded == "[]"


def test_import_and_training_write_nothing_and_leave_subnormal_numbers_alone():
    # A library linked with -ffast-math would turn 5e-324 into 0 for the whole process.
    code = (
        "import numpy as np, cmf\n"
        "cmf.MatrixFactorization(2, random_state=0).fit([[5, 1], [1, 0]])\n"
        "assert np.float64(5e-324) * 1.0 != 0"
    )
    assert run(code) == ""


def test_version_is_that_of_the_distribution():
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", cmf.__version__)
    if (ROOT / "pyproject.toml").exists():
        assert f'version = "{cmf.__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(
    "kernel", sorted(source.stem for source in (PACKAGE / "_kernels").glob("*.pyi"))
)
def test_stubs_name_the_arguments_of_the_kernels(kernel):
    module = importlib.import_module(f"cmf._kernels.{kernel}")
    stub = ast.parse((PACKAGE / "_kernels" / f"{kernel}.pyi").read_text("utf-8"))
    stubs = {
        f.name: [a.arg for a in f.args.args] for f in stub.body if isinstance(f, ast.FunctionDef)
    }
    built = {
        name: list(function.__code__.co_varnames[: function.__code__.co_argcount])
        for name, function in vars(module).items()
        if hasattr(function, "__code__") and function.__module__ == module.__name__
    }
    assert stubs == built


def test_public_docstrings_are_valid_numpydoc():
    from numpydoc.validate import validate

    complaints = []
    for name in public_names():
        for code, message in validate(name)["errors"]:
            if code not in ACCEPTED and not (code == "PR01" and is_record(name)):
                complaints.append((name, code, message))
    assert not complaints


def is_record(name):
    """Whether a name is that of a class whose fields are documented as attributes."""
    thing = vars(importlib.import_module(name.rpartition(".")[0])).get(name.rpartition(".")[2])
    return dataclasses.is_dataclass(thing) or hasattr(thing, "_fields")


def public_names():
    names = []
    for module in (cmf, cmf.datasets, cmf.metrics, cmf.model_selection, cmf.plotting):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing) or name == "__version__":
                continue
            names.append(f"{module.__name__}.{name}")
            if inspect.isclass(thing) and not issubclass(thing, Exception):
                names += [
                    f"{module.__name__}.{name}.{method}"
                    for method, value in vars(thing).items()
                    if not method.startswith("_")
                    and callable(getattr(thing, method))
                    and inspect.isroutine(inspect.unwrap(getattr(thing, method)))
                    and not isinstance(value, property)
                ]
    return names


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")
def test_no_flag_that_changes_arithmetic_for_others():
    flags = (ROOT / "setup.py").read_text("utf-8")
    assert not re.search(r"march=native|ffast-math|Ofast|nodlopen", flags)


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
def test_extensions_need_only_the_c_library():
    if os.environ.get("CMF_SANITIZE") == "1":
        pytest.skip("sanitizer builds link their runtimes")
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    for extension in (PACKAGE / "_kernels").glob("*.so"):
        listing = subprocess.run(
            [readelf, "-dW", extension], capture_output=True, text=True, check=True
        ).stdout
        needed = set(re.findall(r"NEEDED.*\[(.*)\]", listing))
        assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}, needed
        assert "BIND_NOW" in listing
        assert "RPATH" not in listing


def test_kernels_use_no_c_long():
    if not (ROOT / "cmf" / "_kernels").exists():
        pytest.skip("needs the source tree")
    for source in (ROOT / "cmf" / "_kernels").glob("*.pyx"):
        assert not re.search(r"\blong\b|np\.int_t", source.read_text("utf-8")), source


def test_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    cmf.MatrixFactorization(2).fit([[5, 1], [1, 0]])
    cmf.datasets.make_ratings(20, 20, 50)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
