"""Models of users that are not what an attack needs: the right answer, one line, or a flag."""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from refusals import refusal
from safetensors.torch import save_file
from stubs import Lines
from torch import nn

import bat.evaluation.attack
import bat.evaluation.direct
import bat.evaluation.own_model
from bat.attacks.ball import random_start
from bat.attacks.ensemble import STANDARD
from bat.attacks.gradient import ascent, cross_entropy, label_margin, predictions
from bat.cli import main
from bat.config import EvaluationPgd, SizedModel, Threat
from bat.data.dataset import Part
from bat.evaluation.direct import as_part, attack_model, attack_plan, check_threat
from bat.evaluation.flags import Probe
from bat.evaluation.own_model import Judged, check_outputs, read_weights, weights_digest
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import read_table_with_facts
from bat.io.tensors import read_tensors, write_tensors
from bat.models import build
from bat.seeds import derive_seed, uniform

torch.set_num_threads(1)

MODULE = """
import sys
import torch
from torch import nn

W = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))

class Linear(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.after = after
        self.eval()

    def forward(self, x):
        return self.after((x.flatten(1) - 0.5) @ W.T, x)

def make(after):
    return lambda: Linear(after)

def stop(z, x):
    sys.exit(0)

def inplace(z, x):
    x.sub_(0.5)
    return x.flatten(1) @ W.T

honest = make(lambda z, x: z)
inplace = make(inplace)
half = make(lambda z, x: z.half())
double = make(lambda z, x: z.double())
brain = make(lambda z, x: z.bfloat16())
detached = make(lambda z, x: z.detach())
onehot = make(lambda z, x: nn.functional.one_hot(z.argmax(1), 4))
by_numpy = make(lambda z, x: torch.tensor(x.numpy().reshape(len(x), -1) - 0.5) @ W.T)
mean = make(lambda z, x: z - z.mean(0))
nan = make(lambda z, x: z * float("nan"))
inf = make(lambda z, x: z * float("inf"))
nan_near = make(lambda z, x: torch.where(((x * 256) == (x * 256).round()).flatten(1).all(1)[:, None], z, torch.nan))
pair = make(lambda z, x: (z, x))
named = make(lambda z, x: {"logits": z})
nothing = make(lambda z, x: None)
array = make(lambda z, x: z.detach().numpy())
flat = make(lambda z, x: z[:, 0])
one = make(lambda z, x: z[:, :1])
row = make(lambda z, x: z[:1])
narrow = make(lambda z, x: z[:, :2])
leaves = make(stop)
fixed = make(lambda z, x: z if len(x) == 2 else 1 / 0)
sparse = make(lambda z, x: z.to_sparse())
complex = make(lambda z, x: z + 0j)

def wants(path):
    return None

def raises():
    raise SystemExit("no\\nmore")

number = 3
inferred = torch.inference_mode()(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    random = torch.Generator().manual_seed(1)
    # multiples of 1/256, which nan_near tells from perturbed points
    x = torch.randint(102, 154, (60, 1, 4, 4), generator=random) / 256
    weights = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    y = ((x.flatten(1) - 0.5) @ weights.T).argmax(1)
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    (tmp_path / "users_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield weights, x, y
    sys.modules.pop("users_model", None)


def attack(name, **changed):
    flags = {"data": "images.npz", "norm": "linf", "eps": "0.02", "ensemble": "fast", "out": "out.parquet"}
    flags |= {"flags": "flags.parquet"} | changed
    entry = name if ":" in name or "." in name else f"users_model:{name}"
    main(["attack", "--model", entry, *(text for flag, value in flags.items() for text in (f"--{flag}", str(value)))])
    return pd.read_parquet("out.parquet"), pd.read_parquet("flags.parquet").set_index("flag")["raised"]


def exact(own, eps=0.02):
    weights, x, y = own
    logits = (x.flatten(1) - 0.5) @ weights.T
    difference = weights[y][:, None] - weights
    gap = logits.gather(1, y[:, None]) - logits
    distance = torch.where(gap == 0, torch.inf, gap / difference.abs().sum(2))
    return (distance.amin(1) > eps).numpy()


@pytest.mark.parametrize("name", ["honest", "inplace", "double"])
def test_an_honest_model_has_its_exact_accuracy_and_no_flag(own, name):
    table, raised = attack(name)
    assert 0 < exact(own).sum() < 60
    np.testing.assert_array_equal(table["robust_correct"], exact(own))
    assert table["clean_correct"].all()
    assert not raised.drop("pgd_gap").any()


def test_the_table_is_that_of_stage_evaluate_and_holds_nothing_of_groups(own):
    table, _ = attack("honest", ensemble="standard")
    assert list(table) == SCHEMAS["attacked"].names
    assert not {"atypical", "max_influence", "memorization"} & set(table)
    # seed and checkpoint belong to a model of the workflow
    assert set(table.columns[table.isna().all()]) == {"seed", "checkpoint"}


def test_pgd_of_the_command_line_has_twenty_steps_of_an_eighth_of_eps(own):
    attack("honest", eps="1/100")
    _, facts = read_table_with_facts(Path("out.parquet"), "attacked")
    assert facts["spec"]["pgd"] == {"name": "pgd", "steps": 20, "step_size": 0.00125, "restarts": 1}


@pytest.mark.parametrize("name", ["half", "brain"])
def test_logits_of_low_precision_are_judged(own, name):
    table, _ = attack(name)
    assert abs(table["robust_correct"].sum() - exact(own).sum()) <= 3


@pytest.mark.parametrize("name", ["detached", "onehot", "by_numpy"])
def test_a_model_without_gradient_is_flagged_and_square_judges(own, name):
    table, raised = attack(name, ensemble="standard", eps=0.05)
    assert raised["zero_gradients"]
    assert (table["square_correct"] < table["fab_t_correct"]).any()
    assert (table["robust_correct"] >= exact(own, 0.05)).all()


def test_outputs_that_depend_on_the_batch_are_flagged(own):
    assert attack("mean", **{"batch-size": 16})[1]["batch_dependent"]


def test_nan_at_perturbed_points_is_broken_and_flagged(own):
    table, raised = attack("nan_near")
    assert table["clean_correct"].all()
    assert not table["robust_correct"].any()
    assert not table["pgd_correct"].any()
    assert raised["nonfinite_outputs"]


NEEDED = ": give a model from float32 images (n, c, h, w) in [0, 1], for any n, to logits (n, classes)"
FORM = (
    ": give module:function, a function without arguments that returns a torch.nn.Module from images in [0, 1] to "
    "logits"
)
NAN = (
    "the model's outputs for 60 of 60 unperturbed images are NaN or infinite: look for overflow in the model or "
    "damaged weights, or train with a lower learning rate"
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", NAN),
        ("inf", NAN),
        ("pair", f"returns a tuple, not a tensor{NEEDED}"),
        ("named", f"returns a dict with keys ['logits'], not a tensor{NEEDED}"),
        ("nothing", f"returns None, not a tensor{NEEDED}"),
        ("array", f"returns a ndarray, not a tensor{NEEDED}"),
        ("flat", f"outputs have shape (2,) for 2 images, not (2, classes){NEEDED}"),
        ("one", f"outputs have shape (2, 1) for 2 images, not (2, classes){NEEDED}"),
        ("row", f"outputs have shape (1, 4) for 2 images, not (2, classes){NEEDED}"),
        (
            "narrow",
            "outputs have shape (2, 2) for labels 0 to 3: need (n, classes) logits, a class for each label",
        ),
        ("leaves", f"fails on images (2, 1, 4, 4) of float32 on cpu (SystemExit: 0, users_model.py line 21){NEEDED}"),
        (
            "fixed",
            "fails on images (60, 1, 4, 4) of float32 on cpu (ZeroDivisionError: division by zero, users_model.py line "
            f"48){NEEDED}",
        ),
        ("sparse", f"returns a tensor of float32, layout sparse_coo, on cpu{NEEDED}"),
        ("complex", f"returns a tensor of complex64, layout strided, on cpu{NEEDED}"),
        ("wants", f"the function wants arguments (missing a required argument: 'path'){FORM}"),
        ("raises", rf"the function fails (SystemExit: no\nmore, users_model.py line 56){FORM}"),
        ("inferred", "made under torch.inference_mode, so that it has no gradients: make it outside"),
        ("number", f"is a int, not a function{FORM}"),
        ("none", "no none in module users_model (AttributeError: module 'users_model' has no attribute 'none', "),
        ("nowhere:model", "the module nowhere cannot be imported, from "),
        ("nowhere.pt", f"no such file, and no module:function either{FORM}"),
    ],
)
def test_what_is_no_model_is_one_line(own, capsys, name, message):
    with pytest.raises(SystemExit) as stopped:
        attack(name)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    said = line.partition(" attack: ")[2]
    entry = "" if message == NAN else f"{name}: " if ":" in name or "." in name else f"users_model:{name}: "
    if name.startswith("no") and message.endswith(" "):  # lines of other code are in it
        assert said.startswith(f"{entry}{message}")
        assert said.endswith(FORM)
    else:
        assert said == f"{entry}{message}"
    assert not Path("out.parquet").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"flags": "out.parquet"}, "both"),
        ({"out": "./x/../flags.parquet"}, "both"),
        ({"images": "out.parquet"}, "ends in .safetensors"),
        ({"log": "images.npz"}, "both"),
        ({"out": "."}, "is a folder"),
        ({"out": "images.npz/x.parquet"}, "cannot be written"),
        ({"out": "n" * 250 + ".parquet"}, "cannot be written"),
        ({"out": "~nosuchuser/x.parquet"}, "no such user"),
        ({"batch-size": 0}, "--batch-size 0"),
        ({"threads": 0}, "--threads 0"),
        ({"threads": 100_000}, "--threads 100000"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**63}, "--seed"),
        ({"seed": "x\ny"}, "--seed"),
        ({"device": "meta"}, "no such device"),
        ({"device": "cuda:99"}, "GPUs"),
        ({"eps": "nan"}, "--eps nan"),
        ({"eps": 0}, "--eps 0"),
        ({"eps": 1.01}, "--eps 1.01"),
        ({"eps": 4.01, "norm": "l2"}, "to 4"),
        ({"norm": "l1"}, "norm"),
        ({"ensemble": "slow"}, "ensemble"),
    ],
)
def test_flags_out_of_range_are_one_line(own, capsys, changed, message):
    with pytest.raises(SystemExit) as stopped:
        attack("honest", **changed)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# -- resuming


WEIGHTED = """
class Weighted(Linear):
    def __init__(self):
        super().__init__(None)
        self.weight = nn.Parameter(W)
        self.random = torch.Generator().manual_seed(0)

    def forward(self, x):
        z = (x.flatten(1) - 0.5) @ self.weight.T
        return {}

clean = lambda x: ((x * 256) == (x * 256).round()).flatten(1).all(1)[:, None]
"""


@pytest.fixture
def attacked(own, monkeypatch):
    """Attack a model of the same weights that returns what ``text`` says, in three batches; return how many it began.

    stop: the batch in which Ctrl-C is pressed.
    """
    import bat.evaluation.stage

    once = bat.evaluation.stage.attack_samples

    def attacked(text, stop=None):
        begun = []

        def counted(*given, **options):
            begun.append(given)
            if len(begun) == stop:
                raise KeyboardInterrupt
            return once(*given, **options)

        Path("users_model.py").write_text(MODULE + WEIGHTED.format(text))
        sys.modules.pop("users_model", None)
        # an edit within a second, of the same length, is another file to Python only so
        importlib.invalidate_caches()
        shutil.rmtree("__pycache__", ignore_errors=True)
        with monkeypatch.context() as patched:
            patched.setattr(bat.evaluation.stage, "attack_samples", counted)
            # an eps at which the attacks are soon done
            flags = {"batch-size": 20, "eps": 0.1, "log": "own.log"}
            if stop:
                with pytest.raises(SystemExit) as stopped:
                    attack("Weighted", **flags)
                assert stopped.value.code == 130
                assert not Path("out.parquet").exists()
            else:
                attack("Weighted", **flags)
        return len(begun)

    return attacked


ANEW = "out.parquet.parts: left by another model, or by a random one: starts anew"


@pytest.mark.parametrize("text", ["z", "z * (1 + 1e-7)", "z.detach()"])
def test_the_same_model_to_rounding_goes_on_after_its_finished_batches(attacked, text):
    attacked("z" if "1e-7" in text else text, stop=3)
    assert attacked(text) == 1
    assert ANEW not in Path("own.log").read_text()
    assert not Path("out.parquet.parts").exists()
    resumed = pd.read_parquet("out.parquet")
    assert attacked(text) == 3
    pd.testing.assert_frame_equal(pd.read_parquet("out.parquet"), resumed)


@pytest.mark.parametrize(
    "text",
    [
        "-z",
        "z.flip(1)",
        "torch.where(clean(x), z, 2 * z)",
        "torch.where(clean(x), z, z.roll(1, 1))",
        # the same outputs everywhere
        "z.detach()",
        "z + (z - z.detach())",
    ],
)
def test_an_edited_model_of_the_same_weights_starts_anew(attacked, text):
    attacked("z", stop=3)
    assert attacked(text) == 3
    assert ANEW in Path("own.log").read_text()
    resumed = pd.read_parquet("out.parquet")
    assert attacked(text) == 3
    pd.testing.assert_frame_equal(pd.read_parquet("out.parquet"), resumed)


# also one that draws the same numbers in each process, and so says the same at its start
@pytest.mark.parametrize("more", ["", ", generator=self.random"])
def test_a_random_model_starts_anew(attacked, more):
    text = f"z + 1e-2 * torch.randn(z.shape{more})"
    attacked(text, stop=3)
    assert attacked(text) == 3
    assert ANEW in Path("own.log").read_text()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_what_the_model_said_is_needed_to_go_on(attacked, damage):
    attacked("z", stop=3)
    damage(Path("out.parquet.parts/said.safetensors"))
    assert attacked("z") == 3
    assert ANEW in Path("own.log").read_text()


def test_a_damaged_batch_alone_is_made_anew(attacked):
    attacked("z", stop=3)
    Path("out.parquet.parts/0000.safetensors").write_bytes(b"x")
    assert attacked("z") == 2
    assert "0000.safetensors: damaged" in Path("own.log").read_text()


def test_nan_and_infinity_are_never_right():
    logits = torch.tensor([[torch.nan, 0], [torch.inf, 0], [1, -torch.inf], [1, 0]])
    labels = torch.zeros(4, dtype=torch.long)
    assert predictions(logits).tolist() == [-1, -1, -1, 0]
    assert (label_margin(logits, labels) > 0).tolist() == [False, False, False, True]


def test_gradients_that_are_nan_move_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    x = torch.zeros(3, 1, 2, 2)
    _, _, gradient = ascent(lambda x: model(x.sqrt()), x, torch.zeros(3, dtype=torch.long), cross_entropy)
    assert gradient.isfinite().all()


def test_memory_that_does_not_suffice_names_the_key(own, capsys, monkeypatch):
    def full(self, x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Judged, "forward", full)
    with pytest.raises(SystemExit) as stopped:
        attack("honest")
    assert stopped.value.code == 2
    assert "lower --batch-size" in capsys.readouterr().err


def test_a_traceback_is_in_the_log(own, monkeypatch):
    import bat.evaluation.attack

    def fails(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(bat.evaluation.attack, "probe", fails)
    with pytest.raises(RuntimeError):
        attack("honest", log="own.log")
    assert "Traceback" in Path("own.log").read_text()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_script_that_writes_files_is_not_run(own, capsys):
    class Saves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "written")
            return x.flatten(1)

    torch.jit.save(torch.jit.script(Saves()), "saves.pt")
    with pytest.raises(SystemExit):
        attack("saves.pt")
    assert "calls save" in capsys.readouterr().err
    assert not Path("written").exists()


def test_help_to_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m bat attack --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=os.environ, check=False)
    assert done.stderr == ""


# -- a model and images in memory: arguments, and what is done with them


def test_the_plan_has_pgd_of_twenty_steps_of_an_eighth_of_eps_beside_the_ensemble():
    plan = attack_plan("l2", 0.5, "standard", seed=3, batch_size=7, where="here")
    assert plan.threat == Threat(norm="l2", eps=0.5)
    assert plan.pgd == EvaluationPgd(name="pgd", steps=20, step_size=0.0625, restarts=1)
    assert (plan.ensemble, plan.seed, plan.batch_size) == ("standard", 3, 7)
    assert attack_plan("l2", 0.5, [{"name": "pgd", "step_size": 0.1}], seed=0, batch_size=1, where="").ensemble == (
        EvaluationPgd(step_size=0.1),
    )
    assert (
        refusal(lambda: attack_plan("l2", 0.5, "standard", seed=0, batch_size=0, where="here"))
        == "here: batch_size: 0 is under 1, the least: raise it"
    )


SIXTEEN = Part(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), torch.arange(2), 1)


@pytest.mark.parametrize(
    ("norm", "eps", "part"),
    [("linf", 1e-6, None), ("linf", 1.0, None), ("linf", 1.0, SIXTEEN), ("l2", 4.0, SIXTEEN), ("l2", 1e9, None)],
)
def test_every_eps_that_images_can_be_perturbed_by_is_taken(norm, eps, part):
    check_threat("--", norm, eps, part)


@pytest.mark.parametrize(
    ("norm", "eps", "part", "message"),
    [
        ("linf", 0.9e-6, None, "9e-07: give a number from 1e-06 to 1, for pixels in [0, 1] and linf"),
        ("linf", 1.125, SIXTEEN, "1.125: give a number from 1e-06 to 1, for pixels in [0, 1] and linf"),
        ("linf", float("nan"), None, "nan: give a number from 1e-06 to 1, for pixels in [0, 1] and linf"),
        ("l2", 4.125, SIXTEEN, "4.125: give a number from 1e-06 to 4, for pixels in [0, 1] and l2"),
        ("l2", float("inf"), None, "inf: give a number from 1e-06 to inf, for pixels in [0, 1] and l2"),
    ],
)
def test_an_eps_that_no_image_can_be_perturbed_by_is_one_line(norm, eps, part, message):
    assert refusal(lambda: check_threat("--", norm, eps, part)) == f"--eps {message}"


def test_bytes_are_images_as_they_are_and_floats_are_float32():
    x, y = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2).transpose(0, 3, 1, 2), np.array([2, 0, 1], dtype=np.int32)
    part = as_part(x, y, "here")
    assert part.pixels.tolist() == x.tolist()
    assert (part.pixel_max, part.pixels.dtype, part.labels.dtype) == (255, torch.uint8, torch.int64)
    assert (part.labels.tolist(), part.index.tolist()) == ([2, 0, 1], [0, 1, 2])
    part = as_part(x / 23, y, "here")
    assert (part.pixel_max, part.pixels.dtype) == (1, torch.float32)
    assert torch.equal(part.pixels, torch.from_numpy(np.ascontiguousarray(x)).double().div(23).float())
    assert part.pixels.is_contiguous()
    assert (part.labels.tolist(), part.index.tolist()) == ([2, 0, 1], [0, 1, 2])


ONE = np.full((2, 1, 1, 1), 0.5)
NEED = "need (n, c, h, w) and (n,) integers, all at least 1"
FLOATS = "need uint8, or floats in [0, 1], none missing"


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (ONE[0], [0], f"x has shape (1, 1, 1) and y (1,) of int64: {NEED}"),
        (ONE[:0], [], f"x has shape (0, 1, 1, 1) and y (0,) of float64: {NEED}"),
        (ONE, [0], f"x has shape (2, 1, 1, 1) and y (1,) of int64: {NEED}"),
        (ONE, [0.0, 1.0], f"x has shape (2, 1, 1, 1) and y (2,) of float64: {NEED}"),
        (ONE, [0, -1], "y has the class -1: number the classes from 0"),
        (ONE.astype(np.uint8) + 1, [0, 1], "x is uint8 from 1 to 1: give 0 to 255, or floats in [0, 1]"),
        (ONE.astype(np.uint8), [0, 1], "x is uint8 from 0 to 0: give 0 to 255, or floats in [0, 1]"),
        (ONE.astype(np.int64), [0, 1], f"x is int64 from 0 to 0: {FLOATS}"),
        (ONE > 0, [0, 1], f"x is bool from True to True: {FLOATS}"),
        (ONE.astype(np.uint16), [0, 1], f"x is uint16 from 0 to 0: {FLOATS}"),
        (ONE.astype(complex), [0, 1], f"x is complex128: {FLOATS}"),
        (ONE - [[[[0.75]]], [[[0.0]]]], [0, 1], f"x is float64 from -0.25 to 0.5: {FLOATS}"),
        (ONE - [[[[-0.75]]], [[[0.0]]]], [0, 1], f"x is float64 from 0.5 to 1.25: {FLOATS}"),
        (ONE * np.nan, [0, 1], f"x is float64 from nan to nan: {FLOATS}"),
    ],
)
def test_what_are_no_images_is_one_line(x, y, message):
    assert refusal(lambda: as_part(x, np.array(y), "here")) == f"here: {message}"


def test_images_at_the_ends_are_taken():
    assert as_part(np.array([0.0, 1.0]).reshape(2, 1, 1, 1), np.array([0, 1]), "").pixels.flatten().tolist() == [0, 1]
    assert as_part(np.array([0, 2], dtype=np.uint8).reshape(2, 1, 1, 1), np.array([0, 1]), "").pixel_max == 255


class Halves(nn.Module):
    """Two logits of one pixel, computed by a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.tensor(0.5))

    def forward(self, x):
        return torch.cat([x.flatten(1), self.level.expand(len(x), 1)], 1)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_what_attacks_are_given_and_what_is_told_of_them(monkeypatch, kind):
    asked, flagged = [], []

    def attacked(model, part, rows, **given):
        asked.append((model, rows.tolist(), given))
        return {
            "predicted": part.labels[rows],
            "pgd_correct": rows > 0,
            "broken_by": torch.where(rows == 1, 0, -1),
            "margin": rows + 0.5,
            "x_adv": part.images(rows) + 0.125,
            "nonfinite": rows != 1,
        }

    def flags(model, part, table, **given):
        flagged.append((model, part, table, given))
        return pd.DataFrame({"flag": ["x"]})

    def probed(model, part, batch_size):
        flagged.append((model, part, batch_size))
        return before

    before = Probe(torch.zeros(3, 2), 0.0, 0.0)
    for name, stand in (("attack_samples", attacked), ("find_flags", flags), ("probe", probed)):
        monkeypatch.setattr(bat.evaluation.direct, name, stand)
    model, x, y = Halves(), kind([[[[0.75]]], [[[0.5]]], [[[0.25]]]]), kind([0, 0, 1])
    if kind is torch.tensor:
        x.requires_grad_()
    found = attack_model(model, x, y, norm="l2", eps=0.25, ensemble="standard", seed=3, batch_size=2)
    assert found.clean_correct.tolist() == [True, True, True]
    assert found.robust_correct.tolist() == [True, False, True]
    assert found.x_adv.flatten().tolist() == [0.875, 0.625, 0.375]
    assert found.table["broken_by"].tolist()[1] == "apgd_ce"
    assert found.table["tier"].tolist() == ["standard"] * 3
    assert found.table["label"].tolist() == [0, 0, 1]
    assert found.flags.equals(pd.DataFrame({"flag": ["x"]}))
    pgd = EvaluationPgd(name="pgd", steps=20, step_size=0.03125, restarts=1)
    given = {"threat": Threat(norm="l2", eps=0.25), "pgd_attack": pgd, "ensemble": STANDARD, "seed": 3}
    assert [each[1:] for each in asked] == [([0, 1], given), ([2], given)]
    (judged, probed_part, batch_size), (flagged_model, part, table, given) = flagged
    assert isinstance(judged, Judged)
    assert judged.inner is model
    assert judged.entry == "Halves"
    assert {id(each[0]) for each in asked} == {id(judged)} == {id(flagged_model)}
    assert probed_part is part
    assert part.images().flatten().tolist() == [0.75, 0.5, 0.25]
    assert table["margin"].tolist() == [0.5, 1.5, 2.5]
    assert given.pop("ensemble") == STANDARD
    assert given == {"batch_size": 2, "before": before, "nonfinite": 2}
    assert batch_size == 2


@pytest.mark.parametrize(("kind", "device"), [("parameter", "meta"), ("buffer", "meta"), ("nothing", "cpu")])
def test_images_go_where_the_model_is(monkeypatch, kind, device):
    model, tensor = nn.Flatten(), torch.zeros(1, device="meta")
    if kind == "parameter":
        model.weight = nn.Parameter(tensor)
    elif kind == "buffer":
        model.register_buffer("level", tensor)
    seen = []
    monkeypatch.setattr(
        bat.evaluation.direct, "check_outputs", lambda model, part, *_: seen.append(part.labels.device.type) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        attack_model(model, ONE, np.array([0, 1]), norm="linf", eps=0.25)
    assert seen == [device]


def test_by_default_the_fast_attacks_run_in_batches_of_256_by_seed_0(monkeypatch):
    asked = []
    plan = bat.evaluation.direct.attack_plan
    monkeypatch.setattr(
        bat.evaluation.direct,
        "attack_plan",
        lambda *given, **named: asked.append((given, named)) or plan(*given, **named),
    )
    pixels = torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4)
    network = build(SizedModel(name="mlp", width=2), replace(SIXTEEN, pixels=pixels, pixel_max=255), classes=2, seed=0)
    judged = []
    monkeypatch.setattr(bat.evaluation.direct, "probe", lambda model, *_: judged.append(model) or 1 / 0)
    x, y = np.full((2, 1, 4, 4), 0.5), np.zeros(2, dtype=int)
    with pytest.raises(ZeroDivisionError):
        attack_model(network, x, y, norm="linf", eps=0.25)
    assert asked == [(("linf", 0.25, "fast"), {"seed": 0, "batch_size": 256, "where": "bat.attack"})]
    assert judged == [network]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": 2}, "eps 2: give a number from 1e-06 to 1, for pixels in [0, 1] and linf"),
        ({"norm": "l2", "eps": 1.5}, "eps 1.5: give a number from 1e-06 to 1, for pixels in [0, 1] and l2"),
        ({"eps": "8/255"}, "eps '8/255': give a number, for pixels in [0, 1]"),
        ({"eps": None}, "eps None: give a number, for pixels in [0, 1]"),
        ({"model": len}, "bat.attack: model is a builtin_function_or_method: give a torch.nn.Module"),
        (
            {"x": torch.zeros(2, 1, 1, 1).to_sparse()},
            "bat.attack: x is a tensor of layout sparse_coo: give a dense one",
        ),
        ({"seed": {1}}, "bat.attack: not JSON ({1} is no number or text)"),
        (
            {"ensemble": [{"name": "square", "queries": 1}, {"name": "square", "queries": 9}]},
            "bat.attack: ensemble: has an attack twice: square, square; give it more restarts",
        ),
        ({"x": ONE[0]}, f"bat.attack: x has shape (1, 1, 1) and y (2,) of int64: {NEED}"),
        (
            {"y": np.array([0, 2])},
            "Halves: outputs have shape (2, 2) for labels 0 to 2: need (n, classes) logits, a class for each label",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(changed, message):
    given = {"model": Halves(), "x": ONE, "y": np.array([0, 1]), "norm": "linf", "eps": 0.25}
    assert refusal(lambda: attack_model(**given | changed)) == message


def test_numbers_of_numpy_and_images_in_bfloat16_are_taken():
    images = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    plain = attack_model(Halves(), images, np.array([0, 0]), norm="linf", eps=0.25, seed=3, batch_size=2)
    entry = {"name": "square", "queries": np.int64(2), "p_init": np.float32(0.5)}
    for x, ensemble in ((images.bfloat16(), "fast"), (images, [entry])):
        found = attack_model(
            Halves(), x, np.array([0, 0]), norm="linf", eps=np.float32(0.25), seed=np.int64(3),
            batch_size=np.int16(2), ensemble=ensemble,
        )  # fmt: skip
        assert found.clean_correct.tolist() == plain.clean_correct.tolist() == [False, True]


def test_inference_mode_around_an_attack_changes_nothing():
    random = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model[1].weight.data = torch.randn(3, 16, generator=random)
    with torch.inference_mode():
        inferred = torch.rand(30, 1, 4, 4, generator=random)
    images, labels = torch.from_numpy(inferred.numpy().copy()), model(inferred.clone()).argmax(1)
    plain = attack_model(model, images, labels, norm="linf", eps=0.1)
    with torch.inference_mode():
        found = attack_model(model, inferred, labels, norm="linf", eps=0.1)
        assert torch.is_inference_mode_enabled()
    assert 0 < plain.robust_correct.mean() < 1
    pd.testing.assert_frame_equal(found.table, plain.table)
    pd.testing.assert_frame_equal(found.flags, plain.flags)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    given = {"norm": "linf", "eps": 0.25}
    said = "Sequential: made under torch.inference_mode, so that it has no gradients: make it outside"
    assert refusal(lambda: attack_model(model, ONE, np.array([0, 1]), **given)) == said


def test_that_there_are_no_gradients_is_a_warning():
    class Once(Halves):
        def forward(self, x):
            return Backwards.apply(super().forward(x))

    said = "^attacked without gradients, so that only Square's result counts: .*ZeroDivisionError: backwards"
    with pytest.warns(UserWarning, match=said):
        attack_model(Once(), ONE, np.array([0, 1]), norm="linf", eps=0.25)


# -- the command around a model, and attacks, that are made up


class Pixels(nn.Module):
    """Two logits of images of two pixels, of which the second is turned; counts what it is asked with a gradient."""

    def __init__(self, turned=1.0):
        super().__init__()
        self.turned = nn.Parameter(torch.tensor(turned))
        self.asked = []

    def forward(self, x):
        self.asked.append((len(x), torch.is_grad_enabled(), self.training))
        return x.flatten(1) ** 2 * torch.stack([torch.ones(()), self.turned])


BEFORE = Probe(torch.tensor([[0.5, 0.25]]), 0.0, 0.0)


def rows_of(kind, n, **columns):
    """Rows of a kind of table, as attacks would give them."""
    empty = {pa.string(): "x", pa.int64(): 0, pa.float64(): 0.5, pa.bool_(): False}
    rows = {field.name: [empty[field.type]] * n for field in SCHEMAS[kind]} | columns
    return pd.DataFrame(rows).drop(columns=["method", "seed", "checkpoint"])


class Command:
    """Calls ``bat attack`` with stand-ins for all that reads a model, looks at it and attacks it."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.model, self.before, self.no_gradient = folder, Pixels(), BEFORE, None
        self.read, self.checked, self.probed, self.attacked, self.kept, self.said = [], [], [], [], [], None
        self.parts = folder / "out.parquet.parts"
        for name in ("read_own_model", "check_outputs", "probe", "attack_all"):
            monkeypatch.setattr(bat.evaluation.attack, name, getattr(self, f"_{name}"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.chdir(folder)
        x = np.arange(6, dtype=np.uint8).reshape(3, 1, 1, 2) * 51
        np.savez(folder / "images.npz", x=x, y=np.array([1, 0, 1]))
        self.journal = Lines()

    def _read_own_model(self, *given):
        self.read.append(given)
        (self.folder / "elsewhere").mkdir(exist_ok=True)
        os.chdir(self.folder / "elsewhere")
        return self.model

    def _check_outputs(self, *given):
        self.checked.append(given)
        return self.no_gradient

    def _probe(self, *given):
        self.probed.append(given)
        return self.before

    def _attack_all(self, *given):
        self.attacked.append(given)
        self.kept = sorted(path.name for path in given[4].iterdir())
        self.said = read_tensors(self.parts / "said.safetensors", "said")
        right = {"clean_correct": [True, True, True], "pgd_correct": [True, True, False]}
        table = rows_of("attacked", 3, **right, robust_correct=[True, False, False], tier=["fast"] * 3)
        return table, rows_of("flags", 2), torch.full((3, 1, 1, 2), 0.75)

    def __call__(self, **changed):
        given = {"model": "users:model", "data": Path("images.npz"), "norm": "l2", "eps": 0.25, "ensemble": "fast"}
        os.chdir(self.folder)
        outputs = {"out": Path("out.parquet"), "flags": Path("flags.parquet")}
        bat.evaluation.attack.attack(self.journal, **given | outputs | changed)
        return self.attacked[-1]


@pytest.fixture
def command(tmp_path, monkeypatch):
    return Command(tmp_path, monkeypatch)


def test_the_command_writes_what_attacks_find(command):
    options = {"architecture": "mlp:4", "batch_size": 2, "seed": 3, "device": "cpu", "images": Path("x.safetensors")}
    journal, model, part, plan, folder, about, before = command(**options)
    assert journal is command.journal
    assert model is command.model
    assert before is BEFORE
    assert part.images().flatten().tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert part.labels.tolist() == [1, 0, 1]
    assert folder == command.parts
    assert plan == attack_plan("l2", 0.25, "fast", seed=3, batch_size=2, where="")
    digest = hashlib.sha256(b"torch.uint8 (3, 1, 1, 2)" + bytes(range(0, 306, 51)) + np.array([1, 0, 1]).tobytes())
    weights = weights_digest(command.model, "")
    facts = {"spec": json.loads(json.dumps(asdict(plan))), "model": "users:model", "weights": weights}
    facts |= {"data": digest.hexdigest(), "logits": hashlib.sha256(np.float32([0.5, 0.25]).tobytes()).hexdigest()}
    assert json.loads(json.dumps(about)) == facts  # with the logits, which are added when the attacks are done
    assert command.read == [("users:model", "mlp:4", part, torch.device("cpu"))]
    assert command.checked == [(model, part, 2, "users:model")]
    assert command.probed == [(model, part, 2)]
    table, read = read_table_with_facts(command.folder / "out.parquet", "attacked")
    assert {name: read[name] for name in facts} == facts
    assert table["robust_correct"].tolist() == [True, False, False]
    flags, read = read_table_with_facts(command.folder / "flags.parquet", "flags")
    assert {name: read[name] for name in facts} == facts
    for each in (table, flags):
        assert set(each["method"]) == {"users:model"}
        assert each[["seed", "checkpoint"]].isna().all(axis=None)
    images, read = read_tensors(command.folder / "x.safetensors", "images")
    assert {name: read[name] for name in facts} == facts
    assert torch.equal(images["x_adv"], torch.full((3, 1, 1, 2), 0.75))
    assert command.journal.lines == ["3 images, l2 0.25: clean 100.00 %, PGD-20 66.67 %, fast 33.33 %"]
    assert command.kept == ["said.safetensors"]
    assert not command.parts.exists()


def test_defaults_of_the_command(command):
    arguments = {"model": "users:model", "data": Path("images.npz"), "norm": "linf", "eps": 0.25}
    outputs = {"out": command.folder / "out.parquet", "flags": command.folder / "flags.parquet"}
    bat.evaluation.attack.attack(command.journal, **arguments | outputs)
    assert command.attacked[0][3] == attack_plan("linf", 0.25, "standard", seed=0, batch_size=256, where="")
    assert command.read[0][1] is None
    assert {path.name for path in command.folder.iterdir()} == {
        "elsewhere",
        "flags.parquet",
        "images.npz",
        "out.parquet",
    }


def test_a_model_without_gradient_is_told(command):
    command.no_gradient = "it has none"
    command()
    assert command.journal.lines[0] == ("attacked without gradients, so that only Square's result counts: it has none")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": 0.0}, "--eps 0: give a number from 1e-06 to inf, for pixels in [0, 1] and l2"),
        ({"eps": 1.5}, "--eps 1.5: give a number from 1e-06 to 1.41421, for pixels in [0, 1] and l2"),
        ({"eps": 1.5, "norm": "linf"}, "--eps 1.5: give a number from 1e-06 to 1, for pixels in [0, 1] and linf"),
        ({"batch_size": 0}, "command line: batch_size: 0 is under 1, the least: raise it"),
        ({"device": "abacus"}, "--device abacus: no such device: give auto, cpu, cuda or cuda:1, ..."),
    ],
)
def test_what_the_command_cannot_do_is_one_line(command, changed, message):
    assert refusal(lambda: command(**changed)) == message
    assert not command.attacked


def test_images_that_are_none_name_the_file(command):
    np.savez("images.npz", x=np.zeros((3, 1, 2)), y=np.array([1, 0, 1]))
    assert refusal(command) == (
        "images.npz: x has shape (3, 1, 2) and y (3,) of int64: need (n, c, h, w) and (n,) integers, all at least 1"
    )


def test_a_folder_of_parts_that_is_none_is_not_removed(command):
    command.parts.write_text("x")
    assert refusal(command) == (
        f"{command.parts}: is a file, where finished batches are to be kept: choose another --out"
    )
    command.parts.unlink()
    for name in ("0.txt", "x0000.safetensors", "0000.safetensorsx", "said_safetensors", "0000.safetensors.backup"):
        command.parts.mkdir()
        (command.parts / name).touch()
        assert refusal(command) == (
            f"{command.parts / name}: not of an unfinished attack: choose another --out, or remove it"
        )
        shutil.rmtree(command.parts)
    assert not command.attacked


FINISHED = ["0000.safetensors", ".0001.safetensors.123.tmp"]


def leave(command):
    """What an unfinished run of the model leaves: what it said, and batches."""
    command.parts.mkdir(exist_ok=True)
    part = as_part(np.arange(6, dtype=np.uint8).reshape(3, 1, 1, 2) * 51, np.array([1, 0, 1]), "")
    x = part.images()
    random = uniform(derive_seed(0, "said"), torch.arange(3), (1, 1, 2))
    start = random_start(x, random, norm="l2", eps=0.25)
    _, logits, gradient = ascent(Pixels(), start, part.labels, cross_entropy)
    said = {"clean": BEFORE.logits, "perturbed": logits, "gradient": gradient}
    write_tensors(command.parts / "said.safetensors", said, provenance("said"))
    for name in FINISHED:
        (command.parts / name).touch()
    return said


def test_finished_batches_of_a_model_that_says_the_same_are_kept(command):
    leave(command)
    command()
    assert command.kept == sorted([*FINISHED, "said.safetensors"])
    assert len(command.journal.lines) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda command: setattr(command, "model", Pixels(0.5)),
        lambda command: setattr(command, "before", BEFORE._replace(logits=BEFORE.logits + 1e-3)),
        lambda command: setattr(command, "before", BEFORE._replace(random=1e-3)),
        lambda command: (command.parts / "said.safetensors").unlink(),
        lambda command: (command.parts / "said.safetensors").write_bytes(b"x"),
        lambda command: write_tensors(command.parts / "said.safetensors", leave(command), provenance("part")),
        lambda command: write_tensors(
            command.parts / "said.safetensors", leave(command) | {"more": torch.ones(1)}, provenance("said")
        ),
    ],
    ids=["other weights", "other outputs", "random", "none said", "damaged", "another kind", "more said"],
)
def test_batches_of_another_model_are_removed(command, change):
    leave(command)
    change(command)
    command()
    assert command.kept == ["said.safetensors"]
    line = f"{command.parts}: left by another model, or by a random one: starts anew"
    assert command.journal.lines[0] == line
    assert len(command.journal.lines) == 2


def test_nothing_starts_anew_where_nothing_was_left(command):
    command.before = BEFORE._replace(random=1.0)
    command()
    assert len(command.journal.lines) == 1


def test_what_is_kept_is_what_the_model_said(command):
    expected = leave(command)
    shutil.rmtree(command.parts)
    command(batch_size=2)
    said, facts = command.said
    assert said.keys() == expected.keys()
    # in the first batch with a gradient, in others without
    assert command.model.asked == [(2, True, False), (1, False, False)]
    assert torch.equal(said["clean"], expected["clean"])
    torch.testing.assert_close(said["perturbed"], expected["perturbed"])
    torch.testing.assert_close(said["gradient"], expected["gradient"][:2])
    assert facts["model"] == "users:model"


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0 + 1.5e-5, 2.0], True),  # rounding is of the largest
        ([1.0, 2.0], [1.0 + 2.5e-5, 2.0], False),
        ([-2.0, 1.0], [-2.0, 1.0 + 1.5e-5], True),
        ([0.0, torch.nan], [0.0, torch.nan], True),
        ([torch.nan], [torch.nan], True),
        ([torch.inf, 1.0], [torch.inf, 1.0 + 2e-5], False),
        ([torch.inf, 1.0], [torch.inf, 1.0 + 0.5e-5], True),
        ([0.0, torch.nan], [torch.nan, 0.0], False),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_tensors_agree_to_rounding(one, other, agree):
    first, second = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    assert bat.evaluation.attack._agree(first, second) == agree
    assert not bat.evaluation.attack._agree(first, second.float())


# -- a model that is called, read and looked at directly


class Calls(nn.Module):
    """A model that is one function of the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def judged_by(function, classes=0):
    model = Judged(Calls(function), "users:model")
    model.classes = classes
    return model


TWO = torch.tensor([[0.25, 0.5], [0.75, 0.5]]).view(2, 1, 1, 2)


class Own(torch.Tensor):
    """A tensor of a kind of its own."""


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda z: z, torch.float32),
        (lambda z: z.half(), torch.float32),
        (lambda z: z.bfloat16(), torch.float32),
        (lambda z: z.double(), torch.float64),
        (lambda z: (4 * z).long(), torch.float64),
        (lambda z: z.as_subclass(Own), torch.float32),
    ],
)
def test_outputs_are_logits_of_one_precision(change, dtype):
    first = []
    model = judged_by(lambda x: z if (z := x.flatten(1)) is None or first else change(z))
    found = model(TWO)
    assert (found.dtype, type(found)) == (dtype, torch.Tensor)
    assert found.tolist() == change(TWO.flatten(1)).tolist()
    first.append(True)
    assert model(TWO).dtype == dtype  # as at the first call


def test_images_and_outputs_are_copies():
    kept = TWO.flatten(1).clone()

    def inplace(x):
        x.zero_()
        return kept

    before = TWO.clone()
    judged_by(inplace)(TWO).fill_(7)
    assert torch.equal(TWO, before)
    assert torch.equal(kept, before.flatten(1))


@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_model_runs_with_a_gradient_where_it_has_one(differentiable, enabled):
    seen = []
    model = judged_by(lambda x: seen.append((torch.is_grad_enabled(), x.requires_grad)) or x.flatten(1))
    model.differentiable = differentiable
    x = TWO.clone().requires_grad_()
    with torch.set_grad_enabled(enabled):
        model(x)
        assert torch.is_grad_enabled() == enabled
    assert seen == [(differentiable and enabled,) * 2]


def test_a_model_without_a_gradient_has_none_by_ways_of_its_own():
    model = judged_by(torch.enable_grad()(lambda x: 2 * x.flatten(1)))
    x = TWO.clone().requires_grad_()
    assert model(x).requires_grad
    model.differentiable = False
    assert not model(x).requires_grad


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: (z, z), "returns a tuple, not a tensor"),
        (lambda z: {"a": z, "b": z}, "returns a dict with keys ['a', 'b'], not a tensor"),
        (lambda z: dict.fromkeys(range(200)), f"returns a dict with keys {str([*range(200)])[:97]}..., not a tensor"),
        (lambda z: None, "returns None, not a tensor"),
        (lambda z: z.numpy(), "returns a ndarray, not a tensor"),
        (lambda z: z.to_sparse(), "returns a tensor of float32, layout sparse_coo, on cpu"),
        (lambda z: z + 0j, "returns a tensor of complex64, layout strided, on cpu"),
        (lambda z: z.to("meta"), "returns a tensor of float32, layout strided, on meta"),
        (
            lambda z: torch.quantize_per_tensor(z, 0.1, 0, torch.quint8),
            "returns a tensor of quint8, layout strided, on cpu",
        ),
        (
            lambda z: torch.nested.nested_tensor([z[0], z[1]]),
            "returns a tensor of float32, layout strided, on cpu",
        ),
        (lambda z: z[:, 0], "outputs have shape (2,) for 2 images, not (2, classes)"),
        (lambda z: z[:1], "outputs have shape (1, 2) for 2 images, not (2, classes)"),
        (lambda z: z[:, :1], "outputs have shape (2, 1) for 2 images, not (2, classes)"),
        (lambda z: z[..., None], "outputs have shape (2, 2, 1) for 2 images, not (2, classes)"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:torch.quantize_per_tensor")
def test_outputs_that_are_no_logits_are_one_line(function, message):
    model = judged_by(lambda x: function(x.flatten(1)))
    assert refusal(model, TWO) == f"users:model: {message}{NEEDED}"


def test_outputs_of_other_classes_are_one_line():
    model = judged_by(lambda x: x.flatten(1), classes=3)
    assert refusal(model, TWO) == f"users:model: outputs have shape (2, 2) for 2 images, not (2, 3){NEEDED}"
    assert judged_by(lambda x: x.flatten(1), classes=2)(TWO).shape == (2, 2)


class Fails(torch.Tensor):
    """An output that fails when it is looked at."""

    @classmethod
    def __torch_function__(cls, *_, **__):
        raise ZeroDivisionError


@pytest.mark.parametrize("function", [lambda x: 1 / 0, lambda x: torch.zeros(2, 2).as_subclass(Fails)])
def test_what_fails_in_a_model_is_one_line(function):
    said = refusal(judged_by(function), TWO)
    assert said.startswith("users:model: fails on images (2, 1, 1, 2) of float32 on cpu (ZeroDivisionError")
    assert said.endswith(NEEDED)


def test_a_mode_that_fails_is_one_line():
    model = judged_by(lambda x: x.flatten(1))
    assert model.train(False) is model
    assert not model.inner.training
    model.inner.train = lambda mode: 1 / 0
    for given, said in ((), "True"), ((False,), "False"):
        assert refusal(model.train, *given).startswith(f"users:model: its train({said}) fails (ZeroDivisionError: ")


def test_a_judged_model_is_in_the_mode_it_came_in():
    for training in (True, False):
        model = Judged(nn.Identity().train(training), "x")
        assert (model.training, model.classes, model.differentiable, model.kind) == (training, 0, True, None)


# -- read


def test_a_model_is_read_by_what_names_it(own, monkeypatch):
    part, cpu = Part(TWO, torch.tensor([0, 1]), torch.arange(2), 1), torch.device("cpu")
    asked = []
    weights = nn.Linear(2, 2)
    monkeypatch.setattr(bat.evaluation.own_model, "read_weights", lambda *given: asked.append(given) or weights)
    assert bat.evaluation.own_model.read_own_model("x.safetensors", "mlp:4", part, torch.device("meta")) is weights
    assert weights.weight.device.type == "meta"
    assert asked == [("x.safetensors", "mlp:4", part)]
    named = nn.Linear(2, 2)
    imported = []
    monkeypatch.setattr(
        bat.evaluation.own_model, "own_function", lambda *given: imported.append(given) or (lambda: named)
    )
    model = bat.evaluation.own_model.read_own_model("users:model", None, part, torch.device("meta"))
    assert imported == [("users:model", FORM[2:])]
    assert (model.inner, model.entry) == (named, "users:model")
    assert named.weight.device.type == "meta"
    read = bat.evaluation.own_model.read_own_model
    Path("a").mkdir()
    assert refusal(read, "a", None, part, cpu) == "a: is a folder: give a file or module:function"
    Path("w.safetensors").touch()
    assert refusal(read, "w.safetensors", None, part, cpu) == (
        "w.safetensors: holds weights alone: say of which network, with --architecture"
    )
    script = nn.Linear(2, 2)
    monkeypatch.setattr(bat.evaluation.own_model, "_read_script", lambda *given: asked.append(given) or script)
    Path("m.pt").touch()
    model = read("m.pt", None, part, cpu)
    assert (asked[1:], model.inner, model.entry) == ([("m.pt",)], script, "m.pt")
    monkeypatch.setattr(bat.evaluation.own_model, "own_function", lambda *given: lambda: 3)
    assert refusal(read, "users:model", None, part, cpu) == f"users:model: returned int, not a torch.nn.Module{FORM}"


class Odd(nn.Module):
    """A model that cannot be moved, or not be put in evaluation mode."""

    def __init__(self, name):
        super().__init__()
        setattr(self, name, lambda *_, **__: 1 / 0)


@pytest.mark.parametrize("name", ["to", "train", "parameters"])
def test_what_cannot_be_used_as_a_model_is_one_line(name, monkeypatch):
    part = Part(TWO, torch.tensor([0, 1]), torch.arange(2), 1)
    odd = Odd(name)
    monkeypatch.setattr(bat.evaluation.own_model, "own_function", lambda *given: lambda: odd)
    act = bat.evaluation.own_model.read_own_model
    if name == "parameters":  # those of the modules in it, too, are looked at
        monkeypatch.setattr(Judged, "parameters", lambda self: iter(lambda: 1 / 0, 0))
    said = refusal(act, "users:model", None, part, torch.device("cpu"))
    assert said.startswith("users:model: ")
    assert "(ZeroDivisionError: division by zero, test_own_model.py line " in said
    assert ("its train(False) fails" if name == "train" else "cannot be used as a torch.nn.Module") in said


# -- looked at


@pytest.mark.parametrize(("labels", "named"), [([0, 2], "0 to 2"), ([-1, 1], "-1 to 1")])
def test_labels_without_a_class_are_one_line(labels, named):
    part = Part(TWO, torch.tensor(labels), torch.arange(2), 1)
    for model in (judged_by(lambda x: x.flatten(1)), nn.Flatten()):
        assert refusal(check_outputs, model, part, 2, "entry") == (
            f"entry: outputs have shape (2, 2) for labels {named}: need (n, classes) logits, a class for each label"
        )


def test_a_few_images_and_a_gradient_are_passed_through():
    seen = []
    model = judged_by(lambda x: seen.append((len(x), torch.is_grad_enabled(), inner.training)) or x.flatten(1)).train()
    inner = model.inner
    three = Part(torch.cat([TWO, TWO[:1]]), torch.tensor([0, 1, 0]), torch.arange(3), 1)
    for batch_size, rows in ((1, 1), (3, 3), (5, 3)):
        seen.clear()
        assert check_outputs(model, three, batch_size, "entry") is None
        assert seen == [(2, False, False), (rows, True, False)]
    assert (model.classes, model.differentiable, inner.training) == (2, True, True)
    seen.clear()
    plain = Calls(lambda x: seen.append(len(x)) or x.flatten(1))
    assert check_outputs(plain, three, 3, "entry") is None  # a network of this package has a gradient
    assert seen == [2]


class Backwards(torch.autograd.Function):
    """The images, whose gradient fails."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        raise ZeroDivisionError("backwards")


def test_why_there_is_no_gradient_is_returned():
    part = Part(TWO, torch.tensor([0, 1]), torch.arange(2), 1)
    seen = []
    model = judged_by(lambda x: seen.append((len(x), torch.is_grad_enabled())) or Backwards.apply(x.flatten(1)))
    assert check_outputs(model, part, 1, "entry") == (
        "the model has no gradient in its images (ZeroDivisionError: backwards)"
    )
    assert model.differentiable is False
    assert seen == [(2, False), (1, True), (1, False)]
    fails = judged_by(lambda x: x.flatten(1) if len(x) == 2 else 1 / 0)
    assert "fails on images (1, 1, 1, 2)" in refusal(check_outputs, fails, part, 1, "entry")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_the_digest_of_weights_is_of_their_names_kinds_and_bytes():
    model = nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert weights_digest(model, "") == digest.hexdigest()
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    model.register_buffer("byte", torch.arange(6, dtype=torch.uint8).view(2, 3))
    model.register_buffer("small", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8))
    model.state_dict = lambda: {"sparse": model.sparse, "byte\udcff": model.byte.T, "small": model.small, "more": 3}
    expected = hashlib.sha256(
        b"sparse Tensorbyte\\udcff torch.uint8 (3, 2)\0\3\1\4\2\5small Tensormore int"
    ).hexdigest()
    assert weights_digest(model, "") == expected
    model.state_dict = lambda: 1 / 0
    assert refusal(weights_digest, model, "entry").startswith("entry: its state_dict() fails (ZeroDivisionError: ")


# -- TorchScript


def code(path, text, name="code/x.py"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("a = ops.prim.NumToTensor(b)", None),
        ("a = ops.quantized.linear(b)\nops = 3\nclasses = 4", None),
        ("a = torch.classes.quantized.X; b = classes.mkldnn; c = classes.xnnpack", None),
        ("x = ops.image.read_file(b)", "ops.image"),
        ("x = ops.custom . run(b)", "ops.custom"),
        ("torch.save(x, y)", "save"),
        ("a = load.b", "load.b"),
        ("a.from_file", "from_file"),
        ("x = classes.dist_rpc.X", "classes.dist_rpc"),
    ],
)
def test_operators_that_reach_beyond_tensors_are_refused(tmp_path, text, called):
    path = code(tmp_path / "x.pt", text)
    check = bat.evaluation.own_model._check_operators
    if called is None:
        check(path)
    else:
        assert refusal(check, path) == (
            f"{path}: its code calls {called}, which may read or write files or the network: not run; give "
            "module:function if you trust it"
        )
    check(code(path, text, name="code/x.txt"))


@pytest.mark.parametrize("text", ["a = (", "  a\n b"])
def test_code_that_cannot_be_read_is_not_run(tmp_path, text):
    path = code(tmp_path / "x.pt", text)
    said = refusal(bat.evaluation.own_model._check_operators, path)
    assert said.startswith(f"{path}: its code code/x.py cannot be read, so that it is not run (")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_script_is_read_on_the_cpu_and_what_is_none_is_one_line(tmp_path, recwarn):
    path = str(tmp_path / "x.pt")
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(2, 2))), path)
    read = bat.evaluation.own_model._read_script
    assert read(path)(TWO).shape == (2, 2)
    Path(path).write_bytes(b"x" * 1000)
    assert refusal(read, path) == (
        f"{path}: no TorchScript file (File is not a zip file): write one with torch.jit.save, give safetensors "
        "weights with --architecture, or give module:function (also for torch.export, whose files are unpickled)"
    )
    code(path, "a = 1")
    said = refusal(read, path)
    assert said.startswith(f"{path}: no TorchScript file (")
    assert len(said) < 450


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("act", [lambda path: bat.evaluation.own_model._read_script(path), None])
def test_memory_that_does_not_suffice_is_no_matter_of_the_file(tmp_path, monkeypatch, act):
    def full(*_, **__):
        raise RuntimeError("not enough memory")

    monkeypatch.setattr("torch.jit.load", full)
    monkeypatch.setattr(bat.evaluation.own_model, "load_file", full)
    path = code(tmp_path / "x.pt", "")
    with pytest.raises(RuntimeError, match="not enough memory"):
        act(path) if act else read_weights(path, "mlp:4", SIXTEEN)


# -- weights


BYTES = Part(torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2), torch.tensor([0, 1]), torch.arange(2), 255)


def test_weights_are_read_into_the_network_of_an_architecture(tmp_path):
    path = str(tmp_path / "w.safetensors")
    network = build(SizedModel(name="mlp", width=4), BYTES, classes=3, seed=1)
    save_file(network.state_dict(), path)
    for part in (BYTES, replace(BYTES, pixels=BYTES.pixels / 255, pixel_max=1)):
        found = read_weights(path, "mlp:4", part)
        assert not found.training
        assert torch.equal(found(BYTES.images()), network.eval()(BYTES.images()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("head.bias"), "'head.bias'"),
        (lambda weights: weights.update({"head.bias": torch.zeros(3, 1)}), "head.bias has shape (3, 1)"),
        (lambda weights: weights.update({"head.bias": torch.zeros(1)}), "head.bias has shape (1,)"),
        (lambda weights: weights.update({"head.bias": torch.zeros(3, dtype=int)}), "head.bias is int64, not float32"),
        (
            lambda weights: weights.update({"head.bias": torch.tensor([0, torch.nan, 1])}),
            "head.bias holds NaN or infinity",
        ),
        (lambda weights: weights.update(more=torch.ones(1)), "Error(s) in loading state_dict for Network:"),
        (lambda weights: weights.pop("head.weight"), "Error(s) in loading state_dict for Network:"),
    ],
)
def test_other_weights_are_one_line(tmp_path, change, said):
    path = str(tmp_path / "w.safetensors")
    weights = build(SizedModel(name="mlp", width=4), BYTES, classes=3, seed=1).state_dict()
    change(weights)
    save_file(weights, path)
    line = refusal(read_weights, path, "mlp:4", BYTES)
    assert line.startswith(f"{path}: not the weights of mlp:4 for images (1, 2, 2) ({said}")
    assert line.endswith(f"({said})") or "Error(s)" in said
    assert len(line) < len(path) + 500


def test_two_classes_are_enough_and_an_architecture_is_one_that_is_known(tmp_path):
    path = str(tmp_path / "w.safetensors")
    save_file(build(SizedModel(name="mlp", width=4), BYTES, classes=2, seed=1).state_dict(), path)
    assert read_weights(path, "mlp:4", BYTES)(BYTES.images()).shape == (2, 2)
    assert refusal(read_weights, path, "mlp", BYTES) == "--architecture NAME or NAME:WIDTH: width: missing key: add it"
    assert refusal(read_weights, "none", "mlp:4", BYTES).startswith(
        "none: not the weights of mlp:4 for images (1, 2, 2) ("
    )
