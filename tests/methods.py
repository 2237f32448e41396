"""One entry of each method, for tests to vary."""

from dataclasses import replace
from typing import Any

from bat.config import Bat, BatMart, BatTrades, Dpls, Gairat, Mail, MailTrades, Mart, Method, Natural, PgdAt, Trades

_ADVERSARIAL: dict[str, Any] = {"eps_factor": 1.0, "awp": 0.0}
_BENIGN = _ADVERSARIAL | {
    "score": "memorization",
    "threshold": 0.15,
    "reweighting": True,
    "alpha": 1.0,
    "discrimination": True,
    "beta": 0.2,
    "temperature": 0.1,
}

NATURAL = Natural(name="natural", objective="natural")
PGD_AT = PgdAt(name="pgd_at", objective="pgd_at", **_ADVERSARIAL)
TRADES = Trades(name="trades", objective="trades", beta=6.0, **_ADVERSARIAL)
MART = Mart(name="mart", objective="mart", factor=5.0, **_ADVERSARIAL)
GAIRAT = Gairat(name="gairat", objective="gairat", offset=-1.0, burn_in=0.5, **_ADVERSARIAL)
_MARGINS = _ADVERSARIAL | {"factor": "mean_1", "burn_in": 0.63}
MAIL = Mail(name="mail", objective="mail", slope=10.0, bias=-0.5, **_MARGINS)
MAIL_TRADES = MailTrades(name="mail_trades", objective="mail_trades", trades_beta=6.0, slope=2.0, bias=0.0, **_MARGINS)
DPLS = Dpls(name="dpls", objective="dpls", score="memorization", smoothing=0.5, **_ADVERSARIAL)
BAT = Bat(name="bat", objective="bat", **_BENIGN)
BAT_TRADES = BatTrades(name="bat_trades", objective="bat_trades", trades_beta=6.0, **_BENIGN)
BAT_MART = BatMart(name="bat_mart", objective="bat_mart", mart_factor=5.0, **_BENIGN)
ADVERSARIAL: tuple[Method, ...] = (PGD_AT, TRADES, MART, GAIRAT, MAIL, MAIL_TRADES, DPLS, BAT, BAT_TRADES, BAT_MART)
METHODS: tuple[Method, ...] = (NATURAL, *ADVERSARIAL)


def but(method: Any, **changes: Any) -> Any:
    """Return the method with other values."""
    return replace(method, **changes)
