"""The README's programs run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.skipif(not README.exists(), reason="needs the source tree")
def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert (tmp_path / "model.cmf").exists()
    assert next(iter(names["pieces"])) == "Back in Black"
    assert list(names["table"].index) == ["Darth Vader", "Hermione", "Ripley", "Spock"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert printed[1] == "['x']"


@pytest.mark.skipif(not README.exists(), reason="needs the source tree")
def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8")):
        assert target.startswith("http") or (README.parent / target).exists(), target
