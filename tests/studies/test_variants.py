"""Variants: what is changed, what may not be, and what is confounded."""

from __future__ import annotations

import pytest

from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError
from scanwise.studies.variants import Variant, differing, read_variants

BASE = make_config({"data": "demo:cells", "model": "mlp:16"})


def test_variants_carry_their_changes_and_names() -> None:
    found = read_variants(BASE, ["lr=1e-4", "optimizer=sgd  momentum=0.5", "batch-size=8"])
    assert [variant.name for variant in found] == [
        "base",
        "lr=1e-4",
        "optimizer=sgd momentum=0.5",
        "batch_size=8",
    ]
    assert found[2].changes == {"optimizer": "sgd", "momentum": "0.5"}
    assert found[2].slug == "optimizer-sgd_momentum-0.5"


def test_values_with_commas_and_switches() -> None:
    found = read_variants(BASE, ["model=mlp:1024,512", "flip=false"])
    assert found[1].changes == {"model": "mlp:1024,512"}
    assert found[2].changes == {"flip": False}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optimiser=sgd"], "unknown setting 'optimiser'; did you mean 'optimizer'"),
        (["optimizer=sgdd"], "Did you mean 'sgd'"),
        (["lr"], "must be SETTING=VALUE"),
        (["lr="], "must be SETTING=VALUE"),
        ([""], "is empty"),
        (["lr=0.1 lr=0.2"], "changes lr twice"),
        (["lr=0.1", "lr=0.1"], "is given twice"),
        (["seed=1"], "use --seeds N"),
        (["splits=a.csv"], "scored on the same images"),
        (["data=demo:blobs"], "name several data sets"),
        (["monitor=test_accuracy"], "would choose by the test split"),
        (["lr='0.1"], "can't be read"),
    ],
)
def test_bad_variants_are_named_with_the_way_out(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_variants(BASE, texts)


def test_a_change_of_one_setting_is_clean_and_of_two_is_confounded() -> None:
    plan = BASE.model_copy(update={"lr": 0.1, "optimizer": "adam", "preset": "default"})
    same = plan.model_copy(update={"output": "x", "threads": 2, "preset": "auto"})
    one = plan.model_copy(update={"lr": 0.2})
    two = one.model_copy(update={"optimizer": "sgd"})
    plans = [differing(plan.model_dump(), other.model_dump()) for other in (same, one, two)]
    assert plans == [(), ("lr",), ("lr", "optimizer")] or plans[2] == ("optimizer", "lr")
    assert Variant("x", {}, plans[0]).label() == "equals the base"
    assert Variant("x", {}, plans[1]).label() == ""
    assert Variant("x", {}, plans[2]).label().startswith("confounded: differs in ")
    assert Variant("base", {}).label() == ""
