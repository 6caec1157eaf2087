"""The extensions and their three switches; everything else is in pyproject.toml."""

import os
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("CMF_DEBUG") == "1"  # bounds checks on, optimization off
# The sanitizers for addresses and undefined behavior, or the one for threads.
SANITIZE = {"1": "address,undefined", "thread": "thread"}.get(os.environ.get("CMF_SANITIZE", ""))
# One cp311-abi3 wheel for every CPython from 3.11; free-threaded interpreters have no limited API.
LIMITED_API = os.environ.get("CMF_LIMITED_API") == "1" and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)

KERNELS = Path("cmf/_kernels")
LEVELS = KERNELS / "simd.c"
EXACT = [KERNELS / "exact.c", *sorted(KERNELS.glob("exact_*.c"))]
C_SOURCES = {
    "interleaved": [LEVELS, *sorted(KERNELS.glob("interleaved_*.c"))],
    "implicit": [LEVELS, *sorted(KERNELS.glob("implicit_*.c"))],
    "general": [LEVELS, *sorted(KERNELS.glob("general_*.c"))],
    "gibbs": [LEVELS, *sorted(KERNELS.glob("gibbs_*.c"))],
    "loss": EXACT,
    "predict": EXACT,
}
# The same bits at every instruction-set level: a product and a sum of doubles are never fused.
NO_FUSING = ["-ffp-contract=off"] if os.name == "posix" else []

compile_args: list[str] = []
link_args: list[str] = []
if os.name == "posix":
    compile_args = ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
    # No kernel looks at errno, which square roots would otherwise set.
    compile_args += ["-fvisibility=hidden", "-fstack-protector-strong", "-fno-math-errno"]
    if SANITIZE:
        compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
        link_args += [f"-fsanitize={SANITIZE}"]
    elif sysconfig.get_platform().startswith("linux"):
        link_args += ["-Wl,-z,relro,-z,now,-z,noexecstack"]

macros: list[tuple[str, str | None]] = [("CMF_SANITIZED", None)] if SANITIZE else []
if LIMITED_API:
    macros.append(("Py_LIMITED_API", "0x030B0000"))

extensions = [
    Extension(
        f"cmf._kernels.{source.stem}",
        [source.as_posix(), *(path.as_posix() for path in C_SOURCES.get(source.stem, []))],
        include_dirs=[KERNELS.as_posix()],
        depends=[path.as_posix() for path in [*KERNELS.glob("*.h"), *KERNELS.glob("*.pxd")]],
        extra_compile_args=compile_args + (NO_FUSING if source.stem in ("loss", "predict") else []),
        extra_link_args=link_args,
        libraries=["m"] if os.name == "posix" else [],
        define_macros=macros,
        py_limited_api=LIMITED_API,
    )
    for source in sorted(KERNELS.glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
