"""Variant against base: the same rows, the right test, and one story told by all its numbers."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from tests.conftest import load_script

from scanwise.core.errors import DataError
from scanwise.metrics.compare import REACH, Comparison, compare, correct_family
from scanwise.metrics.delong import delong_test
from scanwise.metrics.differences import Evidence, percentile_test, seeds_test
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.intervals import never_seen, wilson_interval
from scanwise.metrics.mcnemar import mcnemar_exact
from scanwise.metrics.predictions import Predictions, make_predictions

TASKS = ("multiclass", "ordinal", "multilabel")


@pytest.fixture
def rng() -> np.random.Generator:
    """Its own for each test, so that none depends on which others ran."""
    return np.random.default_rng(7)


def _truth(n: int, k: int, task: str, rng: np.random.Generator) -> np.ndarray:
    if task == "multilabel":
        return rng.integers(0, 2, (n, k))
    return rng.integers(0, k, n)


def _model(targets, k, skill, rng, *, task="multiclass", groups=None, names=None) -> Predictions:
    """Answers that are right the more often the higher the skill."""
    n = len(targets)
    truth = targets if task == "multilabel" else targets[:, None] == np.arange(k)
    logits = rng.normal(size=(n, k)) + skill * truth
    if task == "multilabel":
        probabilities = 1 / (1 + np.exp(-(logits - skill / 2)))
    else:
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    samples = names or tuple(f"image {i:04d}" for i in range(n))
    classes = tuple("abcdefgh"[:k])
    return make_predictions(samples, ("test",) * n, targets, probabilities, classes, task, groups)


def _pair(rng, n=120, k=3, seeds=1, task="multiclass", gap=0.6, groups=None):
    targets = _truth(n, k, task, rng)
    base = [_model(targets, k, 1.2, rng, task=task, groups=groups) for _ in range(seeds)]
    variant = [_model(targets, k, 1.2 + gap, rng, task=task, groups=groups) for _ in range(seeds)]
    return base, variant


def _of_patients(n: int, size: int) -> tuple[str, ...]:
    return tuple(f"patient {i // size}" for i in range(n))


def _answers(right: list[bool] | np.ndarray) -> Predictions:
    """Two classes, truth all over, right where told."""
    targets = np.arange(len(right)) % 2
    said = np.where(right, targets, 1 - targets)
    probabilities = np.where(said[:, None] == np.arange(2), 0.9, 0.1)
    samples = tuple(f"{i:04d}" for i in range(len(right)))
    return make_predictions(samples, ("test",) * len(right), targets, probabilities, ("a", "b"))


# The numbers


@pytest.mark.parametrize("task", TASKS)
def test_values_are_those_of_metrics_json(rng, task):
    base, variant = _pair(rng, task=task)
    mine = evaluate_predictions(base[0], "test", num_resamples=10)
    theirs = evaluate_predictions(variant[0], "test", num_resamples=10)
    for metric in REACH:
        if metric == "kappa_quadratic" and task != "ordinal":
            continue
        found = compare(base, variant, metric, num_resamples=99)
        assert found.base_values[0] == pytest.approx(mine[metric]["value"], abs=1e-12)
        assert found.variant_values[0] == pytest.approx(theirs[metric]["value"], abs=1e-12)
        gap = theirs[metric]["value"] - mine[metric]["value"]
        assert found.difference.value == pytest.approx(gap, abs=1e-12)
        assert found.difference.low <= gap <= found.difference.high


def test_interval_of_accuracy_agrees_with_the_closed_form(rng):
    n = 4000
    first = rng.random(n) < 0.8
    second = np.where(rng.random(n) < 0.15, ~first, first)
    gains = second.astype(float) - first.astype(float)
    found = compare([_answers(first)], [_answers(second)])
    half = 1.96 * gains.std(ddof=1) / np.sqrt(n)
    assert found.difference.value == pytest.approx(gains.mean())
    assert found.difference.low == pytest.approx(gains.mean() - half, abs=0.0015)
    assert found.difference.high == pytest.approx(gains.mean() + half, abs=0.0015)


def test_interval_agrees_with_scipys_paired_bootstrap(rng):
    base, variant = _pair(rng, n=300)
    found = compare(base, variant, "cross_entropy_loss")
    rows = np.arange(300)
    losses = [-np.log(one[0].probabilities[rows, one[0].targets]) for one in (base, variant)]
    reference = stats.bootstrap(
        losses,
        lambda first, second, axis: (second - first).mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=5,
    ).confidence_interval
    assert found.difference.low == pytest.approx(reference.low, abs=0.01)
    assert found.difference.high == pytest.approx(reference.high, abs=0.01)


def test_one_seed_of_independent_images_uses_the_exact_tests(rng):
    base, variant = _pair(rng, k=2, gap=0.5)
    right = [one[0].predicted == one[0].targets for one in (base, variant)]
    both, gained = int((right[0] & right[1]).sum()), int((~right[0] & right[1]).sum())
    lost, neither = int((right[0] & ~right[1]).sum()), int((~right[0] & ~right[1]).sum())
    accuracy = compare(base, variant)
    assert "McNemar" in accuracy.method
    assert accuracy.p_value == pytest.approx(
        mcnemar([[both, lost], [gained, neither]], exact=True).pvalue
    )
    ranks = compare(base, variant, "auroc_macro")
    scores = [one[0].probabilities[:, 1] for one in (base, variant)]
    exact = delong_test(*scores, base[0].targets).tested
    assert "DeLong" in ranks.method
    assert (ranks.p_value, ranks.difference) == (exact.p_value, exact.interval)


def test_groups_leave_the_exact_tests_and_widen_the_interval(rng):
    """Ten copies of each image are one patient: the interval is that of the patients."""
    base, variant = _pair(rng, n=60, k=2)
    copies = np.repeat(np.arange(60), 10)
    names = tuple(f"{i:03d}" for i in range(600))
    copied = [
        replace(one.rows(copies), sample=names, groups=_of_patients(600, 10))
        for one in (base[0], variant[0])
    ]
    for metric in ("accuracy", "auroc_macro"):
        found = compare([copied[0]], [copied[1]], metric)
        alone = compare(base, variant, metric)
        assert found.method == "paired bootstrap over groups"
        assert (found.n, found.num_groups) == (600, 60)
        assert found.difference.low == pytest.approx(alone.difference.low, abs=0.03)
        assert found.difference.high == pytest.approx(alone.difference.high, abs=0.03)
        untold = compare(*([replace(one, groups=None)] for one in copied), metric)
        width = found.difference.high - found.difference.low
        assert width > 2.5 * (untold.difference.high - untold.difference.low)


def test_t_interval_over_seeds_is_the_written_formula(rng):
    by_seed, resamples = np.array([0.02, 0.05, 0.03]), rng.normal(0.03, 0.01, 5000)
    evidence = Evidence(units=200, noun="n", freedom=199.0, reach=1.0, rarest=200)
    found = seeds_test(by_seed, resamples, evidence)
    images, training = resamples.var(ddof=1) * 200 / 199, by_seed.var(ddof=1) / 3
    freedom = (images + training) ** 2 / (images**2 / 199 + training**2 / 2)
    standard = np.sqrt(images + training)
    low, high = stats.t.interval(0.95, freedom, loc=by_seed.mean(), scale=standard)
    assert (found.interval.low, found.interval.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p_value == pytest.approx(2 * stats.t.sf(by_seed.mean() / standard, freedom))


def test_percentiles_of_a_normal_give_the_t_interval():
    resamples = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000, loc=0.3, scale=0.1)
    evidence = Evidence(units=12, noun="groups", freedom=11.0, reach=np.inf, rarest=12)
    found = percentile_test(0.3, resamples, evidence)
    wider = 0.1 * np.sqrt(12 / 11)  # the bootstrap's SD lacks this factor
    low, high = stats.t.interval(0.95, 11, loc=0.3, scale=wider)
    assert found.interval.low == pytest.approx(low, abs=1e-3)
    assert found.interval.high == pytest.approx(high, abs=1e-3)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.3 / wider, 11), rel=0.02)


def test_resamples_that_say_nothing_count_against(rng):
    resamples = rng.normal(0.3, 0.01, 1000)
    resamples[:300] = np.nan
    evidence = Evidence(units=100, noun="n", freedom=99.0, reach=1.0, rarest=2)
    found = percentile_test(0.3, resamples, evidence)
    assert found.p_value == pytest.approx(2 * 301 / 1001, abs=0.01)
    assert found.interval.low <= 0.0
    resamples[:600] = np.nan
    assert percentile_test(0.3, resamples, evidence).p_value is None


# One story


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auroc_macro"])
@pytest.mark.parametrize("k", [2, 3])
def test_swapping_base_and_variant_swaps_the_answer(rng, seeds, metric, k):
    base, variant = _pair(rng, seeds=seeds, k=k, gap=1.0)
    one, other = compare(base, variant, metric), compare(variant, base, metric)
    assert one.p_value == pytest.approx(other.p_value, rel=1e-6)
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.low == pytest.approx(-other.difference.high)
    assert one.difference.high == pytest.approx(-other.difference.low)
    assert (one.verdict, other.verdict) == ("better", "worse")


def test_a_lower_loss_is_better(rng):
    base, variant = _pair(rng, gap=1.5)
    found = compare(base, variant, "cross_entropy_loss")
    assert found.difference.high < 0
    assert found.verdict == "better"
    assert "lower is better" in str(found)
    assert compare(variant, base, "brier").verdict == "worse"


@pytest.mark.parametrize("groups", [None, _of_patients(120, 4)])
def test_the_order_of_rows_does_not_matter(rng, groups):
    base, variant = _pair(rng, seeds=2, groups=groups)
    plain = compare(base, variant)
    mixed = [one.rows(rng.permutation(120)) for one in (*base, *variant)]
    assert compare(mixed[:2], mixed[2:]) == plain


def test_interval_and_p_do_not_contradict_each_other():
    """Every table of gained and lost images: the interval holds 0 exactly where p >= 0.05."""
    for extra in (0, 5, 60):
        for gained in range(0, 22, 3):
            for lost in range(0, 22, 3):
                n = gained + lost + extra
                if n < 2:
                    continue
                first = _answers(np.arange(n) >= gained)
                second = _answers((np.arange(n) < gained) | (np.arange(n) >= gained + lost))
                found = compare([first], [second], num_resamples=499)
                holds_0 = found.difference.low <= 0 <= found.difference.high
                assert holds_0 == (found.p_value >= 0.05), (gained, lost, extra)
                assert 0 < found.p_value <= 1


def test_a_family_is_corrected_and_says_so(rng):
    base, variant = _pair(rng, gap=0.9)
    clear, unclear = compare(base, variant), compare(base, base)
    nothing = compare([_answers([True])], [_answers([True])], "auroc_macro")
    family = correct_family([clear, unclear, unclear, nothing])
    assert family[0].corrected_p == pytest.approx(min(1.0, 3 * clear.p_value))
    assert family[0].p_value == clear.p_value
    assert [one.num_comparisons for one in family] == [3, 3, 3, 3]
    assert "Holm's correction for 3 comparisons" in str(family[0])
    assert (nothing.verdict, family[3].corrected_p) == ("not measured", None)
    borderline = replace(clear, p_value=0.03, corrected_p=0.03)
    assert borderline.verdict == "better"
    assert correct_family([borderline, unclear])[0].verdict == "not distinguishable"
    assert correct_family([]) == ()


def test_one_seed_claims_nothing_of_the_recipe(rng):
    base, variant = _pair(rng, seeds=2)
    assert "one seed: says nothing of training again" in compare(base[:1], variant[:1]).scope
    assert "training again with other seeds" in compare(base, variant).scope
    same = compare([base[0]] * 3, [variant[0]] * 3)
    assert "all seeds answered alike: says nothing of training again" in same.scope


def test_the_sentence_tells_what_it_rests_on(rng):
    base, variant = _pair(rng, seeds=3, gap=1.2, groups=_of_patients(120, 3))
    words = str(compare(base, variant))
    assert words.startswith("better: accuracy on test was 0.")
    assert ", the base's 0." in words
    assert ", difference +0." in words
    assert "n=120 in 40 groups, 3 seeds, p" in words
    assert "because" not in words
    entry = compare(base, variant).to_json()
    assert entry["verdict"] == "better"
    assert (entry["n"], entry["num_groups"], entry["num_seeds"]) == (120, 40, 3)


# Little or nothing to go by


@pytest.mark.parametrize("seeds", [1, 2])
def test_equal_answers_may_still_differ(rng, seeds):
    base, _ = _pair(rng, n=43, k=2)
    for metric in ("accuracy", "balanced_accuracy", "auroc_macro"):
        found = compare(base * seeds, base * seeds, metric)
        assert (found.difference.value, found.p_value) == (0.0, 1.0)
        assert found.difference.low == -found.difference.high < 0
        assert found.verdict == "not distinguishable"
    assert compare(base, base).difference.high == pytest.approx(never_seen(43))
    loss = compare(base * seeds, base * seeds, "cross_entropy_loss")
    assert (loss.difference.low, loss.p_value) == (None, 1.0)


def test_a_tie_is_no_difference():
    right = np.arange(40) % 4 > 0
    found = compare([_answers(right)], [_answers(right[::-1])])
    assert found.difference.value == 0
    assert found.p_value == 1.0
    assert found.verdict == "not distinguishable"


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_image_and_one_group_are_no_evidence(rng, seeds):
    one, other = _answers([True]), _answers([False])
    single = compare([other] * seeds, [one] * seeds)
    assert single.difference.value == 1.0
    assert single.difference.low is None
    assert single.verdict == "not distinguishable"
    base, variant = _pair(rng, n=30, seeds=seeds, gap=3.0, groups=("patient",) * 30)
    group = compare(base, variant)
    assert (group.num_groups, group.p_value, group.verdict) == (1, None, "not distinguishable")
    assert "groups=1" in str(group)


def test_few_groups_do_not_decide(rng):
    """Four patients that all point one way: too few for any test at 0.05."""
    base, variant = _pair(rng, n=80, gap=4.0, groups=_of_patients(80, 20))
    found = compare(base, variant)
    assert found.difference.value > 0.2
    assert found.verdict == "not distinguishable"
    assert found.difference.low <= 0
    assert "too few to conclude (groups=4)" in found.difference.reason


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc_macro", "auprc_macro"])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("groups", [None, _of_patients(100, 2)])
def test_one_image_of_a_rare_class_proves_nothing(metric, seeds, groups):
    """A perfect variant beside a constant base: a gap of a half, resting on a single image."""
    targets = (np.arange(100) == 0).astype(int)
    samples, split = tuple(f"{i:03d}" for i in range(100)), ("test",) * 100
    perfect = np.where(targets[:, None] == np.arange(2), 0.9, 0.1)
    constant = np.tile([0.9, 0.1], (100, 1))
    base, variant = (
        make_predictions(samples, split, targets, one, ("no", "yes"), groups=groups)
        for one in (constant, perfect)
    )
    found = compare([base] * seeds, [variant] * seeds, metric)
    assert found.difference.value >= 0.5
    assert found.verdict == "not distinguishable"


def test_a_metric_that_does_not_exist_here_is_not_measured(rng):
    targets = np.zeros(40, int)
    base, variant = (_model(targets, 2, 1.0, rng) for _ in range(2))
    found = compare([base], [variant], "auroc_macro")
    assert found.verdict == "not measured"
    assert str(found) == "not measured: auroc_macro (only one class in this split)"
    assert found.to_json()["base_values"] == [None]


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auroc_macro"])
def test_many_labels(rng, metric):
    base, variant = _pair(rng, n=200, task="multilabel", seeds=3, gap=2.0)
    found = compare(base, variant, metric)
    assert found.verdict == "better"
    alone = compare(base[:1], variant[:1])
    right = [(one.predicted == one.targets).all(axis=1) for one in (base[0], variant[0])]
    assert alone.p_value == mcnemar_exact(*right).p_value


# What can't be compared


def test_other_images_are_named_with_counts(rng):
    base, variant = _pair(rng)
    with pytest.raises(DataError, match=r"of the base: 20 of 120 only in the base \(first"):
        compare(base, [variant[0].rows(np.arange(20, 120))])
    other = replace(variant[0], sample=("new", *variant[0].sample[1:]))
    with pytest.raises(DataError, match=r"1 of 120 only in the variant \(first 'new'\)"):
        compare(base, [other])


def test_another_truth_is_named_with_the_first_image(rng):
    base, variant = _pair(rng)
    targets = variant[0].targets.copy()
    targets[7] = (targets[7] + 1) % 3
    with pytest.raises(DataError, match=r"differs on 1 of 120 images, first 'image 0007': '\w' in"):
        compare(base, [replace(variant[0], targets=targets)])


def test_other_kinds_of_runs_are_refused(rng):
    base, variant = _pair(rng)
    with pytest.raises(DataError, match="the variant has the classes a, c, b; the base has a, b"):
        compare(base, [replace(variant[0], class_names=("a", "c", "b"))])
    with pytest.raises(DataError, match="the variant is of a ordinal task"):
        compare(base, [replace(variant[0], task="ordinal")])
    with pytest.raises(DataError, match="splits test, val"):
        compare(base, [replace(variant[0], split=("val",) * 120)])
    twice = replace(base[0], sample=("image 0001", *base[0].sample[1:]))
    with pytest.raises(DataError, match="2 times; rows can't be matched"):
        compare([twice], [twice])


def test_seeds_come_in_pairs_and_each_is_checked(rng):
    base, variant = _pair(rng, seeds=3)
    with pytest.raises(DataError, match="base has 3 seeds and variant 2"):
        compare(base, variant[:2])
    with pytest.raises(DataError, match="base has 0 seeds"):
        compare([], [])
    with pytest.raises(DataError, match="seed 2 of the variant"):
        compare(base, [variant[0], variant[1].rows(np.arange(60)), variant[2]])


def test_groups_must_agree_where_both_tell_them(rng):
    base, variant = _pair(rng, groups=_of_patients(120, 4))
    moved = replace(variant[0], groups=("patient 9", *variant[0].groups[1:]))
    with pytest.raises(DataError, match=r"1 of 120 images, first 'image 0000': 'patient 9' in"):
        compare(base, [moved])
    silent = compare(base, [replace(variant[0], groups=None)])
    assert silent == compare(base, variant)


def test_metrics_and_resamples_are_checked(rng):
    base, variant = _pair(rng)
    with pytest.raises(DataError, match="did you mean 'accuracy'"):
        compare(base, variant, "acuracy")
    with pytest.raises(DataError, match="for ordinal tasks"):
        compare(base, variant, "kappa_quadratic")
    with pytest.raises(DataError, match="at least 99"):
        compare(base, variant, num_resamples=10)


# Does it keep its word? The larger run is benchmarks/aa_check.py.


@pytest.fixture(scope="module")
def aa_check():
    yield load_script("benchmarks/aa_check.py")
    del sys.modules["aa_check"]


@pytest.mark.parametrize(
    ("seeds", "grouped", "seed_sd"), [(1, False, 0.0), (1, True, 0.0), (3, False, 0.05)]
)
def test_equal_models_are_rarely_called_different(aa_check, seeds, grouped, seed_sd):
    case = aa_check.Case(150, seeds, grouped=grouped, seed_sd=seed_sd)
    found = aa_check.run(case, pairs=300, seed=5, num_resamples=499)
    assert not found.too_often
    assert found.better + found.worse > 0  # a test that never rejects would pass the first


def test_a_real_gap_is_found(aa_check):
    found = aa_check.run(aa_check.Case(300, 3, gap=0.1), pairs=60, seed=6, num_resamples=499)
    assert (wilson_interval(found.better, 60).low or 0) > 0.8
    assert found.worse == 0


def test_recipes_can_not_be_judged_by_one_seed_each(aa_check):
    """The warning that a comparison of one seed carries is needed."""
    case = aa_check.Case(1000, 1, seed_sd=0.1)
    assert aa_check.run(case, pairs=60, seed=7, num_resamples=199).too_often


def test_the_check_fails_where_equal_models_are_called_different(aa_check):
    case = aa_check.Case(150, 1)
    fine = aa_check.Outcome(case, better=6, worse=6, pairs=200)
    assert not aa_check.too_often([fine] * 3)
    assert aa_check.too_often([fine, aa_check.Outcome(case, better=10, worse=8, pairs=200)])
    slightly = aa_check.Outcome(case, better=7, worse=7, pairs=200)
    assert not slightly.too_often
    assert aa_check.too_often([slightly] * 18)  # each within its error, together not


def test_a_comparison_is_a_value(rng):
    base, variant = _pair(rng)
    assert isinstance(compare(base, variant), Comparison)
    assert compare(base, variant) == compare(base, variant)
