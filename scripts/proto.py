"""Generates the Python code of proto/ into millstream_services.contracts.gen, or checks that it is up to date.

    python scripts/proto.py            generate
    python scripts/proto.py --check    change nothing; exit 1 when the code is not what proto/ says

protoc writes imports from the root of the proto files (`from millstream.orders.v1 import orders_pb2`), where Python
would look for them inside the framework. They are moved, with the files, under the package the code lives in.
proto/README.md has the why.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

__all__ = ["generate", "main"]

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "proto"
PREFIX = "millstream"
"""The first part of every proto package; left out of the Python path."""
TARGET = ROOT / "services" / "src" / "millstream_services" / "contracts" / "gen"
TARGET_PACKAGE = "millstream_services.contracts.gen"

_IMPORT = re.compile(rf"^((?:from|import) ){PREFIX}\.", re.MULTILINE)
_MARK = '"""Generated from proto/ by `make proto`: do not edit."""\n'


def generate(proto: Path, prefix: str = PREFIX, package: str = TARGET_PACKAGE) -> dict[str, str]:
    """The generated files by their path below the target folder.

    Raises:
        SystemExit: protoc refused a file; its own message is on stderr.
    """
    sources = sorted(path.relative_to(proto).as_posix() for path in proto.rglob("*.proto"))
    strays = [source for source in sources if not source.startswith(f"{prefix}/")]
    if strays:
        raise SystemExit(f"proto files live under proto/{prefix}/, these do not: {', '.join(strays)}")
    if not sources:
        return {}
    well_known = str(resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            f"--proto_path={proto}",
            f"--proto_path={well_known}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
        ]
        if protoc.main(["protoc", *arguments, *sources]) != 0:
            raise SystemExit("protoc refused the files above")
        files: dict[str, str] = {}
        for path in Path(folder, prefix).rglob("*_pb2.py*"):
            name = path.relative_to(Path(folder, prefix)).as_posix()
            files[name] = _IMPORT.sub(rf"\1{package}.", path.read_text(encoding="utf-8"))
    for name in list(files):
        for parent in Path(name).parents:
            files[(parent / "__init__.py").as_posix()] = _MARK
    return files


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; the exit code."""
    wanted = generate(PROTO)
    present = {
        path.relative_to(TARGET).as_posix(): path.read_text(encoding="utf-8")
        for path in TARGET.rglob("*.py*")
        if "__pycache__" not in path.parts
    }
    stale = sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
    if "--check" in arguments:
        for name in stale:
            print(f"{(TARGET / name).relative_to(ROOT)} is not what proto/ says: run `make proto`")
        return 1 if stale else 0
    for name in stale:
        if name in wanted:
            (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
            (TARGET / name).write_text(wanted[name], encoding="utf-8")
        else:
            (TARGET / name).unlink()
        print((TARGET / name).relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
