"""Model hosts over HTTP: what admins see of breakers, slots and queues, and change by hand."""

from tests.store.test_usage_http import Office, place

__all__ = ["place"]

HOST = "http://localhost:11434"


async def test_a_host_is_shown_with_its_slots_and_its_queue(place: Office) -> None:
    (shown,) = (await place.get("eye", "/admin/breakers")).json()["hosts"]
    assert (shown["host"], shown["state"], shown["in_flight"]) == (HOST, "closed", 0)
    for _ in range(6):
        await place.hold_a_slot("ann", HOST)
    (shown,) = (await place.get("eye", "/admin/breakers")).json()["hosts"]
    assert shown["in_flight"] == 4
    assert {one["client"] for one in shown["slots"]} == {"ann"}
    assert [one["position"] for one in shown["waiting"]] == [1, 2]


async def test_tripping_and_resetting_are_seen_and_remembered(place: Office) -> None:
    path = f"/admin/breakers/{HOST}"
    assert (await place.ask("POST", "eye", f"{path}/trip")).status_code == 403
    tripped = await place.ask("POST", "admin", f"{path}/trip", json={"open_s": 60})
    assert tripped.status_code == 204
    (shown,) = (await place.get("eye", "/admin/breakers")).json()["hosts"]
    assert (shown["state"], 50 < shown["opens_in_s"] <= 60) == ("open", True)
    assert (await place.ask("POST", "admin", f"{path}/reset")).status_code == 204
    changes = (await place.get("eye", "/admin/breakers/history")).json()["changes"]
    assert [(one["was"], one["state"], one["by_hand"]) for one in changes] == [
        ("open", "closed", True),
        ("closed", "open", True),
    ]
    page = (await place.get("eye", f"/admin/breakers/history?limit=1&host={HOST}")).json()
    assert page["cursor"] == changes[0]["id"]
    assert (await place.ask("POST", "admin", "/admin/breakers/http://no/reset")).status_code == 404


async def test_what_failures_do_is_remembered_too(place: Office) -> None:
    for _ in range(5):
        await place.fail_once("ann", HOST)
    (change,) = (await place.get("admin", "/admin/breakers/history")).json()["changes"]
    assert (change["state"], change["failures"], change["by_hand"]) == ("open", 5, False)


async def test_a_host_of_former_settings_is_told_apart(place: Office) -> None:
    await place.fail_once("ann", "http://former:11434")
    shown = (await place.get("eye", "/admin/breakers")).json()["hosts"]
    assert {one["host"]: one["configured"] for one in shown} == {
        HOST: True,
        "http://former:11434": False,
    }
