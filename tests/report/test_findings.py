"""Subset models under attack: what is recorded; the stages harmful and robust-scores on numbers worked out by hand."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from influences import whole
from runs import run, same, samples, weights
from scipy.stats import ttest_ind
from stages import RECIPE, SCORES, SUBSETS, THREAT, TRAIN, call, digits, fails, grouped, rewrite, scores, training

from bat.config import Adversary, Pgd, PgdAt, Recipe, SizedModel, Threat, parse
from bat.data.dataset import DataSet, Part
from bat.data.saved import read_data, write_data
from bat.io.files import provenance
from bat.io.tables import pack, read_table_with_facts, unpack, write_table
from bat.models import build
from bat.scores.subsets import subset_masks
from bat.seeds import derive_seed, uniform
from bat.training.loop import fit
from bat.training.losses import objective
from bat.training.measure import judged, judged_under_attack, measure

torch.set_num_threads(1)


# -- what is recorded under attack


def loop(model: Any, part: Part, *, eps: float, step: float, steps: int, seed: int) -> list[tuple[bool, bool]]:
    """Attack one sample after the other, in the L-inf norm, by nothing but the definition."""
    found = []
    for i in range(len(part)):
        x, label = part.pixels[i : i + 1].float() / part.pixel_max, part.labels[i : i + 1]
        start = uniform(derive_seed(seed, "history"), part.index[i : i + 1], tuple(x.shape[1:]))
        x_adv = (x + (2 * start - 1) * eps).clamp(0, 1)
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), label), x_adv)
            moved = x_adv.detach() + step * gradient.sign()
            x_adv = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
        clean, attacked = (bool(model(images).argmax(1) == label) for images in (x, x_adv))
        found.append((clean, clean and attacked))
    return found


def right_under_attack(model: Any, part: Part, **options: Any) -> list[np.ndarray]:
    return [said.correct.numpy() for said in judged_under_attack(model, part, **options)]


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_what_is_right_under_attack_equals_a_loop_over_samples(name: str) -> None:
    part = samples(90)
    model, _ = run(part, name=name)
    model.train()
    before = weights(model)
    # more samples than fit in one forward pass
    many = Part(*(torch.cat(6 * [tensor]) for tensor in (part.pixels, part.labels)), torch.arange(540), 16)
    clean, robust = right_under_attack(model, many, threat=Threat(norm="linf", eps=0.08), attack=Pgd(3, 0.03), seed=5)
    assert model.training
    assert same(before, weights(model))
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    expected = loop(model, many, eps=0.08, step=0.03, steps=3, seed=5)
    assert list(zip(clean.tolist(), robust.tolist(), strict=True)) == expected
    assert np.array_equal(clean, judged(model, many).correct)
    assert 0 < robust.sum() < clean.sum() < 540


def test_what_is_right_under_attack_is_what_training_records() -> None:
    data = DataSet(samples(60), samples(30, 1), samples(40, 2), classes=3)
    model, _ = run(data.train)
    threat, attack = Threat(norm="l2", eps=0.4), Pgd(steps=3, step_size=0.2)
    found = measure(model, data, threat=threat, attack=attack, seed=3)
    for name, part in data.parts().items():
        clean, robust = right_under_attack(model, part, threat=threat, attack=attack, seed=3)
        assert np.array_equal(found[f"{name}_clean_correct"], clean)
        assert np.array_equal(found[f"{name}_pgd_correct"], robust)
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        again = right_under_attack(model, part.take(order), threat=threat, attack=attack, seed=3)[1]
        assert np.array_equal(again, robust[order.numpy()])  # a sample's start is its own


# -- stage subsets with an adversary

ADVERSARY = {"threat": THREAT, "attack": {"steps": 2, "step_size": 0.03}, "attack_bn": "eval"}
ROBUST = SUBSETS | {"adversary": ADVERSARY, "recipe": RECIPE}


def robust_shard(first: int, models: int = 5, **changed: Any) -> dict[str, Any]:
    spec = ROBUST | {"first_model": first, "models": models} | changed
    return {"spec": spec, "data": "data.safetensors", "shard": f"robust-{first}.parquet"}


ROBUST_SCORES = {
    "spec": SCORES,
    "data": "data.safetensors",
    "memorization": "memorization.parquet",
    "test_groups": "test_groups.parquet",
    **{name: f"{name}.parquet" for name in ("robust_memorization", "robust_influence", "robust_effects")},
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("findings")
    call("data", folder, **digits(), data="data.safetensors")
    clean = SUBSETS | {"first_model": 0, "models": 20}
    call("subsets", folder, spec=clean, data="data.safetensors", shard="shard-0.parquet")
    call("scores", folder, **scores("shard-0.parquet", spec=SCORES | {"threshold": 0.35}))
    for first in (0, 5):
        call("subsets", folder, **robust_shard(first))
    call("robust-scores", folder, **ROBUST_SCORES, shards=["robust-5.parquet", "robust-0.parquet"], log="robust.log")
    return folder


@pytest.fixture
def copy(experiment: Path, tmp_path: Path) -> Path:
    return shutil.copytree(experiment, tmp_path / "copy")


def test_an_adversarial_subset_model_is_the_one_of_its_number_trained_on_its_subset(experiment: Path) -> None:
    data = read_data(experiment / "data.safetensors")
    table, facts = read_table_with_facts(experiment / "robust-5.parquet", "subsets")
    assert facts["spec"]["adversary"] == ADVERSARY
    row, number = table.iloc[2], 7
    assert row["model"] == number
    mask = subset_masks(120, 84, design="balanced", seed=0, first=0, count=10)[number]
    bits = {name: unpack(table[name], 120, "")[2] for name in ("in_subset", "correct_train", "robust_train")}
    assert np.array_equal(bits["in_subset"], mask)
    part = data.train.take(torch.tensor(mask.nonzero()[0]))
    seed = derive_seed(0, "model", number)
    assert row["seed"] == seed
    model = build(SizedModel(name="mlp", width=16), part, classes=10, seed=seed)
    threat, attack = parse(Threat, ADVERSARY["threat"], ""), parse(Pgd, ADVERSARY["attack"], "")
    goal = objective(PgdAt(name="pgd_at", objective="pgd_at", eps_factor=1.0, awp=0.0))
    adversary = Adversary(threat=threat, attack=attack, attack_bn="eval")
    list(
        fit(
            model,
            part,
            objective=goal,
            recipe=parse(Recipe, ROBUST["recipe"], ""),
            seed=seed,
            what="",
            adversary=adversary,
        )
    )
    for name, split in data.parts().items():
        clean, robust = right_under_attack(model, split, threat=threat, attack=attack, seed=seed)
        assert np.array_equal(unpack(table[f"correct_{name}"], len(split), "")[2], clean)
        assert np.array_equal(unpack(table[f"robust_{name}"], len(split), "")[2], robust)
    assert 0 < robust.sum() < clean.sum()


def test_batch_normalisation_under_the_training_attack_is_as_asked_for(copy: Path) -> None:
    model, recipe = {"name": "small_cnn", "width": 4}, RECIPE | {"epochs": 3}
    for mode in ("eval", "train"):
        shard = robust_shard(0, 1, model=model, recipe=recipe, adversary=ADVERSARY | {"attack_bn": mode})
        call("subsets", copy, **shard | {"shard": f"{mode}.parquet"})
    one, other = (pd.read_parquet(copy / f"{mode}.parquet")["robust_test"].item() for mode in ("eval", "train"))
    assert one != other


def test_robust_shards_do_not_depend_on_how_models_are_dealt_out(copy: Path) -> None:
    call("subsets", copy, **robust_shard(0, models=10))
    names = ("robust_memorization", "robust_influence", "robust_effects")
    before = {name: pd.read_parquet(copy / f"{name}.parquet") for name in names}
    call("robust-scores", copy, **ROBUST_SCORES, shards=["robust-0.parquet"])
    for name, table in before.items():
        pd.testing.assert_frame_equal(pd.read_parquet(copy / f"{name}.parquet"), table, check_exact=True)


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, where two or three models are equally accurate
def test_robust_scores_equal_loops_over_the_shards(experiment: Path) -> None:
    data = read_data(experiment / "data.safetensors")
    table = pd.concat([pd.read_parquet(experiment / f"robust-{first}.parquet") for first in (0, 5)], ignore_index=True)
    mask, train = (unpack(table[name], 120, "") for name in ("in_subset", "robust_train"))
    tests = {name: unpack(table[f"{column}_test"], 1617, "") for name, column in SIDES.items()}
    found = pd.read_parquet(experiment / "robust_memorization.parquet")
    expected = [train[mask[:, i], i].mean() - train[~mask[:, i], i].mean() for i in range(120)]
    np.testing.assert_allclose(found["memorization"], expected, atol=1e-12)
    assert found["train_index"].tolist() == data.train.index.tolist()
    assert (found["n_in"] + found["n_out"] == 10).all()
    rare = pd.read_parquet(experiment / "memorization.parquet").query("atypical")
    typical = ~pd.read_parquet(experiment / "test_groups.parquet")["atypical"].to_numpy()
    assert 0 < typical.sum() < len(typical)
    effects = pd.read_parquet(experiment / "robust_effects.parquet")
    assert effects["train_index"].tolist() == rare["train_index"].tolist()
    assert effects["memorization"].tolist() == rare["memorization"].tolist()
    for row, i in zip(effects.itertuples(), rare.index, strict=True):
        for name, right in tests.items():
            accuracy = right[:, typical].mean(1)
            inside, outside = accuracy[mask[:, i]], accuracy[~mask[:, i]]
            assert getattr(row, f"{name}_effect") == pytest.approx(inside.mean() - outside.mean())
            p_value = ttest_ind(inside, outside, equal_var=False).pvalue
            assert getattr(row, f"{name}_p_value") == pytest.approx(p_value)
    places = {int(index): i for i, index in enumerate(data.train.index)}
    columns = {int(index): j for j, index in enumerate(data.test.index)}
    pairs = pd.read_parquet(experiment / "robust_influence.parquet")
    assert len(pairs)
    for pair in pairs.itertuples():
        inside, right = mask[:, places[pair.train_index]], tests["robust"][:, columns[pair.test_index]]
        assert pair.influence == pytest.approx(right[inside].mean() - right[~inside].mean())
        assert pair.influence > SCORES["threshold"]
    wanted = 0
    for i in rare.index:
        near = (data.test.labels == data.train.labels[i]).numpy()
        right = tests["robust"][:, near]
        wanted += int((right[mask[:, i]].mean(0) - right[~mask[:, i]].mean(0) > SCORES["threshold"] + 1e-9).sum())
    assert len(pairs) == wanted


SPLITS = ("train", "validation", "test")
KINDS = {"p": 2, "robust_p": 2, "class": 1, "robust_class": 1}  # bytes of a sample
SIDES = {"clean": "correct", "robust": "robust"}


# -- stage robust-scores by hand


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Four models, four training samples (the first two atypical), four test samples (the last atypical), one class."""
    index, labels = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    parts = (
        Part(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels.clone(), index + first, 255) for first in (10, 20, 30)
    )
    data = DataSet(*parts, classes=2)
    write_data(tmp_path / "data.safetensors", data, provenance("data"))
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]], dtype=bool)
    right = {
        # a model a row
        "correct_train": np.ones((4, 4), dtype=bool),
        "correct_validation": np.ones((4, 4), dtype=bool),
        "correct_test": np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=bool),
        "robust_train": np.array([[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1]], dtype=bool),
        "robust_validation": np.ones((4, 4), dtype=bool),
        "robust_test": np.array([[1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool),
    }
    shard = {"model": range(4), "seed": range(4), "in_subset": pack(mask)}
    said = {f"{kind}_{name}": 4 * [bytes(4 * size)] for name in SPLITS for kind, size in KINDS.items()}
    table = pd.DataFrame(shard | {name: pack(bits) for name, bits in right.items()} | said)
    about = provenance("subsets", spec={"seed": 0}, data=data.digest())
    write_table(tmp_path / "robust-0.parquet", "subsets", table, about)
    memorization = pd.DataFrame({"train_index": index + 10, "label": 0, "memorization": [0.9, 0.5, 0.1, np.nan]})
    known = dict.fromkeys(("standard_error", "ci_low", "ci_high", "p_in", "p_out"), 0.5) | {"n_in": 2, "n_out": 2}
    memorization = memorization.assign(atypical=[True, True, False, False], **known)
    about = {"data": data.digest()}
    write_table(
        tmp_path / "memorization.parquet",
        "memorization",
        whole(memorization, "memorization"),
        provenance("memorization", **about),
    )
    groups = pd.DataFrame({"test_index": index + 30, "label": 0, "accuracy": 0.5, "models": 4, "max_influence": 0.5})
    groups = groups.assign(max_influence_train_index=10, memorization=0.9, atypical=[False] * 3 + [True])
    write_table(
        tmp_path / "test_groups.parquet",
        "test_groups",
        whole(groups, "test_groups"),
        provenance("test_groups", **about),
    )
    return tmp_path


def test_robust_scores_by_hand(by_hand: Path) -> None:
    call("robust-scores", by_hand, **ROBUST_SCORES, shards=["robust-0.parquet"], log="log")
    memorization = pd.read_parquet(by_hand / "robust_memorization.parquet")
    # sample 12: right in 1 of 3 models with it, wrong in the one without; sample 13 right in all
    assert memorization["memorization"].tolist() == pytest.approx([1 - 1 / 2, 1 - 0, 1 / 3 - 0, 0])
    assert memorization["atypical"].tolist() == [True, True, True, False]
    assert memorization["n_out"].tolist() == [2, 1, 1, 1]
    # robust accuracy on the three typical test samples, of models 0 to 3: 1/3, 0, 2/3, 1; clean: 1, 2/3, 1, 1
    effects = pd.read_parquet(by_hand / "robust_effects.parquet")
    assert effects["train_index"].tolist() == [10, 11]
    assert effects["robust_effect"].tolist() == pytest.approx([1 / 6 - 5 / 6, 1 / 3 - 1])
    assert effects["clean_effect"].tolist() == pytest.approx([5 / 6 - 1, 8 / 9 - 1])
    # each group of two has the variance 1/18: a difference of -2/3 over sqrt(1/18), 2 degrees of freedom
    assert effects["robust_standard_error"][0] == pytest.approx((1 / 18) ** 0.5)
    assert effects["robust_p_value"][0] == pytest.approx(1 - 8**0.5 / (2 + 8) ** 0.5, rel=1e-6)
    assert effects["robust_p_value"].isna().tolist() == [False, True]  # left out of one model: nothing to test by
    assert effects["robust_significant"].tolist() == [effects["robust_p_value"][0] <= 0.3, False]
    pairs = pd.read_parquet(by_hand / "robust_influence.parquet").set_index(["train_index", "test_index"])["influence"]
    assert pairs.to_dict() == pytest.approx({(10, 33): 1, (11, 33): 2 / 3})
    log = (by_hand / "log").read_text()
    assert "4 models; 3 training samples have robust memorization over 0.15" in log
    assert "1 of 2 atypical samples lower the robust accuracy of typical ones" in log
    facts = read_table_with_facts(by_hand / "robust_effects.parquet", "robust_effects")[1]
    assert facts["models"] == 4
    assert facts["spec"] == SCORES | {"shards": {"spec.seed": 0, "data": facts["data"]}}


def test_without_atypical_samples_the_tables_are_empty(by_hand: Path) -> None:
    table = pd.read_parquet(by_hand / "memorization.parquet").assign(atypical=False)
    rewrite(by_hand / "memorization.parquet", "memorization", table)
    call("robust-scores", by_hand, **ROBUST_SCORES, shards=["robust-0.parquet"])
    assert pd.read_parquet(by_hand / "robust_effects.parquet").empty
    assert pd.read_parquet(by_hand / "robust_influence.parquet").empty
    assert len(pd.read_parquet(by_hand / "robust_memorization.parquet")) == 4


def test_without_typical_test_samples_there_is_no_effect(by_hand: Path, capsys: Any) -> None:
    table = pd.read_parquet(by_hand / "test_groups.parquet").assign(atypical=True)
    rewrite(by_hand / "test_groups.parquet", "test_groups", table)
    line = fails(capsys, "robust-scores", by_hand, **ROBUST_SCORES, shards=["robust-0.parquet"])
    assert "test_groups.parquet: no test sample is typical" in line


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (["shard-0.parquet"], "trained on clean images"),
        (["shard-0.parquet", "robust-5.parquet"], "different specs (spec.adversary"),
        (["robust-0.parquet"], None),
        (["robust-5.parquet"], "not the models 0 to 4"),
    ],
)
def test_shards_that_tell_nothing_of_attacks(copy: Path, capsys: Any, shards: list[str], message: str | None) -> None:
    for name in ("memorization", "influence", "effects"):
        (copy / f"robust_{name}.parquet").unlink()
    if message:
        assert message in fails(capsys, "robust-scores", copy, **ROBUST_SCORES, shards=shards)
    else:
        call("robust-scores", copy, **ROBUST_SCORES, shards=shards)


def test_robust_shards_of_other_data(copy: Path, capsys: Any) -> None:
    call("data", copy, **digits(split_seed=1), data="data.safetensors")
    line = fails(capsys, "robust-scores", copy, **ROBUST_SCORES, shards=["robust-0.parquet", "robust-5.parquet"])
    assert "trained on other data" in line


# -- stages train and harmful

SHORT = TRAIN | {"recipe": RECIPE | {"epochs": 8}}
HARMFUL = {"spec": {"threshold": 0.2}, "memorization": "memorization.parquet", "harmful": "harmful.parquet"}


def without(what: str, random: bool = False, fraction: float | None = None) -> dict[str, Any]:
    return SHORT | {"without": {"what": what, "fraction": fraction, "random": random}}


@pytest.fixture(scope="module")
def divided(experiment: Path) -> Path:
    for seed in (3, 4):
        endings = {"best": "safetensors", "last": "safetensors", "records": "parquet"}
        outputs = {name: f"{name}-{seed}.{ending}" for name, ending in endings.items()}
        call("train", experiment, **training(spec=SHORT | {"seed": seed}, **outputs))
    call("harmful", experiment, **HARMFUL, records=["records-3.parquet", "records-4.parquet"])
    return experiment


def test_harmful_samples_are_those_of_a_loop_over_the_records(divided: Path) -> None:
    names = {name: [f"{name}-{seed}.parquet" for seed in (3, 4)] for name in ("records", "histories", "samples")}
    call("groups", divided, **grouped(**names))
    records = pd.concat([pd.read_parquet(divided / name) for name in names["samples"]])
    table = pd.read_parquet(divided / "harmful.parquet")
    rare = pd.read_parquet(divided / "memorization.parquet").query("atypical")
    assert table["train_index"].tolist() == sorted(rare["train_index"])
    for row in table.itertuples():
        late = [r.wrong_probability for r in records.itertuples() if r.train_index == row.train_index and r.epoch > 4]
        assert len(late) == 8
        assert row.wrong_probability == pytest.approx(sum(late) / 8)
        assert row.wrong_share == sum(value > 0 for value in late) / 8
        assert row.harmful == (row.wrong_probability > 0.2)
    assert 0 < table["harmful"].sum() < len(table)


@pytest.mark.parametrize("what", ["atypical", "harmful", "benign", "top"])
@pytest.mark.parametrize("random", [False, True])
def test_a_run_is_trained_without_what_its_spec_names(divided: Path, tmp_path: Path, what: str, random: bool) -> None:
    copy = shutil.copytree(divided, tmp_path / "copy")
    spec = without(what, random, 0.1 if what == "top" else None)
    more = {"harmful": "harmful.parquet"} if what in ("harmful", "benign") else {}
    call("train", copy, **training(spec=spec), **more, log="log")
    call("groups", copy, **grouped())
    table = pd.read_parquet(copy / "memorization.parquet")
    rare = set(table.query("atypical")["train_index"])
    harmful = set(pd.read_parquet(copy / "harmful.parquet").query("harmful")["train_index"])
    top = set(table.nlargest(12, "memorization", keep="first")["train_index"])
    named = {"atypical": rare, "harmful": harmful, "benign": rare - harmful, "top": top}[what]
    history = pd.read_parquet(copy / "records.parquet")
    assert (history["trained_samples"] == 120 - len(named)).all()
    recorded = set(pd.read_parquet(copy / "training_samples.parquet")["train_index"])
    if what != "top":  # two samples of one memorization may change places there
        assert recorded == rare - named if not random else rare & named <= recorded
    else:
        assert len(recorded) == len(rare - top) if not random else top & rare <= recorded
    assert f"trained without {len(named)} of 120 samples: {'random_' * random}{what}" in (copy / "log").read_text()


def test_a_twin_that_is_no_control_is_said_to_be_none(divided: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(divided, tmp_path / "copy")
    for fraction, said in ((0.6, True), (0.5, False)):
        call("train", copy, **training(spec=without("top", True, fraction)), log=f"{fraction}.log")
        log = (copy / f"{fraction}.log").read_text()
        assert f"trained without {48 if said else 60} of 120" in log
        assert ("72 samples are named" in log) == ("no fair control" in log) == said


@pytest.mark.parametrize(("fraction", "left"), [(0.99, 1), (0.9999, 0)])
def test_a_removal_that_leaves_too_few_samples_is_refused(
    divided: Path, tmp_path: Path, capsys: Any, fraction: float, left: int
) -> None:
    copy = shutil.copytree(divided, tmp_path / "copy")
    table = pd.read_parquet(copy / "memorization.parquet")
    line = fails(capsys, "train", copy, **training(spec=without("top", fraction=fraction)))
    assert f"{120 - left} of 120 training samples would be left out" in line
    rewrite(copy / "memorization.parquet", "memorization", table.assign(atypical=True))
    line = fails(capsys, "train", copy, **training(spec=without("atypical")))
    assert "removal: without atypical, 120 of 120 training samples would be left out" in line
    assert "raise memorization.threshold" in line


def test_samples_without_a_score_are_not_the_most_memorized(divided: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(divided, tmp_path / "copy")
    table = pd.read_parquet(copy / "memorization.parquet").assign(memorization=np.nan, atypical=False)
    rewrite(copy / "memorization.parquet", "memorization", table)
    for random in (False, True):
        call("train", copy, **training(spec=without("top", random, 0.1)))
        assert (pd.read_parquet(copy / "records.parquet")["trained_samples"] == 120).all()


def test_a_run_without_harmful_samples_needs_their_table(divided: Path, tmp_path: Path, capsys: Any) -> None:
    copy = shutil.copytree(divided, tmp_path / "copy")
    assert "give --harmful" in fails(capsys, "train", copy, **training(spec=without("harmful")))


def test_a_method_is_trained_by_its_own_score_and_threshold(divided: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(divided, tmp_path / "copy")
    scored = pd.read_parquet(copy / "memorization.parquet").set_index("train_index")
    for method, values in (
        ({"threshold": 0.5}, scored["memorization"]),
        ({"threshold": 0.6, "score": "consistency"}, 1 - scored["p_out"]),
    ):
        call("train", copy, **training(spec=SHORT | {"method": SHORT["method"] | method}))
        call("groups", copy, **grouped())
        table = pd.read_parquet(copy / "training_samples.parquet")
        lighter = table["train_index"].map(values > method["threshold"]) & (table["wrong_probability"] > 0)
        assert ((table["weight"] < 1) == lighter).all()
        assert lighter.any()
        assert not lighter[table["wrong_probability"] > 0].all()


def test_a_method_is_trained_by_the_scores_of_models_under_attack(divided: Path, tmp_path: Path, capsys: Any) -> None:
    copy = shutil.copytree(divided, tmp_path / "copy")
    table = pd.read_parquet(copy / "memorization.parquet")
    other = table.assign(memorization=table["memorization"].to_numpy()[::-1])
    about = provenance("robust_memorization", data=read_data(copy / "data.safetensors").digest())
    write_table(copy / "robust.parquet", "robust_memorization", other, about)
    spec = SHORT | {"method": SHORT["method"] | {"threshold": 0.5, "score": "robust_memorization"}}
    flags = training(spec=spec)
    del flags["memorization"]  # not read
    call("train", copy, **flags, robust_memorization="robust.parquet")
    call("groups", copy, **grouped())
    rows = pd.read_parquet(copy / "training_samples.parquet")
    value = rows["train_index"].map(other.set_index("train_index")["memorization"])
    lighter = (value > 0.5) & (rows["wrong_probability"] > 0)
    assert ((rows["weight"] < 1) == lighter).all()
    assert lighter.any()
    write_table(copy / "robust.parquet", "robust_memorization", other[::-1], about)
    line = fails(capsys, "train", copy, **training(spec=spec), robust_memorization="robust.parquet")
    assert "robust.parquet" in line


def test_without_any_atypical_sample_none_is_harmful(copy: Path) -> None:
    table = pd.read_parquet(copy / "memorization.parquet").assign(atypical=False)
    rewrite(copy / "memorization.parquet", "memorization", table)
    call("train", copy, **training(spec=SHORT))
    call("harmful", copy, **HARMFUL, records=["records.parquet"])
    assert pd.read_parquet(copy / "harmful.parquet").empty
    call("train", copy, **training(spec=without("benign", random=True), records="r.parquet"), harmful="harmful.parquet")
    assert (pd.read_parquet(copy / "r.parquet")["trained_samples"] == 120).all()
