"""Which rows of a table start a transition."""

import numpy as np
from jaxtyping import Bool

from xql.data.check import Finding, Severity
from xql.data.roles import Roles
from xql.data.rows import Rows, in_order
from xql.data.sentinels import suspicious_numbers, suspicious_texts
from xql.data.wording import few, natural, percent
from xql.errors import InputError

_NEXT = "if a row has the reward of the action before it, choose `reward_at=next`"
_LONG = 1.5  # times the usual time step


class Steps:
    """The rows in order, and which of them start a transition.

    Attributes:
        rows: sorted by episode and time.
        labels: of the episodes, in order.
        episode: each row's, as its place in `labels`.
        findings: what a user should know.
        starts: the rows that start a transition.
        after: the row with the observation after it; the same row where there is none.
        terminates: the rows whose action ended the process.
        truncated: the rows at which an episode was cut.
        rewards: of each row's own action, NaN where there is none.
        lengths: of the episodes, in rows.
        usual_step: of time, in words.
        missing: per column, the share of the cells that were missing.
    """

    def __init__(self, rows: Rows, roles: Roles, missing: str) -> None:
        self.roles = roles
        self.missing = {name: float(rows.missing(name).mean()) for name in rows.values}
        self.rows, self.labels, self.episode, self.findings = in_order(rows, roles)
        self._say_sentinels()
        terminated, self.truncated = map(self._flag, (roles.terminated, roles.truncated))
        # Within an episode of the table: a flag ends it too.
        same = self.episode[1:] == self.episode[:-1]
        over = terminated | self.truncated
        follows = np.append(same & ~over[:-1], False)
        begins = np.append(True, ~follows[:-1])
        self.lengths = np.diff(np.append(np.flatnonzero(begins), len(begins)))
        if roles.episode is not None and (beyond := int((same & over[:-1]).sum())):
            what = f"episodes go on after their end in {beyond} rows"
            hint = "each end begins another episode; is the column 1 at the last row only?"
            flag = roles.terminated or roles.truncated
            self.say("warning" if beyond > len(self.labels) else "note", what, str(flag), hint)
        self.terminates, self.rewards = terminated, self.rows.values[roles.reward]
        if roles.reward_at == "next":
            self.terminates = follows & np.append(terminated[1:], False)
            self.rewards = np.where(follows, np.append(self.rewards[1:], np.nan), np.nan)
        needed = self.terminates | follows
        complete, steps = self._fill(missing, begins, needed)
        known = follows & np.append(complete[1:], False)
        starts = complete & steps & (self.terminates | known)
        self.starts = np.flatnonzero(starts)
        self.after = np.where(known[self.starts], self.starts + 1, self.starts)
        self._say_what_is_left_out(begins, starts)
        self._say_times()

    def say(self, severity: Severity, what: str, where: str, hint: str) -> None:
        """Add to the findings."""
        self.findings.append(Finding(severity, what, where, hint))

    def _say_sentinels(self) -> None:
        roles = self.roles
        for name in (*roles.observation, *roles.action, roles.reward):
            values = self.rows.values[name]
            if name in roles.categorical:
                texts = suspicious_texts(natural(values))
                many = [(one, int((values == one).sum())) for one in texts]
            elif name == roles.time:
                continue
            else:
                many = [
                    (f"{number:.10g}", count)
                    for number, count in suspicious_numbers(
                        values.astype(np.float64), codes_only=name == roles.reward
                    )
                ]
            for text, count in many:
                what = f"{name} is {text} in {count:,} rows"
                hint = (
                    "if it means that nothing was measured, convert the table again with "
                    f"`missing_values={name}={text}`"
                )
                severity: Severity = "note" if name in roles.categorical else "warning"
                self.say(severity, what, name, hint)

    def _flag(self, name: str | None) -> Bool[np.ndarray, " rows"]:
        if name is None:
            return np.zeros(len(self.episode), bool)
        values = self.rows.values[name]
        wrong = ~np.isin(values, (0.0, 1.0))
        if wrong.any():
            index = int(np.argmax(wrong))
            shown = "empty" if np.isnan(values[index]) else f"{values[index]:g}"
            raise self.rows.refusal(index, f"{name} is {shown}", "write 0 or 1 in each row")
        return np.asarray(values == 1.0)

    def _fill(
        self, missing: str, begins: np.ndarray, needed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which rows have their whole observation, and which a whole action and a reward."""
        roles, rows = self.roles, self.rows
        index = np.arange(len(begins))
        first = np.maximum.accumulate(np.where(begins, index, 0))
        lacking, shares = {}, list[str]()
        for name in (*roles.observation, *roles.action):
            lacks = rows.missing(name)
            used = needed if name in roles.action else np.ones(len(begins), bool)
            if (lacks & used).any():
                shares.append(f"{name} {percent(float((lacks & used).mean()))}")
            if missing == "ffill" and lacks.any():
                last = np.maximum.accumulate(np.where(lacks, -1, index))
                filled = lacks & (last >= first)
                rows.values[name][filled] = rows.values[name][last[filled]]
                lacks &= ~filled
            lacking[name] = lacks
        lacking[roles.reward] = np.isnan(self.rewards)
        # What a termination leads to need not have been observed.
        ended = np.append(False, self.terminates[:-1]) & ~begins
        observed = {name: lacking[name] & ~ended for name in roles.observation}
        if missing == "error":
            done = {name: lacking[name] & needed for name in (*roles.action, roles.reward)}
            self._require_all(observed | done, begins)
        complete, steps = (np.ones(len(begins), bool) for _ in range(2))
        for name in roles.observation:
            complete &= ~lacking[name]
        for name in (*roles.action, roles.reward):
            steps &= ~lacking[name]
        self._say_missing(missing, shares, complete | ended, steps, needed)
        return complete, steps

    def _require_all(self, lacking: dict[str, np.ndarray], begins: np.ndarray) -> None:
        roles = self.roles
        bad = {name: lacks for name, lacks in lacking.items() if lacks.any()}
        if not bad:
            return
        name = next(iter(bad))
        cells = int(sum(lacks.sum() for lacks in bad.values()))
        more = f" and {cells - 1:,} more cells" if cells > 1 else ""
        if len(bad) > 1:
            more += f" of {len(bad)} columns"
        hint = "fill them, or choose `missing=ffill` or `missing=drop`"
        if name == roles.reward:
            hint = "a reward is never filled: write 0 where that is meant, or choose `missing=drop`"
        if roles.reward_at == "same" and name not in roles.observation:
            # A last row that shows what came of the action before it has none of its own.
            last = not (bad[name] & ~self.terminates).any()
            if last or (name == roles.reward and bad[name][begins].all()):
                hint = _NEXT
        if self.missing[name] == 1.0:
            hint = "no row has it: leave the column out, or look for the right one"
        places = np.flatnonzero(bad[name])
        if name == roles.reward and roles.reward_at == "next":
            places = places + 1
        index = places[np.lexsort((self.rows.row[places], self.rows.table[places]))[0]]
        where = self.rows.tables[self.rows.table[index]]
        what = f"{name} is empty in row {self.rows.row[index]}{more}"
        raise InputError(what, where=where, hint=hint)

    def _say_missing(
        self,
        missing: str,
        shares: list[str],
        complete: np.ndarray,
        steps: np.ndarray,
        needed: np.ndarray,
    ) -> None:
        if missing == "ffill" and shares:
            what = "missing values were filled from the row before in the same episode"
            self.say("note", what, few(shares), "the policy needs them filled likewise")
        if (lost := int((~complete).sum())) > 0:
            why = "lack a part of the observation"
            why += ", and there is nothing before to fill it from" * (missing == "ffill")
            hint = "no transition goes over them" if missing == "drop" else "they are left out"
            where = few(shares)
            self.say("note", f"{lost:,} of {len(complete):,} rows {why}", where, hint)
        if (lost := int((complete & ~steps & needed).sum())) > 0:
            what = f"{lost:,} of {len(complete):,} rows have no reward or no action"
            severity: Severity = "warning" if lost > 0.1 * needed.sum() else "note"
            hint = "they start no transition; write 0 where that is meant"
            self.say(severity, what, self.roles.reward, hint)

    def _say_what_is_left_out(self, begins: np.ndarray, starts: np.ndarray) -> None:
        if not starts.any():
            hint = "each episode needs two rows, or one that terminates; check the `episode` column"
            what = "no row has an observation after it"
            lacking = [f"{name} {percent(share)}" for name, share in self.missing.items() if share]
            if lacking:
                what = f"no transition is left without the missing values of {few(lacking)}"
                hint = "leave out columns that are seldom there; write 0 where no reward means 0"
            raise InputError(what, where=self.rows.tables[0], hint=hint)
        without = np.ones(len(self.labels), bool)
        without[self.episode[self.starts]] = False
        if without.any():
            listing = few([self.labels[index] for index in np.flatnonzero(without)])
            what = f"{int(without.sum()):,} of {len(without):,} episodes have no transition"
            self.say("note", what, listing, "of a single row, nothing can be learned")
        piece = np.cumsum(begins)[self.starts]
        cut = (piece[1:] == piece[:-1]) & (self.starts[1:] != self.after[:-1])
        if cut.any():
            affected = len(np.unique(piece[1:][cut]))
            what = (
                f"{affected:,} episodes are cut where rows were left out, {int(cut.sum()):,} times"
            )
            hint = "each part counts as an episode, none of which terminates there"
            self.say("note", what, "missing values", hint)
        self._say_lost_rewards(begins, starts)

    def _say_lost_rewards(self, begins: np.ndarray, starts: np.ndarray) -> None:
        roles = self.roles
        rewards = np.abs(np.nan_to_num(self.rows.values[roles.reward]))
        which, unused = "last", np.append(begins[1:], True) & ~self.terminates
        hint = (
            "a last row starts no transition unless it terminates: mark it in a column, and name "
            f"that as `terminated`; {_NEXT}"
        )
        if roles.reward_at == "next":
            which, unused = "first", begins
            hint = "nothing was done before a first row; `reward_at=same` takes its own action"
        lost, kept = rewards[unused].sum(), np.abs(self.rewards[starts]).sum()
        if lost > kept:
            share = percent(lost / (lost + kept))
            what = f"{share} of all reward is in the {which} rows of episodes"
            self.say("warning", what, roles.reward, hint)

    def _say_times(self) -> None:
        """How regular the time steps are that the transitions take."""
        self.usual_step, time = "", self.roles.time
        if time is None:
            return
        moments = self.rows.values[time]
        one = self.after > self.starts
        taken = moments[self.after[one]] - moments[self.starts[one]]
        unit = ""
        if taken.dtype.kind == "m":
            taken, unit = taken / np.timedelta64(1, "s"), " s"
        if len(taken) == 0:
            return
        usual = float(np.median(taken))
        self.usual_step = f"every {usual:g}{unit}"
        odd = np.abs(taken - usual) > 0.01 * usual
        if not odd.any():
            return
        least, most = float(taken.min()), float(taken.max())
        self.usual_step += f" ({percent(float((~odd).mean()))} of the steps; {least:g} to {most:g})"
        long = int((taken > _LONG * usual).sum())
        what = f"the time steps differ: usually {usual:g}{unit}, from {least:g} to {most:g}{unit}"
        if long:
            what += f"; {long:,} of {len(taken):,} are longer than {_LONG:g} times the usual"
        hint = "the discount counts steps, not time: resample, or give pieces their own episode"
        severity: Severity = "warning" if long > 0.01 * len(taken) else "note"
        self.say(severity, what, time, hint)
