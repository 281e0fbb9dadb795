"""What to try next: one Optuna sampler per method, with a sequence that neither timing nor a restart changes.

Concurrent trials end in any order. Candidate number n depends only on the study's seed and on the results of trials 0
to n - lag, passed to the sampler in the order of their numbers.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from tune.search.space import Candidate, Space

STARTUP_TRIALS = 2  # results of a method, fixed points included, before a model proposes
FINAL = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL}


def optuna_result(status: str, value: float | None) -> tuple[TrialState, float | None]:
    """A record's status and value as Optuna takes them: a complete trial without a finite value failed."""
    state = FINAL.get(status, TrialState.FAIL)
    if state == TrialState.COMPLETE and (value is None or not math.isfinite(value)):
        state = TrialState.FAIL
    return state, value if state == TrialState.COMPLETE else None


class Proposals:
    """Candidates to try, in the order of their numbers; ``known`` ones are fixed in advance, such as default ratios.

    ``recorded`` candidates, of trials before a restart, are drawn again, since the sampler learns from unrounded draws;
    if a draw differs, the record is used.
    """

    def __init__(
        self,
        space: Space,
        known: Mapping[int, Candidate],
        search: str,
        seed: int,
        lag: int,
        recorded: Mapping[int, Candidate] = MappingProxyType({}),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.known, self.search, self.seed, self.lag = space, known, search, seed, lag
        self.recorded = recorded
        self._studies = {m: optuna.create_study(direction="maximize") for m in space.methods}
        self._asked: dict[int, Trial | None] = {}
        self._results: dict[int, tuple[TrialState, float | None]] = {}
        self._told = 0

    def next(self) -> Candidate | None:
        """The candidate of the next number, or None while results that it depends on are missing."""
        number = len(self._asked)
        candidate, recorded = self.known.get(number), self.recorded.get(number)
        if candidate is None:
            if any(i not in self._results for i in range(number - self.lag + 1)):
                return None
            method = self.space.methods[number % len(self.space.methods)]
            while self._told <= number - self.lag:
                asked, (state, value) = self._asked[self._told], self._results[self._told]
                if asked is not None:
                    asked.study.tell(asked, value, state=state)
                self._told += 1
            self._studies[method].sampler = self._sampler(method, number)
            trial, proposed = self._ask(method)
            if recorded is None or recorded == proposed:
                self._asked[number] = trial
                return proposed
            self._studies[method].tell(trial, state=TrialState.FAIL)
            candidate = recorded
        self._asked[number] = None  # outside the search range: not reported to the sampler
        if self.space.contains(candidate):
            self._studies[candidate.method].enqueue_trial(self.space.parameters(candidate))
            self._asked[number], candidate = self._ask(candidate.method)
        return candidate

    def _ask(self, method: str) -> tuple[Trial, Candidate]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental samplers warn at every call
            trial = self._studies[method].ask()
            return trial, self.space.suggest(trial, method)

    def tell(self, number: int, status: str, value: float | None) -> None:
        """Report how a trial ended; a value that is not finite counts as a failure."""
        self._results[number] = optuna_result(status, value)

    def _sampler(self, method: str, number: int) -> BaseSampler:
        seed = _seed(self.seed, method, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.search == "qmc":  # one scrambled sequence; Optuna keeps the position in the study
                return optuna.samplers.QMCSampler(
                    seed=_seed(self.seed, method), scramble=True, warn_independent_sampling=False
                )
            if self.search == "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
            if self.search == "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
                )
        return optuna.samplers.RandomSampler(seed=seed)


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
