"""The packages of tests/node, and the newest Node among them, which the newest clients need."""

from tests.e2e.documents import REPOSITORY

NODE_FOLDER = REPOSITORY / "tests/node"
NODE_MODULES = NODE_FOLDER / "node_modules"
NODE = NODE_MODULES / "node/bin/node"
"""Node 22; `node` on the path may be older."""
