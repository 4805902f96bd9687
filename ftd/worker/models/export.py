"""Makes of a model what others load: `python -m ftd.worker.models.export FORMAT MODEL INTO`.

FORMAT is merged (a directory for transformers) or gguf (one file for llama.cpp); INTO is a new
directory. With --adapter the model is the base and the adapter is folded into it. Prints one line
of JSON: {"files": N, "bytes": N}, or {"error": {"message", "code"}} with exit status 1. INTO is
complete only if there was no error.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

from ftd.worker.models.answer import answer, stay_quiet

MERGED, GGUF = "merged", "gguf"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
MAX_NAME = 100  # characters of a file's


def export(
    format_: str, model: Path, into: Path, *, adapter: Path | None, name: str, license_: str | None
) -> None:
    """Write `into`. Raises FtdError, or OSError where the disk is at fault."""
    if format_ == MERGED:
        if adapter is None:
            raise ValueError("a model that is whole needs no merging")
        _merge(model, adapter, into, name, license_)
        return
    from ftd.worker.models.to_gguf import write_gguf

    into.mkdir()
    target = into / f"{_UNSAFE.sub('-', name)[:MAX_NAME]}.gguf"
    if adapter is None:
        write_gguf(model, target, name=name, license_=license_)
        return
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".merging-") as place:
        merged = Path(place, "model")
        _merge(model, adapter, merged, name, license_)
        write_gguf(merged, target, name=name, license_=license_)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ftd.worker.models.export", description=__doc__)
    parser.add_argument("format", choices=[MERGED, GGUF])
    parser.add_argument("model", type=Path)
    parser.add_argument("into", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--license")
    asked = parser.parse_args(arguments)
    stay_quiet(online=False)

    def work() -> str:
        into: Path = asked.into.absolute()
        export(
            asked.format,
            asked.model,
            into,
            adapter=asked.adapter,
            name=asked.name,
            license_=asked.license,
        )
        sizes = [file.stat().st_size for file in into.iterdir()]
        return json.dumps({"files": len(sizes), "bytes": sum(sizes)})

    return answer(work)


def _merge(model: Path, adapter: Path, into: Path, name: str, license_: str | None) -> None:
    from ftd.worker.models.merge import CARD, merge

    merge(model, adapter, into)
    front = f"---\nlicense: {license_}\n---\n" if license_ else ""
    (into / CARD).write_text(f"{front}{name}: an adapter merged into its base model by ftd.\n")


if __name__ == "__main__":
    sys.exit(main())
