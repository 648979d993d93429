"""All that people read: both languages say the same with the same places, and everything is said somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

from recllm.base.words.sentences import LANGUAGES, language_of, section, sentences
from recllm.doors.start.shop import words_of
from recllm.market.audiences.exclusions import ExclusionReason
from recllm.market.campaigns.export import BOUNCED, ERASED, SUPPRESSED, UNAPPROVED, WITHDRAWN
from recllm.market.campaigns.texts import Silence
from recllm.text.templates import Prompts, domain_names

PACKAGE = Path(__file__).resolve().parents[1] / "recllm"
SPEAKING = ("doors/console", "doors/service", "doors/start", "market/campaigns", "market/audiences")
"""The rooms that ask for sentences."""
UNCOUNTED = re.compile(r"\{(?!floor|least|ours|name|title|file)\w+\} (more )?\w+s\b(?<! is)")  # {n:day|days} fits 1
ALIKE = {"start.way.recllm"}
"""Names that are the same in every language."""


def places(path: str, text: str) -> set[str]:
    names = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    if not path.startswith("start."):
        return names
    domains = [Prompts.load().domain(name).words for name in domain_names()]
    return names - {word for words in domains for of_language in words.values() for word in of_language}


def test_both_languages_say_the_same_with_the_same_places() -> None:
    files = [{file.name for file in (PACKAGE / "base" / "words" / language).iterdir()} for language in LANGUAGES]
    english, chinese = (sentences(language) for language in LANGUAGES)
    assert files[0] == files[1] and english.keys() == chinese.keys() and len(english) > 1_000
    lines = "".join((PACKAGE / "base" / "words" / "en" / name).read_text("utf-8") for name in files[0])
    assert len(re.findall(r"^[\w-]+ = ", lines, re.MULTILINE)) == len(english), "a path stands in two files"
    for path, text in english.items():
        assert text.strip() and chinese[path].strip(), path
        assert places(path, text) == places(path, chinese[path]), path
        assert (text == chinese[path]) == (path in ALIKE), path
        assert not UNCOUNTED.search(text), path
    assert words_of("en").say("start.readers", n=1) == "1 reader" and words_of("zh").say("start.readers", n=1)


def test_prompts_of_both_languages_take_the_same_variables() -> None:
    templates = Prompts.load().templates
    shapes = [{(name, t.variables) for (name, of), t in templates.items() if of == lang} for lang in LANGUAGES]
    assert shapes[0] == shapes[1] and {of for _, of in templates} == set(LANGUAGES)


def test_every_sentence_that_is_asked_for_exists_and_is_used() -> None:
    files = [file for room in SPEAKING for file in (PACKAGE / room).rglob("*.*") if file.suffix in (".j2", ".py")]
    files += [PACKAGE / "doors" / "console" / "tables.toml"]
    texts = {kind: "".join(f.read_text("utf-8") for f in files if f.suffix == kind) for kind in (".j2", ".py", ".toml")}
    templates, code = texts[".j2"], texts[".py"] + texts[".toml"]
    asked = set(re.findall(r"""\b(?:say|words\.label)\(\(?["']([\w.]+)["'](?! ~)""", templates + code))
    assert asked <= set(sentences("en"))
    begun = set(re.findall(r"""["']([\w.]+\.)["'] ~""", templates))
    begun |= set(re.findall(r"""f["']([\w.]+\.)\{""", code))
    begun |= {f"{path}." for path in re.findall(r'words = "([\w.]+)"', texts[".toml"])}
    begun |= {"basic.", "people.", "notice.", "models.", "sign_in.", "error."}
    named = set(re.findall(r"""["']([a-z_]+(?:\.\w+)+)["']""", templates + code))
    codes = "".join(file.read_text("utf-8") for file in PACKAGE.rglob("*.py"))  # what labels are chosen by
    labels = set(re.findall(r"""labels\.(\w+)|["'](\w+)["']""", templates + codes))
    sections = set(re.findall(r"""\bsection\(f?["']([\w.]+)""", code))
    labelled = {f"{path}.{name}" for path in sections for pair in labels for name in pair if name}
    parts = re.findall(r"""labels\[f?["'](\w+_)(?:["'] ~|\{)""", templates + code)
    begun |= {f"{path}.{part}" for path in sections for part in parts}
    used = asked | named | labelled
    assert not {path for path in sentences("en") if path not in used and not path.startswith(tuple(begun))}


def test_every_sentence_of_the_first_page_can_be_said_in_every_domain() -> None:
    for domain in domain_names():
        for language in LANGUAGES:
            words = words_of(f"{language}@{domain}")
            for path, text in sentences(language).items():
                if path.startswith("start."):
                    assert "{" not in words.say(path, **dict.fromkeys(places(path, text), "7")), path


def test_every_reason_for_leaving_people_out_has_words() -> None:
    codes = {*ExclusionReason, *Silence, ERASED, BOUNCED, WITHDRAWN, SUPPRESSED, UNAPPROVED}
    assert section("left_out", "en").keys() >= codes


def test_a_language_without_words_reads_english() -> None:
    assert language_of("fr-CA") == language_of("") == language_of("en_GB") == "en"
    assert language_of("zh-Hans-CN") == language_of("ZH_tw@media") == "zh"
    assert section("left_out", "fr") == section("left_out", "en") and not section("left_out.minor", "en")
