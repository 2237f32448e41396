"""Sweeps: which methods they add, and which they refuse."""

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, GAIRAT, METHODS, PGD_AT, TRADES, but
from pydantic import TypeAdapter

from bat.config import Method, Sweep, expand
from bat.config.strict import NAME


def sweep(method, key, *values):
    return Sweep(method=method, key=key, values=values)


def test_a_value_makes_a_method_named_after_it_that_differs_in_the_key_alone():
    found = expand(METHODS, [sweep("trades", "beta", 1, 0.5), sweep("bat", "alpha", "inf", 2.0)])
    assert found == (
        *METHODS,
        but(TRADES, name="trades_beta_1", beta=1.0),
        but(TRADES, name="trades_beta_0_5", beta=0.5),
        but(BAT, name="bat_alpha_inf", alpha="inf"),
        but(BAT, name="bat_alpha_2", alpha=2.0),
    )


def test_switches_and_negative_values_have_names_too():
    found = expand(
        METHODS,
        [sweep("bat", "reweighting", False), sweep("gairat", "offset", -2.0, -0.5), sweep("pgd_at", "awp", 5e-3)],
    )
    assert [method.name for method in found[len(METHODS) :]] == [
        "bat_reweighting_false",
        "gairat_offset_minus_2",
        "gairat_offset_minus_0_5",
        "pgd_at_awp_0_005",
    ]
    assert found[-2].offset == -0.5


def test_the_value_of_the_method_itself_is_left_out():
    assert expand([TRADES], [sweep("trades", "beta", 6.0)]) == (TRADES,)
    assert expand([GAIRAT], [sweep("gairat", "eps_factor", 1.0)]) == (GAIRAT,)
    assert expand([BAT], [sweep("bat", "discrimination", True)]) == (BAT,)


def test_no_sweep_adds_no_method():
    assert expand(METHODS, []) == METHODS


@given(values=st.lists(st.floats(0, 1e4, allow_subnormal=False), min_size=1, max_size=4, unique=True))
@settings(deadline=None, max_examples=60)
def test_names_are_names_and_each_value_is_there_once(values):
    # six digits make the name: values that agree in them are refused
    if len({f"{value:g}" for value in values}) < len(values):
        with pytest.raises(ValueError, match="name twice"):
            expand([TRADES], [sweep("trades", "beta", *values)])
        return
    found = expand([TRADES], [sweep("trades", "beta", *values)])
    assert all(re.fullmatch(NAME, method.name) for method in found)
    assert {method.beta for method in found} == {TRADES.beta, *values}


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        ([sweep("trade", "beta", 1.0)], "method trade, key beta: no such method: take one of natural, pgd_at"),
        ([sweep("trades", "gamma", 1.0)], "key gamma: no such key: trades has eps_factor, awp, beta"),
        ([sweep("natural", "awp", 1.0)], "natural has none"),
        ([sweep("trades", "name", "x")], "key name: no such key"),
        ([sweep("trades", "objective", "mart")], "key objective: no such key"),
        ([sweep("trades", "beta", -1.0)], "value -1: -1.0 is under 0, the least: raise it"),
        ([sweep("trades", "beta", "much")], 'value much: "much" is wrong here: give a number without quotes'),
        ([sweep("trades", "beta", True)], "value True: true is wrong here: give a number"),
        ([sweep("bat", "reweighting", 1.0)], "value 1: 1.0 is wrong here: give true or false"),
        ([sweep("trades", "beta", 1.0), sweep("trades", "beta", 1.0)], "a name twice, sweeps included: trades_beta_1"),
        ([sweep("trades", "beta", 1.0), sweep("trades", "beta", 1.0)], "a name twice"),
        # a sweep of a sweep's method
        ([sweep("trades", "beta", 1.0), sweep("trades_beta_1", "awp", 0.1)], "no such method"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(sweeps, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        expand(METHODS, sweeps)
    assert len(str(caught.value).splitlines()) == 1


def test_a_long_value_is_cut():
    with pytest.raises(ValueError, match=r"^training") as caught:
        expand(METHODS, [sweep("trades", "beta", "x" * 101)])
    assert re.search(r'key beta, value x{80}\.\.\.: "x{79}\.\.\. is wrong here', str(caught.value))


def test_a_swept_name_may_not_be_that_of_an_entry():
    with pytest.raises(ValueError, match="name twice"):
        expand([TRADES, but(PGD_AT, name="trades_beta_1")], [sweep("trades", "beta", 1.0)])


def test_methods_become_json_that_reads_back():
    for method in expand(METHODS, [sweep("bat", "alpha", "inf"), sweep("trades", "beta", 1)]):
        assert TypeAdapter(Method).validate_json(json.dumps(asdict(method))) == method
