"""Writes last words: over the first connection that answers, else into the spool, and from there when one does.

Nothing escapes: whatever the databases or the spool do, each word ends in one `Finalized`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from statelatch.errors import ConfigurationError, RowNotFoundError
from statelatch.runs.answers import Answer, Interruption, finalized, left_in_spool
from statelatch.runs.records import Outcome
from statelatch.runs.spool import Spool, SpoolError

if TYPE_CHECKING:
    import os
    from uuid import UUID

    from statelatch.records import Transitioned
    from statelatch.runs.connections import Connections
    from statelatch.runs.last_word import LastWord
    from statelatch.runs.records import Finalized

__all__ = ["Finalizer"]

logger = logging.getLogger("statelatch.runs")


class Finalizer:
    """The last words of one manager. Threads share it.

    Args:
        connections: who is asked to take them.
        spool: the file for what they do not take; None if there is none.

    Raises:
        ConfigurationError: the file cannot be made or written, or is a database of the runs: it would be set aside.
    """

    def __init__(self, connections: Connections, spool: str | os.PathLike[str] | None) -> None:
        self._connections = connections
        self._spool = None if spool is None else _apart(spool, connections)
        self._pending: dict[UUID, LastWord] = {}

    def write(self, word: LastWord) -> tuple[Finalized, Answer[Transitioned]]:
        """Write a word, or keep it. An interrupt does not keep it from its end: the answer tells of it.

        Returns:
            What became of it, and what the connections said.
        """
        self._pending[word.token] = word
        answer = _taken(self._connections.say(word, insists=True))
        kept = answer.via is None and self._keep(word)
        del self._pending[word.token]
        said = finalized(word.run_id, word.target, answer, word.error, kept=kept)
        _log(said, answer)
        return said, answer

    def keep_pending(self) -> list[UUID]:
        """Keep what is not settled yet, in case that nobody can wait for it; the ids of its runs."""
        return [word.run_id for word in list(self._pending.values()) if self._keep(word)]

    def recover(self) -> list[Finalized]:
        """Write what the spool holds, oldest first, until no connection answers.

        Returns:
            What became of each word, in order; without those that another process has settled meanwhile.

        Raises:
            SpoolError: the spool cannot be read; nothing was written.
        """
        if self._spool is None:
            return []
        told: list[Finalized] = []
        words = self._spool.entries()
        for number, word in enumerate(words):
            answer = self._connections.say(word, insists=False)  # whoever interrupts it finds the word in the spool
            if answer.is_outage:  # for the others as well
                told += [said for each in words[number:] if (said := left_in_spool(each, answer))]
                logger.warning("no connection answered: %s last words stay in the spool", len(words) - number)
                break
            said = self._settled(self._spool, word, answer)
            told += [said] if said else []
        return told

    def _keep(self, word: LastWord) -> bool:
        """Whether the spool has taken it; after an interrupt that is tried once more."""
        if self._spool is None:
            return False
        for _ in range(2):
            try:
                self._spool.append(word)
            except BaseException as error:  # it is reported as unsaved, whatever the reason
                logger.exception("run %s: its last word could not be kept", word.run_id)
                if isinstance(error, Exception):
                    break
            else:
                return True
        return False

    def _settled(self, spool: Spool, word: LastWord, answer: Answer[Transitioned]) -> Finalized | None:
        """What became of a word that was replayed; None if another process tells it."""
        if said := left_in_spool(word, answer):
            logger.warning("run %s: %s stays in the spool: %s", word.run_id, word.target, said.error)
            return said
        try:
            if not spool.remove(word):
                return None
        except SpoolError as error:  # it will be recognised by its token
            logger.warning("run %s: written, but it stays in the spool: %s", word.run_id, error)
        said = finalized(word.run_id, word.target, answer, word.error)
        _log(said, answer)
        return said


def _apart(path: str | os.PathLike[str], connections: Connections) -> Spool:
    if Path(path).resolve() in connections.files:
        raise ConfigurationError(f"spool {path}: expected a file of its own, found the database of the runs")
    return Spool(path)


def _taken(answer: Answer[Transitioned]) -> Answer[Transitioned]:
    """The answer, unless it is a row that is missing where we were not sent: that row is the primary's.

    A fallback may lag behind, or be another database: what it lacks the run has not lost.
    """
    if answer.failures and isinstance(answer.refusal, RowNotFoundError):
        return Answer(None, failures=(*answer.failures, answer.refusal))
    return answer


def _log(said: Finalized, answer: Answer[Transitioned]) -> None:
    for failure in answer.failures:
        if isinstance(failure, Interruption):
            logger.warning("run %s: its last word was %s, and goes on", said.run_id, failure)
    match said.outcome:
        case Outcome.NO_OP:
            logger.info("run %s: %s not written: %s", said.run_id, said.target, answer.refusal)
        case Outcome.SPOOLED:
            logger.warning("run %s: %s is kept in the spool, %s", said.run_id, said.target, _why(answer))
        case Outcome.UNSAVED:
            logger.warning("run %s: %s could not be saved, %s", said.run_id, said.target, _why(answer))
        case Outcome.APPLIED:
            logger.debug("run %s: %s at version %s via %s", said.run_id, said.state, said.version, said.via)


def _why(answer: Answer[Transitioned]) -> str:
    """Why no connection took a word."""
    is_missing = isinstance(answer.failures[-1], RowNotFoundError)
    return "the primary did not answer, a fallback has no such run" if is_missing else "no connection answered"
