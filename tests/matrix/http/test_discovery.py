"""Finding the homeserver: where it is said to be, or where .well-known leads on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bot.core.outcomes import Done, Unreachable
from bot.matrix.http.discovery import find
from bot.matrix.login.session import LoginError
from tests.support.scripted_homeserver import StandIn, error
from tests.support.web_servers import HOMESERVER, VERSIONS, WELL_KNOWN, Site, leads_to

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_homeserver_that_answers_itself_is_asked_for_nothing_more() -> None:
    async with Site() as site:
        outcome = await find(site.url)
        assert isinstance(outcome, Done)
        assert outcome.body["homeserver"] == site.url
        assert site.asked == [VERSIONS]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_well_known_is_followed_where_no_homeserver_answers(slash: str) -> None:
    async with Site() as homeserver, Site(leads_to(homeserver.url + slash)) as site:
        outcome = await find(site.url)
        assert isinstance(outcome, Done)
        assert outcome.body["homeserver"] == homeserver.url
        assert site.asked == [VERSIONS, WELL_KNOWN]


async def test_a_homeserver_below_a_path_is_found_by_the_roots_well_known() -> None:
    below = {f"/matrix{path}": answer for path, answer in HOMESERVER.items()}
    async with Site(below) as homeserver, Site() as site:
        site.answers = leads_to(f"{homeserver.url}/matrix")
        outcome = await find(f"{site.url}/somewhere")
        assert isinstance(outcome, Done)
        assert outcome.body["homeserver"] == f"{homeserver.url}/matrix"


async def test_a_redirect_is_followed_to_where_logins_can_be_sent() -> None:
    async with Site() as homeserver:
        redirect = {VERSIONS: (301, f"{homeserver.url}{VERSIONS}")}
        async with Site(redirect) as site:
            outcome = await find(site.url)
    assert isinstance(outcome, Done)
    assert outcome.body["homeserver"] == homeserver.url


@pytest.mark.parametrize(
    "well_known",
    [
        {},
        {WELL_KNOWN: "not JSON"},
        {WELL_KNOWN: {}},
        {WELL_KNOWN: []},
        {WELL_KNOWN: {"m.homeserver": "x"}},
        {WELL_KNOWN: {"m.homeserver": {"base_url": 7}}},
        {WELL_KNOWN: {"m.homeserver": {"base_url": "x" * 100_000}}},
        {WELL_KNOWN: (302, WELL_KNOWN)},
    ],
)
async def test_where_nothing_leads_on_there_is_no_homeserver(well_known: dict[str, Any]) -> None:
    async with Site(well_known) as site:
        outcome = await find(site.url)
    assert isinstance(outcome, Unreachable)


@pytest.mark.parametrize(
    "address",
    ["matrix.example.org", "ftp://example.org", "http://", "http://a b", "http://me@example.org"],
)
async def test_an_address_that_cannot_be_used_is_named(address: str) -> None:
    async with Site(leads_to(address)) as site:
        with pytest.raises(LoginError) as caught:
            await find(site.url)
    assert repr(address) in str(caught.value)
    assert "set homeserver to" in str(caught.value)


async def test_where_it_leads_to_is_named_while_no_homeserver_answers_there() -> None:
    async with Site({}) as gone, Site(leads_to(gone.url)) as site:
        outcome = await find(site.url)
    assert isinstance(outcome, Unreachable)
    assert gone.url in outcome.reason
    assert "a web page, status 404" in outcome.reason


@pytest.mark.parametrize("versions", [[], {}, {"versions": "v1.1"}, {"versions": None}])
async def test_who_names_no_versions_is_no_homeserver(versions: Any) -> None:
    async with Site({VERSIONS: versions}) as site:
        assert isinstance(await find(site.url), Unreachable)
        assert site.asked == [VERSIONS, WELL_KNOWN]


async def test_who_is_away_is_not_asked_for_another() -> None:
    outcome = await find("http://127.0.0.1:9")
    assert outcome == Unreachable(reason="ClientConnectorError")


async def test_a_certificate_that_nobody_trusts_is_said(tmp_path: Path) -> None:
    async with Site({}, tmp_path) as site:
        outcome = await find(site.url)
    assert isinstance(outcome, Unreachable)
    assert outcome.reason.startswith("the certificate is not trusted: ")


@pytest.mark.parametrize(
    ("status", "errcode", "why"),
    [
        (429, "M_LIMIT_EXCEEDED", "status 429"),
        (404, "M_NOT_FOUND", "status 404 M_NOT_FOUND"),
        (403, "M_FORBIDDEN", "status 403 M_FORBIDDEN"),
        (500, "M_UNKNOWN", "status 500"),
        (400, "M_UNKNOWN", "status 400"),
    ],
)
async def test_why_nobody_answers_there_is_said(
    stand_in: StandIn, status: int, errcode: str, why: str
) -> None:
    stand_in.answers = [error(status, errcode)]
    async with Site(leads_to(stand_in.url)) as site:
        outcome = await find(site.url)
    led = f"its .well-known leads to {stand_in.url}, which is no homeserver now"
    assert outcome == Unreachable(reason=f"{led}: {why}")
