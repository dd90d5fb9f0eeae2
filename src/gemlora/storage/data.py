"""The data folder: where its database, blobs, first token and running servers are found."""

import stat
from dataclasses import dataclass
from pathlib import Path

from gemlora.storage.files import OWNER_ONLY_FILE, OWNER_ONLY_FOLDER, create_folder, storage_errors, sync_folder


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Paths inside one data folder."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "DataFolder":
        """Create the folder for the owner alone when it is missing. Raises `StorageFailed`.

        An empty folder that is there already is closed to others too; a folder with content keeps its mode.
        """
        folder = cls(path.absolute())
        with storage_errors(f"open the data directory {path}"):
            create_folder(folder.path)
            if stat.S_IMODE(folder.path.stat().st_mode) != OWNER_ONLY_FOLDER and not any(folder.path.iterdir()):
                folder.path.chmod(OWNER_ONLY_FOLDER)
            folder.database.touch(mode=OWNER_ONLY_FILE)
            create_folder(folder.objects)
            # What is there already may come from a process that was killed before it made the entries durable.
            sync_folder(folder.path)
        return folder

    @property
    def database(self) -> Path:
        """The SQLite database; its write-ahead log lies beside it."""
        return self.path / "gemlora.sqlite"

    @property
    def objects(self) -> Path:
        """Content-addressed blobs."""
        return self.path / "objects"

    @property
    def first_token(self) -> Path:
        """The first account's token in plain text, from which `serve` prints it."""
        return self.path / "first-token"

    @property
    def servers(self) -> Path:
        """A file of every server that runs on this folder."""
        return self.path / "servers"
