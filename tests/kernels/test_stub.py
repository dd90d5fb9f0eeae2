"""The stub of the native module names what the module has, with the same parameters."""

import ast
import inspect
import re
from pathlib import Path

from gemlora.kernels import _native, interface


def declared() -> dict[str, list[str]]:
    """Parameters of each function and method of the stub."""
    tree = ast.parse((Path(inspect.getfile(interface)).parent / "_native.pyi").read_text())
    found: dict[str, list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = [argument.arg for argument in node.args.args]
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    found[f"{node.name}.{method.name}"] = [argument.arg for argument in method.args.args]
    return found


def parameters(signature: str) -> list[str]:
    """Names in a signature as nanobind writes it: `def add(self, x: object, y: object) -> None`."""
    names = re.sub(r"\[[^]]*\]", "", signature[signature.index("(") + 1 : signature.rindex(")")])
    return [name.split(":")[0].strip() for name in names.split(",") if name.strip()]


def test_the_stub_matches_the_module() -> None:
    actual: dict[str, list[str]] = {}
    for name in (name for name in dir(_native) if not name.startswith("_")):
        item = getattr(_native, name)
        if inspect.isclass(item):
            methods = [method for method in dir(item) if not method.startswith("_")]
            if hasattr(item.__init__, "__nb_signature__"):  # else Python cannot make one
                methods.append("__init__")
            for method in methods:
                actual[f"{name}.{method}"] = parameters(getattr(item, method).__nb_signature__[0][0])
        else:
            actual[name] = parameters(item.__nb_signature__[0][0])
    assert actual == declared()
