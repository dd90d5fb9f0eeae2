"""Changes of the schema, oldest first, run by Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from gemlora.errors import StorageFailed


def upgrade(connection: Connection) -> None:
    """Bring the schema up to date inside the connection's transaction. Raises `StorageFailed` for a newer schema."""
    try:
        command.upgrade(alembic_config(connection), "head")
    except CommandError as error:
        raise StorageFailed(
            "The database was written by a newer version of gemlora; update gemlora to use it"
        ) from error


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for one connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
