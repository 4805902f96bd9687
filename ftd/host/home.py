"""Where everything lies below the home."""

from dataclasses import dataclass
from pathlib import Path

from ftd.core.models import adapter_id


@dataclass(frozen=True, slots=True)
class Home:
    """Rows keep paths relative to `root`, so that a home can be moved or restored elsewhere."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "ftd.db"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def incoming(self) -> Path:
        """Uploads on their way; on the disk of `files`, so that a rename completes them."""
        return self.root / "files" / "incoming"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def adapters(self) -> Path:
        return self.root / "adapters"

    @property
    def tokens(self) -> Path:
        return self.root / "cache" / "tokens"

    @property
    def unknown(self) -> Path:
        """Bytes that no row names, set aside; on the disk of all others, so that a rename does."""
        return self.root / "unknown"

    def leftover(self) -> Path | None:
        """A file, a model or a run that lies here, which only a database can explain; None in a
        new home."""
        for directory in (self.files, self.models, self.adapters, self.runs):
            for path in directory.iterdir() if directory.is_dir() else ():
                if path != self.incoming:
                    return path
        return None

    def file(self, file_id: str) -> Path:
        return self.files / file_id

    def adapter(self, tuned: str) -> Path:
        return self.adapters / adapter_id(tuned)

    def make(self) -> None:
        """Create what is missing, for our eyes only."""
        for directory in (
            self.root,
            self.files,
            self.incoming,
            self.runs,
            self.models,
            self.adapters,
            self.tokens,
            self.unknown,
            self.root / "locks",
        ):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
