"""Made-up models of a user under attack: judged rightly, or refused with one line, and soon.

A model is a linear one, changed in one way or two: in what it returns, when, and what it does beside that. What is
accepted must be right: see ``sound``. --hypothesis-show-statistics says how many were accepted and refused.
"""

import contextlib
import functools
import io
import itertools
import os
import shutil
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, currently_in_test_context, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bat.attacks.ensemble import STANDARD, TIERS
from bat.cli import main
from bat.errors import BatError, is_out_of_memory
from bat.io.tensors import read_tensors

torch.set_num_threads(1)

SECONDS = 2
CLASSES = 4
EPS = 0.3
WEIGHTS = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(0))
# multiples of 1/256, so that a model can tell them from perturbed points
IMAGES = torch.randint(60, 196, (6, 1, 4, 4), generator=torch.Generator().manual_seed(1)) / 256
LABELS = ((IMAGES.flatten(1) - 0.5) @ WEIGHTS.T).argmax(1)


def fuzz(examples: int) -> Any:
    return settings(max_examples=examples, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


class Ran(NamedTuple):
    """How an attack ended: its status, its line on standard error, and what it wrote where that is 0."""

    code: int
    line: str
    table: pd.DataFrame | None
    raised: set[str]
    x_adv: Tensor | None


# all of AutoAttack, so short that what is measured is what stands around it
SHORT = (
    replace(STANDARD[0], steps=10),
    replace(STANDARD[1], steps=5),
    replace(STANDARD[2], steps=3),
    replace(STANDARD[3], queries=20),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models")
    np.savez(folder / "images.npz", x=IMAGES.numpy(), y=LABELS.numpy())
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(TIERS, "standard", SHORT)
        patched.chdir(folder)
        with warnings.catch_warnings():  # a trace is slow the first time, and torch would have another format
            warnings.simplefilter("ignore")
            torch.jit.trace(nn.Flatten(), torch.zeros(2, 1))
        yield folder


def attack(folder: Path, loader: Any, batch_size: int = 4) -> Ran:
    """Attack what ``loader`` returns; check what holds for every end."""
    module = types.ModuleType("fuzzed")
    module.model = loader
    sys.modules["fuzzed"] = module
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    flags = {"model": "fuzzed:model", "data": folder / "images.npz", "norm": "linf", "eps": EPS, "ensemble": "standard"}
    flags |= {"batch-size": batch_size, "out": out / "o.parquet", "flags": out / "f.parquet", "log": out / "log"}
    flags |= {"images": out / "x.safetensors"}
    arguments = ["attack", *itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in flags.items())]
    said, code, path = io.StringIO(), 0, list(sys.path)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stderr(said):
        warnings.simplefilter("always")
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code  # type: ignore[assignment]
        finally:
            os.chdir(folder)
            sys.path[:] = path
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
    assert time.process_time() - start < SECONDS
    assert not [str(each.message) for each in warned if "/bat/" in each.filename]
    lines, log = said.getvalue().splitlines(), (out / "log").read_text()
    assert code in (0, 2)
    assert len(lines) == (code == 2)
    assert "Traceback" not in log
    assert all(line.isprintable() and len(line) < 3000 for line in lines)
    if currently_in_test_context():
        event("accepted" if code == 0 else "refused")
    written = sorted(path.name for path in out.iterdir() if not path.name.endswith(".parts"))
    if code:
        assert written == ["log"]
        assert lines[0].startswith("bat attack: ")
        return Ran(code, lines[0], None, set(), None)
    assert written == ["f.parquet", "log", "o.parquet", "x.safetensors"]
    found = pd.read_parquet(out / "f.parquet")
    x_adv = read_tensors(out / "x.safetensors", "images")[0]["x_adv"]
    ran = Ran(code, "", pd.read_parquet(out / "o.parquet"), set(found.loc[found["raised"], "flag"]), x_adv)
    sound(ran)
    return ran


def sound(ran: Ran) -> None:
    """What holds for every model whose results are accepted."""
    table, x_adv = ran.table, ran.x_adv
    assert table is not None
    assert x_adv is not None
    assert table["label"].tolist() == LABELS.tolist()
    clean, robust = table["clean_correct"], table["robust_correct"]
    assert (clean == (table["predicted"] == table["label"])).all()
    assert not (robust & ~clean).any()
    assert not (table["pgd_correct"] & ~clean).any()
    assert (table["broken_by"].notna() == (clean & ~robust)).all()
    assert ((table["margin"] > 0) | ~robust).all()
    assert not table["margin"].isna().any()
    # what stands is not infinitely right either
    assert np.isfinite(table["margin"][robust]).all()
    assert x_adv.dtype == torch.float32
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (x_adv - IMAGES).abs().max() <= EPS + 1e-6


def agrees(ran: Ran, model: nn.Module) -> None:
    """Whether samples are right is what the model itself says of the images, NaN and infinity being wrong."""
    assert ran.table is not None
    assert ran.x_adv is not None
    for column, x in (("clean_correct", IMAGES), ("robust_correct", ran.x_adv)):
        with torch.no_grad():
            outputs = model(x.clone()).double()
        top = outputs.topk(2, dim=1).values
        right = outputs.isfinite().all(1) & (outputs.argmax(1) == LABELS) & torch.tensor(ran.table["clean_correct"])
        sure = ~outputs.isfinite().all(1) | (top[:, 0] - top[:, 1] > 1e-3 * outputs.abs().amax(1))
        assert (torch.tensor(ran.table[column]) == right)[sure].all()


# -- what a model returns


class Made(nn.Module):
    """A linear model whose outputs are changed by functions of (outputs, images, number of the call), in turn."""

    def __init__(self, *changes: Callable[[Any, Tensor, int], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHTS.clone())
        self.changes, self.calls = changes, -1
        self.eval()

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        outputs: Any = (x.flatten(1) - 0.5) @ self.weight.T
        for change in self.changes:
            outputs = change(outputs, x, self.calls)
        return outputs


def clean(x: Tensor) -> Tensor:
    """Return which images are unperturbed: (n, 1)."""
    return ((x * 256) == (x * 256).round()).flatten(1).all(1)[:, None]


class Backwards(torch.autograd.Function):
    """The identity, with any gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, gradient: Callable[[Tensor], Any]) -> Tensor:
        context.gradient = gradient
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return context.gradient(gradient), None


def with_gradient(gradient: Callable[[Tensor], Any]) -> Callable[[Any, Tensor, int], Any]:
    return lambda z, x, call: Backwards.apply(z, gradient)


def raising(error: BaseException) -> Any:
    raise error


def in_inference(z: Tensor, x: Tensor, call: int) -> Tensor:
    with torch.inference_mode():
        return (x.flatten(1) - 0.5) @ WEIGHTS.T


class Odd(Tensor):
    """A tensor of the user's own kind, whose functions fail."""

    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, given: Any = (), options: Any = None) -> Any:
        raise TypeError("not for you")


# outputs that can be judged: alone, deterministic, so that the model may be asked again
JUDGED: dict[str, Callable[[Any, Tensor, int], Any]] = {
    "as it is": lambda z, x, call: z,
    "half": lambda z, x, call: z.half(),
    "bfloat16": lambda z, x, call: z.bfloat16(),
    "double": lambda z, x, call: z.double(),
    "detached": lambda z, x, call: z.detach(),
    "no graph": lambda z, x, call: torch.tensor(z.tolist()),
    "numpy": lambda z, x, call: torch.from_numpy(z.detach().numpy().copy()),
    "in inference mode": in_inference,
    "one hot": lambda z, x, call: nn.functional.one_hot(z.argmax(1), CLASSES),
    "rounded": lambda z, x, call: z.round(),
    "int64": lambda z, x, call: (8 * z).long(),
    "int8": lambda z, x, call: (8 * z).to(torch.int8),
    "uint8": lambda z, x, call: z.softmax(1).mul(255).to(torch.uint8),
    "bool": lambda z, x, call: z == z.amax(1, keepdim=True),
    "softmax": lambda z, x, call: z.softmax(1),
    "log softmax": lambda z, x, call: z.log_softmax(1),
    "a parameter": lambda z, x, call: nn.Parameter(z),
    "not contiguous": lambda z, x, call: z.T.contiguous().T,
    "expanded": lambda z, x, call: z[:1].expand_as(z) if len(z) == 1 else z,
    "a view of more": lambda z, x, call: torch.cat([z, z], 1)[:, :CLASSES],
    "constant": lambda z, x, call: torch.eye(CLASSES)[:1].repeat(len(z), 1),
    "all equal": lambda z, x, call: z * 0,
    "negative": lambda z, x, call: -z,
    "huge": lambda z, x, call: z * 1e30,
    "tiny": lambda z, x, call: z * 1e-30,
    "shifted far": lambda z, x, call: z + 1e6,
    "steps": lambda z, x, call: ((x * 20).round() / 20).flatten(1) @ WEIGHTS.T,
    "NaN off the image": lambda z, x, call: torch.where(clean(x), z, torch.nan),
    "infinity off the image": lambda z, x, call: torch.where(clean(x), z, torch.inf),
    "one class minus infinity off the image": lambda z, x, call: torch.where(
        clean(x) | (torch.arange(CLASSES) > 0), z, -torch.inf
    ),
    "NaN where it is wrong": lambda z, x, call: torch.where(
        (z.argmax(1) == z.argmax(1)[:1])[:, None] | clean(x), z, torch.nan
    ),
    "NaN in the dark": lambda z, x, call: torch.where((x.flatten(1)[:, :1] < 0.1), torch.nan, z),
    "a gradient of NaN": with_gradient(lambda g: g * torch.nan),
    "a gradient of infinity": with_gradient(lambda g: g * torch.inf),
    "a gradient that is wrong": with_gradient(lambda g: -g),
    "no gradient": with_gradient(lambda g: None),
    "a root of 0": lambda z, x, call: z + 0 * (x - x).sqrt().flatten(1)[:, :1],
    "in double": lambda z, x, call: (x.double().flatten(1) - 0.5) @ WEIGHTS.double().T,
}
# by what it does beside that; its images are copies
BESIDE: dict[str, Callable[[Any, Tensor, int], Any]] = {
    "nothing": lambda z, x, call: z,
    "adds to its images": lambda z, x, call: (x.detach().add_(1), z)[1],
    "empties its images": lambda z, x, call: (x.data.zero_(), z)[1],
    "shrinks its images": lambda z, x, call: (x.data.__class__.set_(x.data, torch.empty(0)), z)[1],
    "wants no gradient": lambda z, x, call: (torch.set_grad_enabled(False), z)[1],
    "draws numbers": lambda z, x, call: (torch.rand(3), np.random.rand(), z)[2],  # noqa: NPY002
    "changes the seed": lambda z, x, call: (torch.manual_seed(0), z)[1],
    "changes the folder": lambda z, x, call: (os.chdir("/"), z)[1],
    "forgets the path": lambda z, x, call: (sys.path.clear() if call == 3 else None, z)[1],
    "changes the type of numbers": lambda z, x, call: (torch.set_default_dtype(torch.float64), z)[1],
    "a hook that fails": lambda z, x, call: (x.register_hook(no) if x.requires_grad else None, z)[1],
    "warns": lambda z, x, call: (warnings.warn("from the user", stacklevel=1), z)[1],
}
# outputs that are no logits
WRONG: dict[str, Callable[[Any, Tensor, int], Any]] = {
    "a tuple": lambda z, x, call: (z, x),
    "a tuple of one": lambda z, x, call: (z,),
    "a list": lambda z, x, call: [z],
    "a list of numbers": lambda z, x, call: z.tolist(),
    "a dict": lambda z, x, call: {"logits": z},
    "a dict of odd keys": lambda z, x, call: {raises_when_told(): z, "a\nb": x},
    "nothing": lambda z, x, call: None,
    "an array": lambda z, x, call: z.detach().numpy(),
    "a number": lambda z, x, call: float(z.detach().sum()),
    "a text": lambda z, x, call: "logits\n" * 1000,
    "a class": lambda z, x, call: Made,
    "itself": lambda z, x, call: clean,
    "one row": lambda z, x, call: z[:1] if len(z) > 1 else z[:0],
    "no row": lambda z, x, call: z[:0],
    "a row more": lambda z, x, call: torch.cat([z, z[:1]]),
    "turned": lambda z, x, call: z.T if len(z) != CLASSES else z.T[:3],
    "one class": lambda z, x, call: z[:, :1],
    "no class": lambda z, x, call: z[:, :0],
    "too few classes": lambda z, x, call: z[:, : int(LABELS.max())],
    "flat": lambda z, x, call: z[:, 0],
    "a sum": lambda z, x, call: z.sum(),
    "with a place": lambda z, x, call: z[:, :, None],
    "images": lambda z, x, call: x,
    "of a kind of its own": lambda z, x, call: z.as_subclass(Odd),
    "sparse": lambda z, x, call: z.to_sparse(),
    "compressed": lambda z, x, call: z.detach().to_sparse_csr(),
    "complex": lambda z, x, call: z + 0j,
    "quantised": lambda z, x, call: torch.quantize_per_tensor(z.detach(), 0.1, 0, torch.qint8),
    "nested": lambda z, x, call: torch.nested.nested_tensor([row.detach() for row in z]),
    "on no device": lambda z, x, call: z.to("meta"),
    "NaN": lambda z, x, call: z * torch.nan,
    "infinity": lambda z, x, call: z * torch.inf,
    "one NaN": lambda z, x, call: torch.where(x.flatten(1)[:, :1] == IMAGES.flatten(1)[2, 0], torch.nan, z),
    "a class of minus infinity": lambda z, x, call: z.index_fill(1, torch.tensor(3), -torch.inf),
    "overflow": lambda z, x, call: (z.abs() * 1e6 + 1e6).half(),
}
# outputs that depend on more than the image: whatever is said of them, it must hold together
UNSTEADY: dict[str, Callable[[Any, Tensor, int], Any]] = {
    "of the batch": lambda z, x, call: z - z.mean(0),
    "of its size": lambda z, x, call: z * len(z),
    "of its order": lambda z, x, call: z.cumsum(0),
    "a little noise": lambda z, x, call: z + 1e-3 * torch.randn(z.shape),
    "noise": lambda z, x, call: z + torch.randn(z.shape),
    "noise alone": lambda z, x, call: torch.randn(z.shape),
    "of the call": lambda z, x, call: z + call,
    "every other call": lambda z, x, call: z if call % 2 else -z,
    "other classes": lambda z, x, call: z if call < 5 else torch.cat([z, z], 1),
    "other types": lambda z, x, call: z.double() if call % 2 else z.half(),
    "gradients now and then": lambda z, x, call: z if call % 3 else z.detach(),
    "NaN now and then": lambda z, x, call: z * torch.nan if call % 7 == 6 else z,
    "NaN in some rows now and then": lambda z, x, call: (
        z.index_fill(0, torch.tensor(0), torch.nan) if call % 5 == 4 else z
    ),
}


def raises_when_told() -> Any:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    return Silent()


BATCH_SIZES = st.sampled_from([1, 2, 4, 6, 7, 256])


@given(st.sampled_from(sorted(JUDGED)), st.sampled_from(sorted(JUDGED)), st.sampled_from(sorted(BESIDE)), BATCH_SIZES)
@fuzz(90)
def test_what_can_be_judged_is_judged_rightly(folder: Path, first: str, then: str, beside: str, size: int) -> None:
    changes = (JUDGED[first], JUDGED[then])
    ran = attack(folder, lambda: Made(*changes, BESIDE[beside]), size)
    if ran.code == 0:
        agrees(ran, Made(*changes))


@pytest.mark.parametrize("name", JUDGED)
def test_each_that_can_be_judged_is(folder: Path, name: str) -> None:
    ran = attack(folder, lambda: Made(JUDGED[name]))
    assert ran.code == 0
    agrees(ran, Made(JUDGED[name]))


def test_nan_and_infinity_off_the_image_are_never_right(folder: Path) -> None:
    for name in ("NaN off the image", "infinity off the image", "one class minus infinity off the image"):
        ran = attack(folder, lambda name=name: Made(JUDGED[name]))
        assert ran.table is not None
        assert ran.table["clean_correct"].all()
        assert not ran.table[["pgd_correct", "robust_correct"]].any(axis=None)
        assert "nonfinite_outputs" in ran.raised


@given(st.sampled_from(sorted(JUDGED)), st.sampled_from(sorted(WRONG)), st.sampled_from(sorted(BESIDE)), BATCH_SIZES)
@fuzz(90)
def test_what_is_no_output_of_logits_is_refused(folder: Path, first: str, wrong: str, beside: str, size: int) -> None:
    ran = attack(folder, lambda: Made(JUDGED[first], WRONG[wrong], BESIDE[beside]), size)
    if ran.code == 0:  # as one class of the outputs of another kind, or overflow of small numbers
        agrees(ran, Made(JUDGED[first], WRONG[wrong]))


@pytest.mark.parametrize("name", WRONG)
def test_each_that_is_no_output_of_logits_is_refused(folder: Path, name: str) -> None:
    assert attack(folder, lambda: Made(WRONG[name])).code == 2


@given(st.sampled_from(sorted(UNSTEADY)), st.sampled_from(sorted(JUDGED)), BATCH_SIZES)
@fuzz(60)
def test_what_changes_by_itself_is_told_or_refused(folder: Path, name: str, then: str, size: int) -> None:
    attack(folder, lambda: Made(UNSTEADY[name], JUDGED[then]), size)


# -- what a model raises, and when


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class MuteRuntimeError(RuntimeError):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Base(BaseException):
    pass


ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError("a\nb\x00\x1b[31mc"),
    lambda: RuntimeError("x" * 100_000),
    lambda: KeyError("logits"),
    ZeroDivisionError,
    AssertionError,
    lambda: SystemExit(0),
    lambda: SystemExit(1),
    lambda: SystemExit("bye\nbye"),
    GeneratorExit,
    lambda: StopIteration(3),
    MemoryError,
    lambda: RuntimeError("CUDA out of memory. Tried to allocate"),
    RecursionError,
    lambda: OSError(28, "No space left on device"),
    lambda: OSError(13, "Permission denied", "/secret"),
    BrokenPipeError,
    Mute,
    MuteRuntimeError,
    Base,
    lambda: BatError("one of ours"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    lambda: ExceptionGroup("two", [ValueError(1), TypeError(2)]),
    lambda: Warning("raised"),
    lambda: ImportError("no module"),
    lambda: SyntaxError("odd"),
    lambda: TimeoutError(),
    lambda: EOFError(),
)


@given(st.sampled_from(ERRORS), st.one_of(st.integers(0, 12), st.integers(0, 300)), BATCH_SIZES, st.booleans())
@fuzz(120)
def test_a_model_that_raises_anything_at_any_call(
    folder: Path, error: Callable[[], BaseException], at: int, size: int, backward: bool
) -> None:
    def change(z: Tensor, x: Tensor, call: int) -> Any:
        if call < at:
            return z
        return Backwards.apply(z, lambda g: raising(error())) if backward else raising(error())

    ran = attack(folder, lambda: Made(change), size)
    if ran.code == 0 and not backward:  # all was broken, so that nothing was called so often
        agrees(ran, Made())


@pytest.mark.parametrize("number", range(len(ERRORS)))
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("backward", [False, True])
def test_each_error_of_a_model_and_of_its_loader(folder: Path, number: int, at: int, backward: bool) -> None:
    def change(z: Tensor, x: Tensor, call: int) -> Any:
        fails = (
            with_gradient(lambda g: raising(ERRORS[number]())) if backward else (lambda *_: raising(ERRORS[number]()))
        )
        return fails(z, x, call) if call >= at else z

    # without a gradient at all a model is attacked by Square alone
    judged = backward and at == 0 and not is_out_of_memory(ERRORS[number]())
    assert attack(folder, lambda: Made(change)).code == (0 if judged else 2)
    assert attack(folder, lambda: raising(ERRORS[number]())).code == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_from_any_call_on_are_never_right(folder: Path, value: float) -> None:
    codes = set()
    for first in range(1, 40, 2):
        ran = attack(folder, lambda first=first: Made(lambda z, x, call: z + value if call >= first else z))
        codes.add(ran.code)
        if ran.table is not None:
            assert not ran.table["robust_correct"].any()
            assert set(ran.table["predicted"]) <= {-1, *LABELS.tolist()}
            assert (ran.table["clean_correct"] | (ran.table["predicted"] == -1)).all()
    assert codes == {0, 2}


@given(st.sampled_from([1, 2, 3, 4, 6]), BATCH_SIZES)
@fuzz(12)
def test_a_model_that_wants_batches_of_a_size(folder: Path, wanted: int, size: int) -> None:
    def change(z: Tensor, x: Tensor, call: int) -> Tensor:
        assert len(x) == wanted, f"batches of {wanted}"
        return z

    ran = attack(folder, lambda: Made(change), size)
    assert ran.code == 2
    assert f"batches of {wanted}" in ran.line


# -- modules that are none, and loaders


def no(*_: Any, **__: Any) -> Any:
    raise LookupError("not\nthis")


def made_with(**methods: Any) -> Callable[[], nn.Module]:
    """Return a loader of a module with other methods."""
    return lambda: type("Other", (Made,), methods)()


MODULES: dict[str, tuple[Any, int]] = {
    # a loader, and the status
    "a class": (Made, 0),
    "a partial": (functools.partial(Made, JUDGED["double"]), 0),
    "with defaults": (lambda number=3, *more, **options: Made(), 0),
    "two in a row": (lambda: nn.Sequential(Made(), nn.Identity()), 0),
    "in training mode": (lambda: Made().train(), 0),
    "a trace": (lambda: torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.zeros(2, 1, 4, 4)), 0),
    "frozen": (lambda: Made().requires_grad_(False), 0),
    "weights of NaN": (lambda: set_weights(torch.nan), 2),
    "weights of infinity": (lambda: set_weights(torch.inf), 2),
    "weights on no device": (lambda: Made().to("meta"), 2),
    "weights of half": (lambda: Made().half(), 2),
    "weights of double": (lambda: Made().double(), 2),
    "weights to come": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), 0),
    "other images": (lambda: nn.Conv2d(3, 4, 3), 2),
    "no forward": (nn.Module, 2),
    "never begun": (lambda: Made.__new__(Made), 2),
    "forward of two": (made_with(forward=lambda self, x, y: x), 2),
    "forward of none": (made_with(forward=lambda self: 3), 2),
    "forward that is no function": (made_with(forward=3), 2),
    "forward that yields": (made_with(forward=lambda self, x: (each for each in x)), 2),
    "no state": (made_with(state_dict=no), 2),
    "a state that is none": (made_with(state_dict=lambda self, *_, **__: None), 0),
    "a state of anything": (made_with(state_dict=lambda self, *_, **__: {"a": 3, 4: None}), 0),
    "no parameters": (made_with(parameters=no), 0),
    "parameters that are numbers": (made_with(named_parameters=lambda self, *_, **__: [(1, 2)]), 0),
    "no modules": (made_with(modules=no), 0),
    "no modules by name": (made_with(named_modules=no), 2),
    "no mode": (made_with(train=no), 2),
    "no evaluation": (made_with(eval=no), 2),
    "a mode that returns nothing": (made_with(train=lambda self, mode=True: None), 0),
    "no device": (made_with(to=no), 2),
    "a device that returns nothing": (made_with(to=lambda self, *_: None), 2),
    "a device that returns another": (made_with(to=lambda self, *_: Made()), 0),
    "no copy": (made_with(__deepcopy__=no), 0),
    "no name": (made_with(__repr__=no), 0),
    "no length": (made_with(__len__=no, __bool__=no), 0),
    "no attribute": (made_with(__getattr__=no), 2),
    "none": (lambda: None, 2),
    "a number": (lambda: 3, 2),
    "a function": (lambda: clean, 2),
    "a class of modules": (lambda: Made, 2),
    "a pair": (lambda: (Made(), 3), 2),
    "a state": (lambda: Made().state_dict(), 2),
    "no function": (3, 2),
    "a module itself": (Made(), 2),
    "one that wants arguments": (lambda path: Made(), 2),
    "one that wants names": (lambda *, path: Made(), 2),
    "one of C": (print, 2),
    "one that yields": ((lambda: (yield Made())), 2),
    "one that never ends": (lambda: endless(), 2),
}


def set_weights(value: float) -> nn.Module:
    model = Made()
    model.weight.data[0, 0] = value
    return model


def endless() -> Any:
    return endless()


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_loaders_of_any_kind(folder: Path, name: str) -> None:
    loader, code = MODULES[name]
    assert attack(folder, loader).code == code
