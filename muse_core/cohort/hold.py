"""A run's right to write into an output folder: alone, or shared with others that do other slides of it."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from muse_core.cohort.heartbeat import Heartbeat, RunFacts, own_facts
from muse_core.cohort.home import Home
from muse_core.cohort.paths import claim
from muse_core.cohort.sharing import Sharing, clear_dead
from muse_core.errors import OutputError
from muse_core.machine.files import sweep_temporaries
from muse_core.machine.lock import locked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hold:
    """What a run has of its folder.

    Attributes:
        heartbeat: its signs of life.
        sharing: its part in sharing the folder; None for a run that has it alone.
        suspects: safe names of slides that were in work when runs that shared the folder died.
    """

    heartbeat: Heartbeat
    sharing: Sharing | None
    suspects: frozenset[str]


@contextmanager
def hold(home: Home, command: str, *, share: bool) -> Iterator[Hold]:
    """Hold a folder for a block, with all that earlier runs left of use on this machine.

    Args:
        home: of the folder.
        command: of `muse`; a folder is one command's.
        share: let others that share it too do other slides.

    Raises:
        OutputError: the folder is another run's or command's, or cannot be written.
    """
    facts = replace(own_facts(command, "workers that start"), shares=share)
    with ExitStack() as stack:
        if share:
            yield _shared(stack, home, facts)
        else:
            yield _alone(stack, home, facts)


def _alone(stack: ExitStack, home: Home, facts: RunFacts) -> Hold:
    stack.enter_context(locked(home.paths.out))
    stack.enter_context(home.held(facts))
    suspects = frozenset(clear_dead(home.shelf()))
    heartbeat = stack.enter_context(Heartbeat(home.paths.run, facts, home.beat))
    _prepare(home, facts.command)
    return Hold(heartbeat, None, suspects)


def _shared(stack: ExitStack, home: Home, facts: RunFacts) -> Hold:
    sharing = Sharing(home.shelf(), home.paths.place)
    with home.alone(facts):
        sharing.join(facts)
        _prepare(home, facts.command, sweep=sharing.is_first)
    stack.callback(_leave, home, facts, sharing)
    also = None if home.paths.url is None else sharing.beat  # on a disk both are one file
    heartbeat = stack.enter_context(Heartbeat(home.paths.out / sharing.member_file, facts, also))
    return Hold(heartbeat, sharing, frozenset(sharing.suspects))


def _prepare(home: Home, command: str, *, sweep: bool = True) -> None:
    home.pull()
    claim(home.paths, command)
    home.keep_tables()
    if sweep:
        _sweep(home)


def _sweep(home: Home) -> None:
    """Of a folder in which nobody else writes now."""
    for folder in home.paths.own_folders:
        sweep_temporaries(folder)


def _leave(home: Home, facts: RunFacts, sharing: Sharing) -> None:
    try:
        with home.alone(facts):
            if sharing.leave():
                _sweep(home)
    except OutputError as error:
        logger.warning("this run could not say that it has left; others find out in a minute: %s", error)
