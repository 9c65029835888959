"""The API's hyperparameters become the Config of a method, and the numbers that a job shows."""

from __future__ import annotations

from typing import Any

import pytest

from weft.errors import SettingsError
from weft.serve.work import hyperparameters
from weft.settings import Resolved
from weft.train.dpo_config import DpoConfig
from weft.train.sft_config import SftConfig


def _asked(method: str = "supervised", extension: dict[str, Any] | None = None, **given: Any) -> Resolved[Any]:
    return hyperparameters.asked(method, given, extension or {}, seed=7)


def test_auto_leaves_wefts_own_rules_and_early_stopping() -> None:
    wanted = _asked(n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto").config
    assert isinstance(wanted, SftConfig)
    assert (wanted.epochs, wanted.learning_rate, wanted.batch_size, wanted.patience) == (
        "auto",
        "auto",
        SftConfig().batch_size,
        SftConfig().patience,
    )
    assert wanted.seed == 7 and wanted.publish == "best"


def test_a_number_of_epochs_is_trained_to_the_end_and_the_last_step_published() -> None:
    assert _asked(n_epochs=3).config.epochs == 3
    assert _asked(n_epochs=3).config.publish == "last"
    assert _asked(extension={"publish": "last"}).config.publish == "last"


@pytest.mark.parametrize("choosing", [{"patience": 2}, {"min_improvement": 0.1}, {"publish": "best"}])
def test_whoever_says_how_to_choose_gets_the_best_of_so_many_epochs(choosing: dict[str, Any]) -> None:
    config = _asked(n_epochs=3, extension=choosing).config
    assert config.publish == "best"
    assert config.patience == 2 if "patience" in choosing else config.patience > 10**6


def test_every_reply_is_learned_unless_told_otherwise() -> None:
    assert _asked().config.learn == "all"
    assert _asked(extension={"learn": "last"}).config.learn == "last"


def test_the_last_three_epochs_are_kept() -> None:
    assert _asked().config.keep_epochs == 3


def test_the_multiplier_multiplies_the_rate_that_auto_gives() -> None:
    def settle(known: Resolved[Any]) -> Resolved[Any]:
        return known.replace("auto: a rule", learning_rate=0.004, epochs=5)

    asked: dict[str, Any] = {"learning_rate_multiplier": 0.5}
    ready = hyperparameters.settled(_asked(**asked), settle, asked)
    assert ready.config.learning_rate == pytest.approx(0.002)
    assert ready.origins["learning_rate"] == "auto: a rule; times 0.5 as asked"
    assert hyperparameters.shown(ready.config, asked) == {
        "n_epochs": 5,
        "batch_size": 16,
        "learning_rate_multiplier": 0.5,
    }


def test_beta_belongs_to_dpo() -> None:
    wanted = _asked("dpo", beta=0.3, n_epochs=2)
    assert isinstance(wanted.config, DpoConfig)
    assert wanted.config.beta == 0.3
    assert hyperparameters.shown(wanted.config, {})["beta"] == 0.3
    with pytest.raises(SettingsError, match=r"cannot be used: .*beta"):
        _asked("supervised", beta=0.3)


@pytest.mark.parametrize(
    ("method", "extension", "given", "said"),
    [
        ("reinforcement", {}, {}, "method 'reinforcement' cannot be trained here"),
        ("supervised", {"full": True}, {}, "x_weft.full: a server swaps adapters"),
        ("supervised", {"keep_epochs": 9}, {}, "x_weft.keep_epochs: a job keeps"),
        ("supervised", {"epochs": 2}, {"n_epochs": 3}, "x_weft.epochs and n_epochs say the same thing"),
        ("dpo", {"publish": "last", "stop_on": "reward_accuracy"}, {}, "nothing is chosen by a score; leave one out"),
        ("supervised", {"learning_rate": 1e-3}, {"learning_rate_multiplier": 2}, "is the rate itself"),
        ("supervised", {"seed": 2}, {}, "x_weft.seed: write `seed` beside `model`"),
        ("supervised", {"warmup": 2}, {}, "warmup: Input should be less than 1"),
        ("supervised", {"rank": 2}, {}, "rank: Extra inputs are not permitted"),
        ("supervised", {}, {"compute_multiplier": 2}, "hyperparameter 'compute_multiplier' is unknown"),
    ],
)
def test_what_cannot_be_is_refused_by_name(method: str, extension: Any, given: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        _asked(method, extension, **given)
