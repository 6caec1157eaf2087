"""Builds of cmf in folders of their own: of a commit, or of this tree with other compiler flags."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks._worker import ROOT

PARTS = ("cmf", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
KERNEL = "interleaved"
BUILT = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")


def working_tree(folder: Path) -> Path:
    """Copy what a build of the working tree needs to a new folder, built files left out."""
    folder.mkdir()
    for name in PARTS:
        part = ROOT / name
        if part.is_dir():
            shutil.copytree(part, folder / name, ignore=BUILT)
        else:
            shutil.copy2(part, folder / name)
    return folder


def commit_tree(commit: str, folder: Path) -> Path:
    """Write the files of a commit to a new folder."""
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "archive", "-o", str(archive), commit], cwd=ROOT, check=True)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder


def commit_name(commit: str) -> str:
    """Return the short name of a commit."""
    command = ["git", "rev-parse", "--short", f"{commit}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def build(tree: Path, flags: str = "") -> Path:
    """Compile the extensions of a tree in place, with flags after its own, and return it."""
    if missing := [name for name in ("Cython", "setuptools") if find_spec(name) is None]:
        raise SystemExit(f"building cmf takes {' and '.join(missing)}: pip install '.[bench]'")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = {**os.environ, "CFLAGS": flags, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree} does not build with CFLAGS={flags!r}:\n{done.stderr[-4000:]}")
    return tree


def variant(tree: Path, folder: Path, flags: str) -> Path:
    """Copy a built tree and build the extension of the training kernel anew with other flags."""
    shutil.copytree(tree, folder, ignore=shutil.ignore_patterns("temp*", "lib*", "__pycache__"))
    built = [*(folder / "cmf" / "_kernels").glob(f"{KERNEL}.*.so")]
    if not built:
        raise SystemExit(f"no extension {KERNEL} in {tree}")
    for extension in built:
        extension.unlink()
    return build(folder, flags)


def macros(tree: Path) -> set[str]:
    """Return the names that the headers of a tree define unless the compiler is told otherwise."""
    headers = (path.read_text() for path in (tree / "cmf" / "_kernels").glob("*.[ch]"))
    return {
        name
        for header in headers
        for name in re.findall(r"#ifndef (\w+)\n\s*#\s*define \1\b", header)
    }
