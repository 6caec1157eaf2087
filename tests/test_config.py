"""What this build runs with, and how a lower level is chosen."""

from __future__ import annotations

import platform
import sys

import numpy as np
import pytest
import scipy

import cmf
from cmf import config
from cmf._kernels.interleaved import highest_level

LEVELS = ["baseline", "avx2", "avx512"]
FACTS = ["cmf", "python", "numpy", "scipy", "machine", "simd", "simd_available"]


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch):
    monkeypatch.delenv("CMF_SIMD", raising=False)


def test_facts_are_returned_as_a_dict(capsys):
    facts = cmf.show_config(mode="dicts")
    assert list(facts) == FACTS
    assert facts["cmf"] == cmf.__version__
    assert facts["python"] == platform.python_version()
    assert facts["numpy"] == np.__version__
    assert facts["scipy"] == scipy.__version__
    assert facts["machine"] == f"{sys.platform} {platform.machine()}"
    assert facts["simd"] == LEVELS[highest_level()]
    assert facts["simd_available"] == LEVELS[: highest_level() + 1]
    assert capsys.readouterr() == ("", "")


def test_facts_are_printed_a_line_each(capsys):
    assert cmf.show_config() is None
    out, err = capsys.readouterr()
    assert err == ""
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    facts = cmf.show_config(mode="dicts")
    assert [name for name, _ in lines] == FACTS
    for name, shown in lines:
        fact = facts[name]
        assert shown == (" ".join(fact) if isinstance(fact, list) else fact)
    assert cmf.show_config("stdout") is None
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("mode", ["dict", "", None, 1])
def test_other_modes_are_refused(mode):
    with pytest.raises(ValueError, match=f"mode must be 'stdout' or 'dicts', got {mode!r}"):
        cmf.show_config(mode)


def test_best_level_is_the_default(monkeypatch):
    assert config.simd_level() == highest_level()
    monkeypatch.setenv("CMF_SIMD", "")
    assert config.simd_level() == highest_level()


@pytest.mark.parametrize("level", range(highest_level() + 1))
def test_variable_forces_each_level_and_is_read_at_every_call(level, monkeypatch):
    monkeypatch.setenv("CMF_SIMD", LEVELS[level])
    assert config.simd_level() == level
    facts = cmf.show_config(mode="dicts")
    assert facts["simd"] == LEVELS[level]
    assert facts["simd_available"] == LEVELS[: highest_level() + 1]
    monkeypatch.delenv("CMF_SIMD")
    assert config.simd_level() == highest_level()


@pytest.mark.parametrize("highest", [0, 1, 2])
@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_level_above_the_processors_falls_to_the_best_there_is(wanted, highest, monkeypatch):
    monkeypatch.setattr(config, "highest_level", lambda: highest)
    monkeypatch.setenv("CMF_SIMD", LEVELS[wanted])
    assert config.simd_level() == min(wanted, highest)
    facts = cmf.show_config(mode="dicts")
    assert facts["simd"] == LEVELS[min(wanted, highest)]
    assert facts["simd_available"] == LEVELS[: highest + 1]


@pytest.mark.parametrize("name", ["sse2", "AVX2", " avx2", "avx512f", "2", "none"])
def test_unknown_levels_are_refused(name, monkeypatch):
    monkeypatch.setenv("CMF_SIMD", name)
    message = (
        f"the environment variable CMF_SIMD must be one of baseline, avx2, avx512, got {name!r}"
    )
    model = cmf.MatrixFactorization(2)
    for call in (config.simd_level, cmf.show_config, lambda: model.fit([[5, 1]])):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(cmf.NotFittedError):
        model.recommend()
