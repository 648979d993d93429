"""One tree of settings: the same names and checks in Python, in TOML and on the command line."""

from __future__ import annotations

import json
import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from tables import table
from test_cli import document
from test_training import DATA
from typer.main import get_command

from recllm.base.documents import FrozenModel, note_retired, retired_settings, without_retired
from recllm.base.errors import StoreError, UsageError
from recllm.base.settings import (
    LoraSettings,
    ScorerTrainingSettings,
    Settings,
    read_settings_file,
    sections,
    setting_names,
)
from recllm.doors.cli.main import app
from recllm.doors.cli.options import read_settings
from recllm.learn.training.advise import advise
from recllm.recommend.recommender import shop_recommender
from recllm.recommend.recommender.registry import publish
from recllm.recommend.recommender.train import settings_in_use
from recllm.shop.workspace.workspace import SETTINGS_FILE, Workspace, overridden

NAMES = setting_names()
PACKAGE = Path(__file__).resolve().parents[1] / "recllm"


def other_value(section: str, name: str) -> Any:
    """A value that the field takes and that is not its default."""
    special = table("settings", "values that are not the default")
    if f"{section}.{name}" in special:
        return special[f"{section}.{name}"]
    model = sections()[section]
    default = model.model_fields[name].default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2 or 0.5
    if isinstance(default, tuple) and default and not isinstance(default[0], str | Enum):
        return [default[0], default[1] + 1]
    return 3 if default is None else ["tea", "cup"]


def test_python_toml_and_command_line_say_the_same(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_server").url()
    for number, section in enumerate(dict.fromkeys(section for section, _ in NAMES)):
        values = {name: other_value(section, name) if name != "store" else url for s, name in NAMES if s == section}
        for name, value in values.items():
            in_python = settings_of(section, {name: value})
            assert in_python != Settings(), (section, name)
            in_words = str(value).lower() if value in (0, 1) else str(value)
            text = ",".join(map(str, value)) if isinstance(value, list) else in_words
            assert Settings(**read_settings([f"{section}.{name}={text}".lstrip(".")])) == in_python, (section, name)
        folder, everything = tmp_path / str(number), settings_of(section, values)
        Workspace.create(folder, **everything.table()).close()
        with Workspace.open(folder) as opened:
            assert opened.settings == everything, section
            assert tomllib.loads((folder / SETTINGS_FILE).read_text("utf-8")).items() >= everything.table().items()


def settings_of(section: str, values: dict[str, Any]) -> Settings:
    return Settings(**({section: sections()[section](**values)} if section else values))


def test_none_is_written_as_a_word_where_it_is_not_the_default() -> None:
    settings = Settings(lora=LoraSettings(max_minutes=None))
    assert settings.table()["lora"] == {"max_minutes": "none"}
    assert Settings(**settings.table()) == settings
    assert Settings(**read_settings(["lora.max_minutes=none"])) == settings


@pytest.mark.parametrize("section", sections())
def test_every_class_is_frozen_documented_and_refuses_unknown_names(section: str) -> None:
    model = sections()[section]
    assert issubclass(model, FrozenModel) and model.__doc__
    undocumented = [n for n, field in model.model_fields.items() if not field.description and n not in sections()]
    assert not undocumented
    with pytest.raises(UsageError, match="unknown setting"):
        model(colour="red")
    settings = model()
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, next(iter(model.model_fields)), None)


def test_what_is_wrong_is_named_with_section_field_value_and_range() -> None:
    for option, says in table("settings", "what is wrong is named with section field value and range"):
        with pytest.raises(UsageError) as caught:
            Settings(**read_settings([option]))
        assert says in str(caught.value) and "\n" not in str(caught.value), option


def test_a_copy_is_checked_and_remembers_what_was_set() -> None:
    settings = ScorerTrainingSettings(epochs=5)
    assert settings.model_copy(update={"heads": 1}).explicit() == {"epochs": 5, "heads": 1}
    with pytest.raises(UsageError, match="epochs: 0 is not"):
        settings.model_copy(update={"epochs": 0})
    with pytest.raises(UsageError, match="did you mean batch_size"):
        settings.model_copy(update={"batch_sise": 4})


def test_settings_of_a_call_stand_above_those_of_the_file(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "shop", scorer={"epochs": 7, "heads": 4}).close()
    with overridden({"scorer": {"epochs": 5}}), Workspace.open(tmp_path / "shop") as opened:
        assert opened.settings.scorer.explicit() == {"epochs": 5, "heads": 4}
    with Workspace.open(tmp_path / "shop") as opened:
        assert opened.settings.scorer.explicit() == {"epochs": 7, "heads": 4}
    with pytest.raises(UsageError, match="did you mean epochs"), overridden({"scorer": {"epoch": 5}}):
        pytest.fail("a wrong setting was let in")


def test_a_wrong_section_of_the_file_is_named(tmp_path: Path) -> None:
    Workspace.create(tmp_path).close()
    with (tmp_path / SETTINGS_FILE).open("a") as file:
        file.write("\n[scorer]\nepoch = 3\n")
    with pytest.raises(
        StoreError, match=r"workspace\.toml cannot be used: unknown setting scorer\.epoch; did you mean"
    ):
        Workspace.open(tmp_path)


@pytest.mark.parametrize("content", ["[scorer]\nepoch = 3\n", "[scorer\n", "[scorer]\nepochs = 0\n"])
def test_a_wrong_recipe_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "recipe.toml").write_text(content)
    with pytest.raises(UsageError, match=r"recipe\.toml cannot be used"):
        read_settings_file(tmp_path / "recipe.toml")
    with pytest.raises(UsageError, match=r"gone\.toml cannot be used"):
        read_settings_file(tmp_path / "gone.toml")


def test_every_setting_is_read_by_some_room() -> None:
    rooms = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "base" / "settings.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in rooms)
    by_method = {("oidc", "group_scopes")}  # a method of the settings reads it
    unread = [(s, n) for s, n in NAMES if (s, n) not in by_method and not re.search(rf"\.{n}\b", text)]
    assert not unread


def test_what_can_no_longer_be_set_may_say_what_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = retired_settings()
    assert not [(s, n) for s, table in gone.items() for n in table if (s, n) in NAMES]
    caplog.set_level("WARNING")
    note_retired.cache_clear()
    assert Settings(**{section: dict(table) for section, table in gone.items()}) == Settings()
    assert len(caplog.records) == sum(map(len, gone.values()))
    Workspace.create(tmp_path).close()
    file = tmp_path / SETTINGS_FILE
    whole = file.read_text()
    file.write_text(
        whole + "\n[scorer]\nepochs = 4\ndropout = 0.0\n\n[search]\nwords = 300\n\n[oidc]\ntitle = 'Staff'\n"
    )
    with Workspace.open(tmp_path) as opened:
        assert opened.settings == Settings(scorer={"epochs": 4})
    for lines, says in table("settings", "what is no setting any more"):
        file.write_text(f"{whole}\n{lines}\n")
        with pytest.raises(StoreError, match=says):
            Workspace.open(tmp_path)


def test_a_model_that_counted_by_a_value_that_is_gone_is_not_opened() -> None:
    fixed = retired_settings()["collaborative"]
    assert without_retired("collaborative", {**fixed, "neighbours": 3}) == {"neighbours": 3}
    with pytest.raises(UsageError, match=r"collaborative\.recent_days: it is no longer a setting.* not 14"):
        without_retired("collaborative", {**fixed, "recent_days": 14})


def test_training_takes_advice_then_the_file_then_the_call(tmp_path: Path) -> None:
    advice = advise(DATA, [f"item {n}" for n in range(DATA.n_items)])
    settings = Settings(scorer={"epochs": 9})
    scorer, sequence = settings_in_use(settings, advice, DATA, heads=1)
    assert (scorer.epochs, scorer.heads) == (9, 1)
    if advice.training is not None:
        assert scorer.horizon_days == advice.training.horizon_days and scorer.timed == advice.training.timed
    assert sequence == advice.interests


def test_the_command_prints_values_defaults_and_where_each_came_from(run: Command, shop: Path) -> None:
    code, out, _ = run("settings", "-w", "shop", "--set", "scorer.epochs=5", "--json")
    rows = {(row["section"], row["name"]): row for row in document(out)["settings"]}
    assert code == 0 and list(rows) == NAMES
    epochs, limit, lines = rows["scorer", "epochs"], rows["policy", "reject_limit"], rows["retention", "events"]
    assert (epochs["value"], epochs["default"], epochs["from"]) == (5, 3, "option")
    assert (limit["value"], limit["default"], limit["from"]) == (0.5, 0.05, "workspace.toml")
    assert (lines["value"], lines["default"], lines["from"]) == (None, None, "default")
    assert epochs["range"] == "a whole number at least 1" and "evaluation" in epochs["doc"]
    code, out, _ = run("settings", "scorer", "-w", "shop", "--set", "scorer.epochs=5")
    assert code == 0 and "epochs = 5  (option; default 3)" in out and "[lora]" not in out
    code, _, err = run("settings", "scorr")
    assert code == 2 and "did you mean scorer?" in err
    assert run("settings", "retention")[0] == 0, "without a workspace the defaults are shown"


def test_every_command_that_opens_a_workspace_takes_settings() -> None:
    def commands(group: Any, path: str = "") -> dict[str, Any]:
        below = {}
        for name, command in group.commands.items():
            inner = commands(command, f"{path} {name}") if hasattr(command, "commands") else {f"{path} {name}": command}
            below |= inner
        return below

    found = commands(get_command(app))
    options = {path: {o for p in command.params for o in p.opts} for path, command in found.items()}
    assert len(options) > 20
    without = {path for path, names in options.items() if "--workspace" in names and "--set" not in names}
    assert not without


def test_a_setting_of_the_call_reaches_the_command(run: Command, shop: Path) -> None:
    arguments = ("ingest", "--dry-run", "log.csv", "--table", "events", "-w", "shop")  # one of its five rows is bad
    assert run(*arguments)[0] == 0
    assert run(*arguments, "--set", "policy.reject_limit=0.1")[0] == 2
    code, _, err = run(*arguments, "--set", "policy.reject_limt=0.1")
    assert code == 2 and "did you mean reject_limit" in err and err.count("\n") == 1


def test_models_are_listed_promoted_and_rolled_back(run: Command, shop: Path) -> None:
    code, _, err = run("models", "-w", "shop")
    assert code == 3 and "recllm train -w shop" in err
    for version in ("a", "b"):
        publish(shop / "models", lambda folder: (folder / "x.json").write_text("{}") and None, version=version)
    found = document(run("models", "-w", "shop", "--json")[1])
    assert found["serving"] == "b" and [v["version"] for v in found["versions"]] == ["a", "b"]
    assert document(run("models", "--promote", "previous", "-w", "shop", "--json")[1]) == {"serving": "a"}
    assert run("models", "--promote", "previous", "-w", "shop")[0] == 1
    assert run("models", "--promote", "b", "-w", "shop")[:2] == (0, "serving: b\n")
    (shop / "models" / "CURRENT").write_text("../x")
    code, _, err = run("recommend", "-u", "ann", "-w", "shop")
    assert code == 1 and "recllm models --promote VERSION -w shop" in err
    assert run("models", "-w", "shop")[0] == 0
    assert run("models", "--promote", "a", "-w", "shop")[0] == 0
    code, _, err = run("models", "--promote", "c", "-w", "shop")
    assert code == 1 and "known: a, b" in err


def test_refresh_names_the_version_that_serves(run: Command, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("refresh", "-w", "shop")
    assert code == 1 and "recllm train" in err
    monkeypatch.setattr(shop_recommender, "refresh", lambda workspace, progress: str(workspace.root))
    assert run("refresh", "-w", "shop") == (0, "serving: shop\n", "")


def test_the_wrong_word_for_an_option_is_refused(run: Command, shop: Path) -> None:
    for option in ("decimal=;", "date_order=ymd", "on_bad_bytes=quarantine", "anonymous=keep", "now=x"):
        code, _, err = run("ingest", "--dry-run", "items.csv", "--table", "items", "-w", "shop", "--read", option)
        assert code == 2 and option.split("=")[0] in err
    assert (
        json.loads(run("ingest", "--dry-run", "items.csv", "--table", "items", "-w", "shop", "--json")[1])["read"] == 4
    )
