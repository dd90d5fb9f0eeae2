"""Cloudflare's command line tool as a process, pointed at one of our servers."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.node import NODE, NODE_MODULES
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, RunningServer

RELEASES = {"wrangler3": "node", "wrangler4": "node", "wrangler": NODE}
"""With what each runs: the newest of 3.x, the newest of 4.x that runs on Node 20, and the newest of all."""


@dataclass(frozen=True)
class Wrangler:
    """One release of wrangler, without a login, a project or telemetry."""

    release: str
    server: RunningServer
    home: Path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it as a script would; stdout and stderr come back together, because wrangler mixes them."""
        return subprocess.run(
            [RELEASES[self.release], NODE_MODULES / self.release / "bin/wrangler.js", *arguments],
            cwd=self.home,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "CLOUDFLARE_API_BASE_URL": f"{self.server.url}/client/v4",
                "CLOUDFLARE_ACCOUNT_ID": ACCOUNT_ID,
                "CLOUDFLARE_API_TOKEN": API_TOKEN,
                "WRANGLER_SEND_METRICS": "false",
                "WRANGLER_HIDE_BANNER": "true",
                "CI": "true",
                "NO_COLOR": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
