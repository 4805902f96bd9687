"""Generates ftd/v1 from proto/ftd/v1 whenever the package is built or installed in place."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


class ProtoHook(BuildHookInterface[Any]):
    """Runs protoc; the output is git-ignored and shipped in the wheel as an artefact."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version, build_data
        if self.target_name == "sdist":
            return
        from grpc_tools import protoc  # only the build environment has it

        package = ROOT / "ftd" / "v1"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text('"""Generated from proto/ftd/v1."""\n')
        sources = sorted((ROOT / "proto" / "ftd" / "v1").glob("*.proto"))
        out = str(ROOT)
        code = protoc.main(
            [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"-I{Path(protoc.__file__).parent / '_proto'}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                f"--grpc_python_out={out}",
                *(str(source) for source in sources),
            ]
        )
        if code != 0:
            raise RuntimeError(f"protoc ended with {code}; see its message above")
