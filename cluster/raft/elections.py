"""Who leads a group: terms, votes, roles, and when to ask for an election.

Elections have a question before them (§9.6 of Ongaro's dissertation), so that a node that was cut off raises
no terms; a leader that is heard is protected from them (§4.2.3); a leader that hands over lifts that
protection (§3.10). How logs are replicated is in `cluster.raft.core`, which completes this class.
"""

from collections.abc import Callable
from typing import ClassVar, Final

from cluster.raft.effects import RaftSettings, Start
from cluster.raft.group import Group
from cluster.raft.leader import Leadership
from cluster.raft.messages import (
    Append,
    Commit,
    Heartbeat,
    Install,
    Message,
    PreVote,
    PreVoteAnswer,
    Stale,
    TimeoutNow,
    Vote,
    VoteAnswer,
)
from cluster.raft.roles import NEXT, Event, Role

FROM_LEADER: Final = (Append, Heartbeat, Install, Commit)


class Elections:
    """The part of a replica that decides whom it follows. See `cluster.raft.core.Raft`."""

    leadership_type: ClassVar[type[Leadership]] = Leadership

    def __init__(
        self, group: int, me: bytes, start: Start, random: Callable[[int], int], settings: RaftSettings
    ) -> None:
        self.group = Group(group, me, start, settings)
        self.role = Role.FOLLOWER
        self.quiet = False
        self.leadership: Leadership | None = None
        self._random = random
        self._settings = settings
        self._votes: dict[bytes, bool] = {}
        self._elapsed = 0  # ticks since the leader was heard, a vote given, or an election begun
        self._timeout = 0
        self._installing = False  # a snapshot is on its way to the disk
        self._draw_timeout()

    # --- quiet groups ---------------------------------------------------------------------------------
    def node_heartbeat(self, sender: bytes, term: int) -> None:
        """`sender`'s node lives, and leads this group in `term` (0: it does not lead it). Only a quiet group
        has a use for it: it wakes if that contradicts what it knew, or if its leader fell quiet without
        `sender`, which lacked entries and was not heard then."""
        if not self.quiet:
            return
        if self.leadership is not None:
            if sender in self.leadership.left_behind():
                self.wake()
        elif term != self.group.term:
            self.node_silent(sender)

    def node_silent(self, sender: bytes) -> None:
        """`sender`'s node was not heard for an election timeout, was started anew, or its link broke: what it
        led is free."""
        if sender == self.group.leader and self.role is Role.FOLLOWER:
            self.wake()
            self.group.leader = None
            self._elapsed = max(self._elapsed, self._settings.election_ticks)  # the rest is drawn

    def wake(self) -> None:
        if self.quiet:
            self.quiet = False
            self._elapsed = 0
            if self.leadership is not None:
                self.leadership.wakes()

    # --- timeouts and elections -----------------------------------------------------------------------
    def _draw_timeout(self) -> None:
        self._elapsed = 0
        self._timeout = self._settings.election_ticks + self._random(self._settings.election_ticks)

    def _may_campaign(self) -> bool:
        """A voter that was removed may still be needed until that is committed (§4.2.2): its log may be the
        best. It does not count itself then."""
        return self.group.may_be_voter and not self._installing

    def _campaign(self) -> None:
        """Ask first whether an election could be won, so that who was cut off disturbs nobody (§9.6).
        A learner asks too, though nobody counts on it: the question wakes a leader that is quiet."""
        self._draw_timeout()
        self.quiet = False
        group = self.group
        group.leader = None
        if self._may_campaign():
            self._turn(Event.TIMEOUT)
            self._votes = {group.me: True}
            if self._decide():
                return
        question = PreVote(group.number, group.term + 1, group.log.last, group.log.last_term)
        for node in group.configuration.voters:
            if node != group.me:
                group.send(node, question)

    def _elect(self, event: Event) -> None:
        self._turn(event)
        self._draw_timeout()
        group = self.group
        group.leader = None
        group.enter(group.term + 1, group.me)
        self._votes = {group.me: True}
        if self._decide():
            return
        transfer = event is Event.TOLD
        question = Vote(group.number, group.term, group.log.last, group.log.last_term, transfer)
        for node in group.configuration.voters:
            if node != group.me:
                group.promise(node, question)  # its own vote must be safe before anybody adds to it

    def _decide(self) -> bool:
        """Go on where the votes suffice, one way or the other."""
        configuration = self.group.configuration
        answers = [self._votes[node] for node in configuration.voters if node in self._votes]
        if sum(answers) >= configuration.quorum:
            if self.role is Role.PRE_CANDIDATE:
                self._elect(Event.WON)
            else:
                self._begin_to_lead()
            return True
        if len(answers) - sum(answers) >= configuration.quorum:
            self._turn(Event.LOST)
            return True
        return False

    def _begin_to_lead(self) -> None:
        self._turn(Event.WON)
        self.group.leader = self.group.me
        self.leadership = self.leadership_type(self.group)

    def _follow(self, event: Event, term: int, leader: bytes | None) -> None:
        if self.leadership is not None:
            self.leadership.lose_reads()
            self.leadership = None
            self._draw_timeout()
        self._turn(event)
        self.quiet = False
        if term > self.group.term:
            self.group.enter(term, b"")
        self.group.leader = leader

    def _turn(self, event: Event) -> None:
        role = NEXT.get((self.role, event))
        if role is None:
            raise AssertionError(
                f"group {self.group.number}, term {self.group.term}: {self.role.value} meets {event.value}"
            )
        self.role = role

    def _protected(self, candidate: bytes) -> bool:
        """A leader was heard within the shortest election timeout: nobody else is to be elected (§4.2.3).
        A leader that asks for votes itself has given up."""
        leader = self.group.leader
        if leader is None or leader == candidate:
            return False
        return self.role is Role.LEADER or self.quiet or self._elapsed < self._settings.election_ticks

    # --- messages -------------------------------------------------------------------------------------
    def _meet_leader(self, sender: bytes) -> None:
        group = self.group
        if group.leader is not None and group.leader != sender:
            raise AssertionError(f"group {group.number}: two lead in term {group.term}")
        self._follow(Event.LEADER_SEEN, group.term, sender)

    def _settle_term(self, sender: bytes, message: Message) -> bool:
        """Bring the terms together; returns whether the message is still to be read."""
        group = self.group
        if message.term > group.term:
            if self._from_outside(sender, message):
                return False
            if isinstance(message, PreVote) or (isinstance(message, PreVoteAnswer) and message.granted):
                return True
            if isinstance(message, Vote) and not message.transfer and self._protected(sender):
                return False
            leads = isinstance(message, FROM_LEADER)
            self._follow(Event.HIGHER_TERM, message.term, sender if leads else None)
            return True
        match message:
            case Append() | Heartbeat() | Install():
                group.send(sender, Stale(group.number, group.term))
            case PreVote():
                group.send(sender, PreVoteAnswer(group.number, group.term, False))
            case Vote():
                group.send(sender, VoteAnswer(group.number, group.term, False))
        return False

    def _from_outside(self, sender: bytes, message: Message) -> bool:
        """Whoever is not, or no longer, a member cannot depose a leader by an answer. But a candidate, or the
        next leader, may be a member by entries that this node lacks."""
        if self.leadership is None or sender in self.leadership.progress:
            return False
        return not isinstance(message, (*FROM_LEADER, Vote, PreVote, TimeoutNow))

    def _on_pre_vote(self, sender: bytes, message: PreVote) -> None:
        group = self.group
        granted = (
            message.term > group.term
            and not self._protected(sender)
            and group.log.up_to_date(message.last, message.last_term)
        )
        term = message.term if granted else group.term
        group.send(sender, PreVoteAnswer(group.number, term, granted))

    def _on_pre_vote_answer(self, sender: bytes, message: PreVoteAnswer) -> None:
        asked = self.group.term + 1 if message.granted else self.group.term
        if self.role is Role.PRE_CANDIDATE and message.term == asked:
            self._votes[sender] = message.granted
            self._decide()

    def _on_vote(self, sender: bytes, message: Vote) -> None:
        group = self.group
        granted = self._may_vote(sender) and group.log.up_to_date(message.last, message.last_term)
        if granted:
            if not group.vote:
                group.enter(group.term, sender)
            self._elapsed = 0
        group.promise(sender, VoteAnswer(group.number, group.term, granted))

    def _may_vote(self, candidate: bytes) -> bool:
        """One vote a term, and none where a leader is known already."""
        return self.group.vote == candidate or (not self.group.vote and self.group.leader is None)

    def _on_vote_answer(self, sender: bytes, message: VoteAnswer) -> None:
        if self.role is Role.CANDIDATE:
            self._votes[sender] = message.granted
            self._decide()

    def _on_timeout_now(self, sender: bytes, message: TimeoutNow) -> None:
        if self.role is not Role.LEADER and self._may_campaign():
            self._elect(Event.TOLD)
