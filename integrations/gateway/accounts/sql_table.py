"""A table of the gateway's own beside the ledger's, in its SQLite file or its PostgreSQL database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from elastic_agent.credentials import make_private
from elastic_agent.errors import StoreUnavailableError

Run = Callable[[str, dict[str, Any]], Any]
"""Runs one statement with its values."""


class SqlTable(ABC):
    """A table that is made when it is first used.

    Args:
        url: as SQLAlchemy writes it; for a file "sqlite".
        file: the SQLite file. Nobody but its owner may read it.
    """

    what: ClassVar[str]
    """What the table holds, for the message when it can't be reached."""

    def __init__(self, url: str, file: Path | None = None) -> None:
        from sqlalchemy import create_engine
        from sqlalchemy.engine import URL
        from sqlalchemy.pool import NullPool

        place = url if file is None else URL.create(url, database=str(file.absolute()))
        self._engine = create_engine(place, poolclass=NullPool)  # asked now and then, from any thread
        self._file, self._made = file, False

    @abstractmethod
    def _definition(self, dialect: str) -> Sequence[str]:
        """The statements that make the table, which do nothing where it exists."""

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    @contextmanager
    def _step(self) -> Iterator[Run]:
        """Statements in one transaction.

        Raises:
            StoreUnavailableError: the database can't be reached.
        """
        from sqlalchemy import exc, text

        try:
            if self._file is not None and not self._made:
                with suppress(OSError):  # SQLite says what is wrong with it
                    make_private(self._file)
            with self._engine.begin() as connection:
                if not self._made:
                    for statement in self._definition(connection.dialect.name):
                        connection.execute(text(statement))
                    self._made = True
                yield lambda sql, values: connection.execute(text(sql), values)
        except exc.SQLAlchemyError as error:
            self._made = False
            raise StoreUnavailableError(
                f"the {self.what} can't be reached ({type(error).__name__}): is the ledger's database there?"
            ) from error
