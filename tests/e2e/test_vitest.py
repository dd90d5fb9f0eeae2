"""Vitest inside the Workers runtime, set up as the kit's README says."""

import os
import subprocess
from pathlib import Path

from tests.e2e.documents import LOCAL, code_blocks
from tests.e2e.node import NODE, NODE_MODULES
from tests.e2e.running_server import API_TOKEN, GEMLORA, RunningServer


def test_the_readme_s_tests_pass_in_the_runtime(tiny_server: RunningServer, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    subprocess.run([GEMLORA, "worker", "init", folder], check=True, timeout=60)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (binding,) = code_blocks(folder / "README.md", "toml")
    config, tests, _ = code_blocks(folder / "README.md", "js")
    (folder / "wrangler.dev.toml").write_text(binding)
    (folder / "vitest.config.mjs").write_text(config.replace(LOCAL, tiny_server.url))
    (folder / "src/index.test.js").write_text(tests)

    finished = subprocess.run(
        [NODE, NODE_MODULES / "vitest/vitest.mjs", "run"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "GEMLORA_API_TOKEN": API_TOKEN, "NO_COLOR": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Tests  2 passed" in finished.stdout
