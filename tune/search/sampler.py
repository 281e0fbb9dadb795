"""What to try next: one Optuna sampler per method, made so that a killed study goes on as if nothing had happened.

Trials run at the same time and end in any order, which would make the sequence of settings a matter of luck. Here
setting number n follows from the study's seed and from the results of trials 0 to n - lag alone, told in that order;
so it is the same however fast each trial was, and after any restart. Ray and storage are the business of
``tune.search.searcher``.
"""

from __future__ import annotations

import hashlib
import math
import warnings

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from tune.search.space import Setting, Space

STARTUP_TRIALS = 2  # results of a method, those of the fixed points included, before a model of them proposes


class Proposals:
    """Settings to try, in the order of their numbers.

    Args:
        space: What may be tried.
        known: Settings that are given for certain numbers: fixed points, and those that ran before a restart.
        search: ``tpe``, ``gp``, ``qmc`` or ``random``.
        seed: The study's seed.
        lag: Number n waits for the results up to n - lag; at least the number of concurrent trials.
    """

    def __init__(self, space: Space, known: dict[int, Setting], search: str, seed: int, lag: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.known, self.search, self.seed, self.lag = space, known, search, seed, lag
        self._studies = {m: self._new_study() for m in space.methods}
        self._asked: dict[int, Trial | None] = {}
        self._results: dict[int, tuple[TrialState, float | None]] = {}
        self._told = 0

    def next(self) -> Setting | None:
        """The setting of the next number, or None while results that it depends on are missing."""
        number = len(self._asked)
        setting = self.known.get(number)
        if setting is None and any(i not in self._results for i in range(number - self.lag + 1)):
            return None
        method = setting.method if setting else self.space.methods[number % len(self.space.methods)]
        study = self._studies[method]
        if setting is None:
            self._tell_until(number - self.lag)
            study.sampler = self._sampler(method, number)
        elif self.space.contains(setting):
            study.enqueue_trial(self.space.parameters(setting))
        else:
            self._asked[number] = None  # a default outside the ratios asked for teaches the sampler nothing it may use
            return setting
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental samplers say so at every call
            trial = study.ask()
            setting = self.space.suggest(trial, method)
        self._asked[number] = trial
        return setting

    def tell(self, number: int, state: TrialState, value: float | None) -> None:
        """How a trial ended; a value that is no finite number counts as a failure."""
        if state == TrialState.COMPLETE and (value is None or not math.isfinite(value)):
            state = TrialState.FAIL
        self._results[number] = (state, value if state == TrialState.COMPLETE else None)

    def _tell_until(self, last: int) -> None:
        while self._told <= last:
            trial, (state, value) = self._asked[self._told], self._results[self._told]
            if trial is not None:
                method = next(m for m in self.space.methods if self._studies[m] is trial.study)
                self._studies[method].tell(trial, value, state=state)
            self._told += 1

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(direction="maximize")

    def _sampler(self, method: str, number: int) -> BaseSampler:
        seed = _seed(self.seed, method, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.search == "qmc":  # one scrambled sequence, whose place Optuna keeps in the study
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
