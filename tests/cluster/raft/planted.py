"""Bugs planted into the core, one class each: what the simulation must find, or it proves nothing."""

from cluster.raft.core import Raft
from cluster.raft.leader import Leadership
from cluster.raft.log import Log
from cluster.raft.messages import Append, Heartbeat, Install, VoteAnswer
from cluster.raft.roles import Role

PLANTED = {}


def planted(cls):
    PLANTED[cls.__name__] = cls
    return cls


def with_leadership(cls):
    """A bug in what a leader does."""
    PLANTED[cls.__name__] = type(cls.__name__, (Raft,), {"leadership_type": cls})
    return cls


def with_log(cls):
    """A bug in the log."""

    def begin(self, *arguments, **named):
        Raft.__init__(self, *arguments, **named)
        self.group.log.__class__ = cls

    PLANTED[cls.__name__] = type(cls.__name__, (Raft,), {"__init__": begin})
    return cls


@with_leadership
class CountsLearners(Leadership):
    def counted(self):
        configuration = self._group.configuration
        own = self.own_match()
        matches = [
            self.progress[node].match if node in self.progress else own for node in configuration.members
        ]
        return sorted(matches, reverse=True)[configuration.quorum - 1]


@with_leadership
class CommitsOlderTermsByCounting(Leadership):
    def may_commit(self, index):
        return True


@with_leadership
class CountsWhatItHasNotSynced(Leadership):
    def own_match(self):
        return self._group.log.last

    def propose(self, entries):
        first = super().propose(entries)
        self.advance()
        return first


@with_leadership
class ReadsWithoutQuorum(Leadership):
    def confirmed_round(self):
        return self._round


@with_leadership
class ReadsBeforeItsTermCommitted(Leadership):
    @property
    def committed_in_term(self):
        return True


@with_leadership
class ReadsByOldAnswers(Leadership):
    """Any answer to a heartbeat confirms all rounds."""

    def heard(self, sender, message):
        progress = self.progress.get(sender)
        if progress is not None:
            progress.round = self._round + 1
        super().heard(sender, message)


@with_leadership
class ChangesBeforeTheLastChangeCommitted(Leadership):
    def change(self, change):
        group, index = self._group, self._group.configuration_index
        held, group._configurations = group._configurations, [(min(index, group.commit), group.configuration)]
        before = len(group._configurations)
        try:
            return super().change(change)
        finally:
            group._configurations = held + group._configurations[before:]


@with_leadership
class TellsFollowersMoreThanTheyHave(Leadership):
    def _heartbeat(self, progress, *, quiet):
        group = self._group
        group.send(progress.node, Heartbeat(group.number, group.term, group.commit, self._round, quiet))


@planted
class SkipsTheTermCheck(Raft):
    def _settle_term(self, sender, message):
        settled = super()._settle_term(sender, message)
        return settled or isinstance(message, Append | Heartbeat | Install)

    def _meet_leader(self, sender):
        self.group.leader = sender
        if self.leadership is None:
            self.role = Role.FOLLOWER


@planted
class AnswersOfOldTermsCount(Raft):
    def _settle_term(self, sender, message):
        old = message.term < self.group.term
        return super()._settle_term(sender, message) or (old and type(message) is VoteAnswer)


@planted
class VotesTwice(Raft):
    def _may_vote(self, candidate):
        return True


@planted
class VotesBeforeItIsSynced(Raft):
    def _on_vote(self, sender, message):
        super()._on_vote(sender, message)
        self.group.messages.append(self.group.after_sync.pop())


@with_log
class VotesForAnyLog(Log):
    __slots__ = ()

    def up_to_date(self, last, last_term):
        return True


@planted
class ForgetsItsVote(Raft):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.group.vote = b""


@planted
class AcknowledgesBeforeItIsSynced(Raft):
    def _acknowledge(self, leader, message):
        self.group.messages.append((leader, message))


@planted
class AppendsWithoutMatching(Raft):
    def _matches(self, index, term):
        return index <= self.group.log.last


@planted
class KeepsConflictingEntries(Raft):
    def _merge(self, message):
        known = self.group.log.last - message.previous
        if len(message.entries) > known:
            term = max(message.entries_term, self.group.log.last_term)
            self.group.append(term, message.entries[known:])


@planted
class CommitsBeyondWhatWasMatched(Raft):
    def _on_append(self, sender, message):
        super()._on_append(sender, message)
        self.group.commit_to(min(message.commit, self.group.log.last))


@planted
class InstallsOldSnapshots(Raft):
    def _on_install(self, sender, message):
        if not self._installing and message.last < self.group.commit:
            self.group.commit = message.last - 1
            self.group.log.truncate(max(self.group.log.handed + 1, message.last))
        super()._on_install(sender, message)


@planted
class KeepsMembersThatWereTruncated(Raft):
    def _merge(self, message):
        group = self.group
        before, known = group.configuration, list(group._configurations)
        super()._merge(message)
        if len(group._configurations) < len(known):
            group._configurations = known
            group.configuration = before


@with_log
class AppliesBeforeItIsSynced(Log):
    __slots__ = ()

    def hand(self, commit):
        held, self.synced = self.synced, self.last
        try:
            return super().hand(commit)
        finally:
            self.synced = held


@with_log
class CountsSyncsOfReplacedEntries(Log):
    __slots__ = ()

    def truncate(self, index):
        held, synced = self._outstanding.copy(), self.synced
        super().truncate(index)
        self._outstanding, self.synced = held, synced

    def hand(self, commit):
        return super().hand(min(commit, self.last))
