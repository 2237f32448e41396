"""The whole ensemble against pyautoattack, its authors' code, on trained networks and 500 real images."""

from dataclasses import asdict, replace

import pytest
import torch
from networks import trained
from pyautoattack import AutoAttack

from bat.attacks.ensemble import TIERS
from bat.config import EvaluationPgd, Threat
from bat.evaluation.under_attack import attack_samples

torch.set_num_threads(1)

NAMES = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}


def test_constants_are_the_references(capsys):
    adversary = AutoAttack(torch.nn.Flatten(), norm="Linf", eps=0.1, version="standard", device="cpu")
    theirs = adversary.apgd, adversary.apgd_targeted, adversary.fab, adversary.square
    names = {"steps": "n_iter", "restarts": "n_restarts", "rho": "thr_decr", "targets": "n_target_classes"}
    names |= {"alpha_max": "alpha_max", "eta": "eta", "beta": "beta", "queries": "n_queries", "p_init": "p_init"}
    for attack, their in zip(TIERS["standard"], theirs, strict=True):
        constants = {names[key]: value for key, value in asdict(attack).items() if key != "name"}
        assert constants == {name: getattr(their, name) for name in constants}, attack.name
    capsys.readouterr()


@pytest.fixture(scope="module")
def case(request):
    data, method = request.param
    return trained(method, name="mlp", width=32, epochs=6, data=data)


# benchmarks/autoattack.py has every method under both norms, and larger images, for which the reference takes minutes
@pytest.mark.parametrize(
    ("case", "tier", "norm", "eps"),
    [
        (("digits", "natural"), "standard", "l2", 0.5),
        (("digits", "pgd_at"), "standard", "linf", 0.1),
        (("digits", "bat"), "fast", "l2", 0.5),
        (("mnist5k", "bat"), "fast", "linf", 0.1),
    ],
    indirect=["case"],
)
def test_robust_accuracy_of_each_tier_is_the_references(case, tier, norm, eps, capsys):
    model, test = case
    part, threat = test.take(torch.arange(500)), Threat(norm=norm, eps=eps)
    pgd = EvaluationPgd(name="pgd", steps=1, step_size=eps, restarts=1)
    # fewer targets and queries, in both: test_constants_are_the_references has the numbers
    fewer = {"apgd_t": {"targets": 3}, "fab_t": {"targets": 3}, "square": {"queries": 1000}}
    ensemble = [replace(attack, **fewer.get(attack.name, {})) for attack in TIERS[tier]]
    found = attack_samples(model, part, torch.arange(500), threat=threat, pgd_attack=pgd, ensemble=ensemble, seed=0)[
        "broken_by"
    ]
    right = model(part.images()).argmax(1) == part.labels
    reference = right.clone()
    for place, attack in enumerate(TIERS[tier]):
        adversary = AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, seed=0, version="standard")
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = 3
        adversary.square.n_queries = 1000
        adversary.attacks_to_run = [NAMES[attack.name]]
        rows = reference.nonzero().flatten()
        if len(rows):
            x_adv, _ = adversary.run_standard_evaluation(part.images(rows), part.labels[rows], batch_size=500)
            reference[rows] = model(x_adv).argmax(1) == part.labels[rows]
        if attack.name in ("apgd_t", "square"):  # the last of a tier
            stands = right & ((found < 0) | (found > place))
            assert abs(int(stands.sum()) - int(reference.sum())) <= 2
            assert (stands != reference).double().mean() <= 0.01
    assert 0 < reference.sum() < right.sum()
    capsys.readouterr()  # the reference prints
