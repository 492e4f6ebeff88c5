"""The tables: a run, its cases as they begin and end, and its end. Rows are only ever added.

What a row says is JSON under a hash; the columns beside it are copies to search by. Raw streams are compressed.
Changing anything here takes a migration (`migrations/versions`); a test compares the two.
"""

from sqlalchemy import ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "CaseBegin", "CaseRow", "Run", "RunEnd"]

NAME = 80


class Base(DeclarativeBase):
    """All tables."""


class Run(Base):
    """A run as it was announced: its record without cases."""

    __tablename__ = "runs"
    run_id: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    session_id: Mapped[str] = mapped_column(String(NAME), index=True)
    started_at: Mapped[str] = mapped_column(String(32), index=True)  # ISO 8601 in UTC, so that text sorts as time
    device_id: Mapped[str] = mapped_column(String(16), index=True)
    device_kind: Mapped[str] = mapped_column(String(16))
    series: Mapped[str] = mapped_column(String(16))
    artifact_sha256: Mapped[str] = mapped_column(String(64), index=True)
    model: Mapped[str] = mapped_column(String(200))
    backend: Mapped[str] = mapped_column(String(200))
    scheme: Mapped[str] = mapped_column(String(200))
    git_commit: Mapped[str | None] = mapped_column(String(40), index=True)
    body: Mapped[str] = mapped_column(Text)
    body_sha256: Mapped[str] = mapped_column(String(64))


class CaseBegin(Base):
    """A case that was begun: one without a row in `cases` was in flight when the program ended."""

    __tablename__ = "case_begins"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    case_id: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    position: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))


class CaseRow(Base):
    """A case that ended, well or badly: its record, and its stream as it came."""

    __tablename__ = "cases"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    case_id: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    position: Mapped[int]
    status: Mapped[str] = mapped_column(String(16))
    body: Mapped[str] = mapped_column(Text)
    events: Mapped[bytes] = mapped_column(LargeBinary)  # zlib
    sha256: Mapped[str] = mapped_column(String(64))  # over the body, a newline, and the events uncompressed


class RunEnd(Base):
    """A run that was finished: its record without cases, as it was in the end."""

    __tablename__ = "run_ends"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    cases: Mapped[int]
    body: Mapped[str] = mapped_column(Text)
    body_sha256: Mapped[str] = mapped_column(String(64))
