"""One target under atheris in this process: `python -m tests.fuzz.fuzz TARGET FOLDER [options of libFuzzer]`."""

import inspect
import random
import sys
from pathlib import Path

import atheris
from tests.fuzz.inputs import MAX_BYTES, changed
from tests.fuzz.targets import ALL

from gemlora.registry import (
    patterns,
    peft_config,
    safetensors_header,
    strict_json,
    tensor_names,
    tensor_values,
    unsupported,
    validation,
)

MODULES = (
    patterns, peft_config, safetensors_header, strict_json, tensor_names, tensor_values, unsupported, validation,
)  # fmt: skip


def main() -> None:
    target, folder = sys.argv[1], Path(sys.argv[2])
    check = ALL[target]

    def run_one(content: bytes) -> None:
        check(content, folder)

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        limit = min(max_size, MAX_BYTES)
        return changed(target, content, lambda part: atheris.Mutate(part, limit), random.Random(seed))[:limit]

    # By function, because atheris does not reach the modules of an editable installation as they are imported.
    for module in MODULES:
        for owner in (module, *(kind for _, kind in inspect.getmembers(module, inspect.isclass))):
            for _, function in inspect.getmembers(owner, inspect.isfunction):
                if function.__module__ == module.__name__:
                    atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *sys.argv[3:]], run_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
