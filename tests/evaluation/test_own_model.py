"""Models of users that are not what an attack needs: the right answer, one line, or a flag."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bat.attacks.gradient import ascent, cross_entropy, label_margin, predictions
from bat.cli import main
from bat.evaluation.own_model import Judged
from bat.io.schemas import SCHEMAS
from bat.io.tables import read_table_with_facts

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
