"""The order of the house: imports run downwards, without circles among modules or rooms."""

from docs import draw_floors
from tests import house


def test_every_room_has_a_floor():
    rooms = {house.room(module) for module in house.modules()} - {""}
    assert rooms == set(house.LEVEL)


def test_imports_run_downwards():
    assert house.against_the_floors() == []


def test_no_circles_of_modules():
    assert house.circles(house.imports()) == []


def test_no_circles_of_rooms():
    assert house.circles(house.room_imports()) == []


def test_the_picture_of_the_floors_is_current():
    assert (house.ROOT / "docs" / "floors.svg").read_text() == draw_floors.draw()
