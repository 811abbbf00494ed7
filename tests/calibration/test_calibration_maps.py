"""Post-hoc maps: planted parameters, scikit-learn and scipy, promises kept, state restored, bad input refused."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lightning_rectify.calibration import (
    BetaCalibration,
    CalibrationMap,
    DirichletCalibration,
    EnsembleTemperature,
    HCalibration,
    HistogramBinning,
    IsotonicCalibration,
    MatrixScaling,
    SplineCalibration,
    TemperatureScaling,
    VectorScaling,
    natural_spline_basis,
    pool_adjacent_violators,
)
from lightning_rectify.calibration.beta_calibration import log_odds_parts
from lightning_rectify.calibration.selection import MAPS
from lightning_rectify.errors import RectifyError

N, K = 2000, 4
QUICK = {**MAPS, "h_calibration": lambda classes: HCalibration(classes, steps=15, mixtures=(3,), segments=(4,))}


@pytest.fixture(scope="module")
def planted():
    """True logits and labels drawn from them; the network's logits are 2.5 times too large."""
    generator = torch.Generator().manual_seed(1)
    true = torch.randn(2 * N, K, generator=generator) * 1.5
    gumbel = -(-torch.rand(true.shape, generator=generator).log()).log()
    return true, (true + gumbel).argmax(1)


@pytest.fixture(scope="module")
def fitted(planted):
    true, label = planted
    return {name: make(K).fit(2.5 * true[:N], label[:N]) for name, make in QUICK.items()}


def nll(logits, label):
    return torch.nn.functional.cross_entropy(logits.double(), label).item()


def test_a_planted_temperature_is_recovered(planted):
    true, label = planted
    assert TemperatureScaling(K).fit(2.5 * true, label).temperature == pytest.approx(2.5, rel=0.05)
    assert TemperatureScaling(K).fit(true / 3, label).temperature == pytest.approx(1 / 3, rel=0.05)


def test_temperature_is_the_minimum_scipy_finds(planted):
    true, label = planted
    logits = 2.5 * true.double()
    found = minimize(lambda b: nll(logits * b[0], label), [1.0], method="Nelder-Mead", options={"xatol": 1e-7})
    assert TemperatureScaling(K).fit(logits, label).inverse == pytest.approx(found.x[0], rel=1e-4)


def test_a_split_without_errors_makes_no_network_infinitely_sure(planted):
    """There the likelihood has no maximum; the mean confidence is Laplace's (n + 1)/(n + 2), whatever the scale."""
    logits = planted[0][:98]
    for scale in (0.1, 5.0):
        fitted = TemperatureScaling(K).fit(scale * logits, logits.argmax(1))
        confidence = fitted(scale * logits).double().softmax(1).amax(1)
        assert confidence.mean() == pytest.approx(99 / 100, abs=1e-5)
        assert fitted.temperature > 0.002
    one = logits.argmax(1)
    one[0] = (one[0] + 1) % K  # with one error the maximum is there, and is taken
    found = minimize(lambda b: nll(logits.double() * b[0], one), [1.0], method="Nelder-Mead", options={"xatol": 1e-7})
    assert TemperatureScaling(K).fit(logits, one).inverse == pytest.approx(found.x[0], rel=1e-4)


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling, DirichletCalibration])
def test_affine_maps_stand_at_a_stationary_point(planted, kind):
    """Central differences of the objective in every parameter, and scipy's minimum is no lower."""
    true, label = planted
    logits = 2.5 * true[:500].double() + torch.tensor([0.5, 0, 0, -0.5])
    label = label[:500]
    fitted = kind(K).fit(logits, label)
    weight, bias = fitted.weight.double(), fitted.bias.double()

    def objective(flat):
        flat = torch.as_tensor(flat)
        own_weight, own_bias = flat[:-K].view(weight.shape), flat[-K:]
        if kind is VectorScaling:
            return nll(logits * own_weight + own_bias, label)
        return fitted.objective(own_weight, own_bias, logits, label).item()

    start = torch.cat((weight.flatten(), bias)).numpy()
    for place in range(len(start)):
        step = np.zeros_like(start)
        step[place] = 1e-3
        assert (objective(start + step) - objective(start - step)) / 2e-3 == pytest.approx(0, abs=1e-5)
    assert objective(start) <= minimize(objective, start, method="BFGS").fun + 1e-7


def test_vector_scaling_undoes_planted_weights(planted):
    true, label = planted
    weight, bias = torch.tensor([0.5, 1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, -1.0, 0.0])
    fitted = VectorScaling(K).fit((true - bias) / weight, label)
    torch.testing.assert_close(fitted.weight, weight, rtol=0.15, atol=0.1)
    torch.testing.assert_close(fitted.bias, bias, rtol=0, atol=0.2)


def test_dirichlet_sees_probabilities_only(planted):
    """A constant added to a sample's logits changes no probability, and so nothing."""
    true, label = planted
    fitted = DirichletCalibration(K).fit(true[:500], label[:500])
    shifted = fitted(true + torch.arange(2.0 * N)[:, None] / 500)
    torch.testing.assert_close(shifted.softmax(1), fitted(true).softmax(1), atol=1e-4, rtol=0)


def test_beta_equals_an_unpenalised_logistic_regression(planted):
    true, label = planted
    logits = 2.5 * true[:N].double()
    fitted = BetaCalibration(K).fit(logits, label[:N])
    p = logits.softmax(1).numpy()
    for k in range(K):
        inputs = np.stack((np.log(p[:, k]), -np.log1p(-p[:, k])), 1)
        expected = LogisticRegression(C=np.inf, tol=1e-9, max_iter=5000).fit(inputs, label[:N].numpy() == k)
        assert (expected.coef_ > 0).all()
        np.testing.assert_allclose(fitted.slope[:, k], expected.coef_[0], rtol=2e-3)
        assert fitted.intercept[k] == pytest.approx(expected.intercept_[0], abs=2e-3)


def test_the_two_logarithms_of_beta_calibration_keep_their_digits():
    logits = torch.cat((torch.randn(50, 6) * 20, torch.zeros(1, 6), torch.tensor([[300.0, 300, 0, 0, 0, -300]])))
    low, high = log_odds_parts(logits)
    wide = logits.double()
    rest = [torch.cat((wide[:, :k], wide[:, k + 1 :]), 1).logsumexp(1) for k in range(6)]
    expected = wide.logsumexp(1, keepdim=True) - torch.stack(rest, 1)
    torch.testing.assert_close(high.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(low.double(), wide.log_softmax(1), rtol=1e-5, atol=1e-6)


def test_pool_adjacent_violators_is_the_min_max_formula():
    rng = np.random.default_rng(0)
    for n in (1, 2, 17, 40):
        y, w = rng.normal(size=n).round(1), rng.integers(1, 4, n).astype(float)
        mean = lambda i, k: np.average(y[i : k + 1], weights=w[i : k + 1])  # noqa: B023, E731
        expected = [max(min(mean(i, k) for k in range(j, n)) for i in range(j + 1)) for j in range(n)]
        np.testing.assert_allclose(pool_adjacent_violators(y, w), expected, atol=1e-12)


def test_isotonic_equals_scikit_learn(planted):
    true, label = planted
    fitted = IsotonicCalibration(K).fit(2.5 * true[:N], label[:N])
    train, test = ((2.5 * part.double()).softmax(1).float() for part in (true[:N], true[N:]))
    for k in range(K):
        reference = IsotonicRegression(out_of_bounds="clip").fit(train[:, k].double(), label[:N].eq(k).double())
        expected = reference.predict(test[:, k].double())
        np.testing.assert_allclose(fitted.frequencies(test)[:, k], expected, atol=2e-5)


def test_histogram_binning_gives_the_frequencies_of_its_bins():
    p = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.6, 0.9])
    logits = torch.stack((p.log(), (1 - p).log()), 1)
    fitted = HistogramBinning(2, bins=3).fit(logits, torch.tensor([1, 0, 1, 1, 0, 0]))
    np.testing.assert_allclose(fitted.edges[0], [0.15, 0.45], atol=1e-6)
    np.testing.assert_allclose(fitted.frequency[0], [0.5, 0, 1])
    found = fitted.frequencies(torch.tensor([[0.0, 1.0], [0.4, 0.6], [1.0, 0.0]]))
    np.testing.assert_allclose(found[:, 0], [0.5, 0, 1])
    assert fitted(logits).isfinite().all()  # a frequency of 0 has a floor


def test_histogram_binning_counts_as_it_applies(planted):
    """Count times frequency adds up to the hits, also where most probabilities are exactly 1 in float32."""
    true, label = planted
    logits = 60 * true[:N]
    fitted = HistogramBinning(K).fit(logits, label[:N])
    for own in (logits, logits.double()):
        found = fitted.frequencies(own.float().softmax(1)).double().mean(0)
        share = torch.bincount(label[:N], minlength=K) / N
        torch.testing.assert_close(found, share.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [HistogramBinning, IsotonicCalibration])
def test_no_probability_falls_below_its_floor(planted, kind):
    true, label = planted
    n = 60
    found = kind(K).fit(true[:n] * 2.5, label[:n])(torch.cat((true, 30 * true))).softmax(1)
    assert 0.99 / (2 * n * K) <= found.min() <= 1 / (2 * n)
    assert found.sum(1) == pytest.approx(1, abs=1e-5)


def test_ensemble_weights_are_the_optimum_scipy_finds(planted):
    true, label = planted
    label = torch.where(torch.rand(len(label)) < 0.2, torch.randint(K, label.shape), label)  # so that w₃ matters
    logits = 2.5 * true.double()
    fitted = EnsembleTemperature(K).fit(logits, label)
    inverse = TemperatureScaling(K).fit(logits, label).inverse.double()
    parts = torch.stack([(logits * inverse).softmax(1), logits.softmax(1), torch.full_like(logits, 1 / K)])
    own = parts.gather(2, label[None, :, None].expand(3, -1, 1))[..., 0].numpy()
    limits = {"constraints": {"type": "eq", "fun": lambda w: w.sum() - 1}, "bounds": [(0, 1)] * 3}
    best = minimize(lambda w: -np.log(w @ own).mean(), [0.3, 0.3, 0.4], **limits)
    assert nll(fitted(logits), label) == pytest.approx(best.fun, abs=2e-5)
    assert fitted.mixture.sum() == pytest.approx(1)


def test_spline_slopes_are_the_differences_of_its_values():
    t, knots = torch.linspace(0, 1, 50).double(), torch.linspace(0, 1, 6).double()
    step = 1e-6
    high, low = natural_spline_basis(t + step, knots)[0], natural_spline_basis(t - step, knots)[0]
    torch.testing.assert_close(natural_spline_basis(t, knots)[1], (high - low) / (2 * step), atol=1e-5, rtol=1e-5)
    outside = natural_spline_basis(torch.tensor([1.0, 1.5, 2.0]).double(), knots)[1]
    torch.testing.assert_close(outside[0], outside[2])  # linear beyond the last knot


def test_spline_finds_a_planted_accuracy():
    confidence = torch.linspace(0.5, 0.999, 20_000).double()
    right = torch.rand(20_000, dtype=torch.float64) < confidence**2
    logits = torch.stack((confidence.log(), (1 - confidence).log()), 1)
    fitted = SplineCalibration(2).fit(logits, (~right).long())
    at = torch.tensor([0.75, 0.85, 0.95])
    torch.testing.assert_close(fitted.accuracy(at), at**2, atol=0.03, rtol=0)


@pytest.mark.parametrize("name", list(MAPS))
def test_each_map_lowers_the_likelihood_loss_of_an_over_confident_network(planted, fitted, name):
    true, label = planted
    test = 2.5 * true[N:]
    assert nll(fitted[name](test), label[N:]) < nll(test, label[N:]) - 0.05


@pytest.mark.parametrize("name", list(MAPS))
def test_predictions_stay_where_that_is_promised(planted, fitted, name):
    logits = torch.cat((2.5 * planted[0], 30 * planted[0], torch.randn(500, K) * 0.01))
    same = fitted[name](logits).argmax(1).eq(logits.argmax(1)).double().mean()
    assert same == 1 if fitted[name].keeps_prediction else same > 0.7
    assert fitted[name](logits).isfinite().all()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("name", [name for name, make in MAPS.items() if make.keeps_prediction])
def test_in_single_precision_the_prediction_and_the_likelihood_stay(planted, fitted, name, scale):
    true, label = planted
    logits, label = (2.5 * scale * true[N:]).requires_grad_(), label[N:]
    mapped, exact = fitted[name](logits), fitted[name](logits.detach().double())
    assert mapped.dtype == torch.float32 and mapped.isfinite().all()
    assert torch.equal(mapped.argmax(1), logits.argmax(1))  # at 1e-6 rounding alone would move hundreds
    if scale == 1:
        assert nll(mapped.detach(), label) == pytest.approx(nll(exact, label), abs=1e-6)
    (gradient,) = torch.autograd.grad(mapped[:, 0].sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", list(MAPS))
def test_the_state_restores_the_map(planted, fitted, name):
    fresh = QUICK[name](K)
    with pytest.raises(RectifyError, match="not fitted yet"):
        fresh(planted[0])
    fresh.load_state_dict(fitted[name].state_dict())
    assert torch.equal(fresh(planted[0]), fitted[name](planted[0]))


@pytest.mark.parametrize("name", list(MAPS))
def test_half_precision_logits_are_calibrated_in_single(planted, fitted, name):
    half = (20 * planted[0]).half()
    expected = fitted[name](half.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = fitted[name](half)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_fitting_works_in_inference_mode_and_leaves_no_graph(planted):
    with torch.inference_mode():
        logits, label = 2.5 * planted[0][:300], planted[1][:300].clone()
        fitted = [make(K).fit(logits, label) for make in (VectorScaling, BetaCalibration)]
    assert not any(buffer.requires_grad for each in fitted for buffer in each.buffers())


def test_probabilities_of_zero_and_one_stay_finite():
    sure = torch.tensor([[500.0, 0.0], [0.0, 500.0], [500.0, 0.0], [0.0, 500.0]]).repeat(10, 1)
    label = torch.tensor([0, 1, 0, 0]).repeat(10)
    for name, make in QUICK.items():
        fitted = make(2).fit(sure, label)
        assert torch.isfinite(fitted(sure)).all(), name
        assert nll(fitted(sure), label) < 2, name


@pytest.mark.parametrize(
    ("logits", "label", "words"),
    [
        (torch.randn(5, 3).softmax(1), torch.zeros(5).long(), "these are probabilities"),
        (torch.full((5, 3), torch.nan), torch.zeros(5).long(), "NaN or infinite"),
        (torch.randn(5, 1), torch.zeros(5).long(), "one class"),
        (torch.randn(0, 3), torch.zeros(0).long(), "the split is empty"),
        (torch.randn(5, 3), torch.full((5,), 3), "labels reach from 3 to 3"),
        (torch.randn(5, 3), torch.zeros(5), "integer labels"),
        (torch.randn(5, 4), torch.zeros(5).long(), "made for 3 classes"),
        (torch.zeros(5, 3, dtype=torch.int64), torch.zeros(5).long(), "float logits"),
    ],
)
def test_bad_input_is_one_sentence(logits, label, words):
    with pytest.raises(RectifyError, match=words):
        TemperatureScaling(3).fit(logits, label)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TemperatureScaling(1), "classes is 1"),
        (lambda: HistogramBinning(3, bins=1), "bins is 1"),
        (lambda: SplineCalibration(3, knots=2), "knots is 2"),
        (lambda: MatrixScaling(3, off_diagonal=-1), "off_diagonal is -1"),
        (lambda: HCalibration(3, select="accuracy"), "select is 'accuracy'"),
        (lambda: HCalibration(3, steps=0), "steps 0"),
    ],
)
def test_bad_options_are_one_sentence(make, words):
    with pytest.raises(RectifyError, match=words):
        make()
    assert issubclass(TemperatureScaling, CalibrationMap)
