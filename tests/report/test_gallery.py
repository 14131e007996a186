"""The command that draws views, and the picture that it writes."""


import numpy as np
import pytest
from PIL import Image

from command_line import run, script
from ipcl_jax.commands.recipes import load
from ipcl_jax.data.sources import open_source
from ipcl_jax.errors import ConfigError
from ipcl_jax.report.gallery import contact_sheet, draw_sheet
from ipcl_jax.report.run_page import ContactSheet

SMALL = "--config ipcl_smoke --data.source sample --views.size 63 --views.per-image 2 --views.blur 0.5".split()


@pytest.mark.slow
def test_the_command_draws_the_views_that_a_run_would_see(tmp_path):
    said = run("views.py", *SMALL, "--images", "3", "--seed", "4", "--out", "new/views.png", cwd=tmp_path)
    assert "new/views.png" in said and "seed 4" in said
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == ["new/views.png"]
    picture = np.asarray(Image.open(tmp_path / "new/views.png"))

    config = load([*SMALL, "--seed", "4"], "")
    sheet = contact_sheet(open_source("sample", "train"), config, n_images=3)
    np.testing.assert_array_equal(picture, np.asarray(draw_sheet(sheet)))


def test_the_sheet_keeps_pixels_and_proportions():
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (2, 3, 70, 70, 3), dtype=np.uint8)
    originals = [np.full((50, 100, 3), 7, np.uint8), np.full((30, 10, 3), 9, np.uint8)]
    picture = np.asarray(draw_sheet(ContactSheet(originals=originals, views=views), cell=150))
    assert picture.shape == (4 + 2 * 144, 8 + 4 * 144, 3)  # 70 pixels, twice as large, and gaps of 4
    for row in range(2):
        for column in range(3):
            top, left = 4 + row * 144, 8 + (column + 1) * 144
            shown = picture[top : top + 140, left : left + 140]
            np.testing.assert_array_equal(shown, views[row, column].repeat(2, 0).repeat(2, 1))
    assert [(picture[:, :148] == value).all(-1).sum() for value in (7, 9)] == [140 * 70, 140 * 47]
    large = rng.integers(0, 256, (1, 1, 224, 224, 3), dtype=np.uint8)
    picture = np.asarray(draw_sheet(ContactSheet(originals=originals[:1], views=large)))
    np.testing.assert_array_equal(picture[4:228, 236:460], large[0, 0])


def test_what_cannot_be_drawn_is_refused_and_nothing_is_overwritten(tmp_path):
    views = script("views.py")

    def refused(match: str, *arguments: str) -> None:
        with pytest.raises(ConfigError, match=match):
            views.draw(load([*SMALL, *arguments], "", views.Sheet))

    notes = tmp_path / "notes.png"
    notes.write_text("not a picture")
    refused("is there already and no picture", "--out", str(notes))
    assert notes.read_text() == "not a picture"
    refused("ends in .png, .jpg, .jpeg", "--out", str(tmp_path / "views"))
    refused("ends in .png, .jpg, .jpeg", "--out", str(tmp_path / "views.gif"))
    (tmp_path / "folder.png").mkdir()
    refused("is a folder", "--out", str(tmp_path / "folder.png"))
    out = tmp_path / "views.png"
    refused("--images is 0", "--out", str(out), "--images", "0")
    refused("--views.rotation is 270", "--out", str(out), "--views.rotation", "270")
    refused("at least 63", "--out", str(out), "--views.size", "62")
    refused("sample", "--out", str(out), "--data.source", "smaple")
    assert not out.exists()


def test_a_picture_is_replaced_and_images_may_be_fewer(tmp_path):
    views = script("views.py")

    out = tmp_path / "views.jpg"
    Image.new("RGB", (3, 3)).save(out)
    for i in range(21):  # one in twenty is held out
        Image.new("RGB", (70, 80), (i, 2 * i, 3 * i)).save(tmp_path / f"{i}.png")
    arguments = [*SMALL, "--data.source", f"folder:{tmp_path}", "--images", "500", "--out", str(out)]
    assert views.draw(load(arguments, "", views.Sheet)) == out
    with Image.open(out) as picture:
        assert picture.width == 8 + 3 * (3 * 63 + 4) and picture.height > 19 * (3 * 63)


def test_help_names_the_fields_of_the_picture(tmp_path):
    said = run("views.py", "--config", "ipcl_smoke", "--help", cwd=tmp_path)
    for text in ("--images", "Picture to write", "--views.distortion", "Folder of the run"):
        assert (text in said) == (text != "Folder of the run"), text
    assert "give --config NAME" in run("views.py", code=2, cwd=tmp_path)
