"""All that people read: both languages say the same with the same places, and everything is said somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

from recllm.audiences.exclusions import ExclusionReason
from recllm.campaigns.export import BOUNCED, ERASED, SUPPRESSED, UNAPPROVED, WITHDRAWN
from recllm.start.page import words_of
from recllm.text.templates import Prompts, domain_names
from recllm.words.sentences import LANGUAGES, language_of, section, sentences
from recllm.words.words import Words

PACKAGE = Path(__file__).resolve().parents[1] / "recllm"
ALIKE = {"start.way.recllm"}
"""Names that are the same in every language."""


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def domain_words() -> set[str]:
    return {w for name in domain_names() for words in Prompts.load().domain(name).words.values() for w in words}


def test_both_languages_say_the_same_with_the_same_places() -> None:
    files = [{file.name for file in (PACKAGE / "words" / language).iterdir()} for language in LANGUAGES]
    english, *others = (sentences(language) for language in LANGUAGES)
    assert all(names == files[0] for names in files) and len(english) > 1_000
    for translated in others:
        assert english.keys() == translated.keys()
        of_domain = domain_words()  # a language may need more or fewer of them
        faults = [
            path
            for path, text in english.items()
            if not text.strip()
            or not translated[path].strip()
            or places(text) - of_domain != places(translated[path]) - of_domain
            or (text == translated[path]) != (path in ALIKE)
        ]
        assert not faults


def test_no_path_stands_in_two_files() -> None:
    for language in LANGUAGES:
        tables = [file.read_text("utf-8") for file in (PACKAGE / "words" / language).iterdir()]
        n_lines = sum(len(re.findall(r"^[\w-]+ = ", text, re.MULTILINE)) for text in tables)
        assert n_lines == len(sentences(language)), language


def test_prompts_of_both_languages_take_the_same_variables() -> None:
    templates = Prompts.load().templates
    shapes = [
        {name: template.variables for (name, of), template in templates.items() if of == language}
        for language in LANGUAGES
    ]
    assert all(shape == shapes[0] for shape in shapes) and {of for _, of in templates} == set(LANGUAGES)


def test_every_sentence_that_is_asked_for_exists_and_is_used() -> None:
    templates = "".join(file.read_text("utf-8") for file in PACKAGE.rglob("*.j2"))
    code = "".join(file.read_text("utf-8") for file in PACKAGE.rglob("*.py"))
    asked = set(re.findall(r"""\b(?:say|words\.label)\(\(?["']([\w.]+)["'](?! ~)""", templates + code))
    assert asked <= set(sentences("en"))
    begun = set(re.findall(r"""["']([\w.]+\.)["'] ~""", templates))
    begun |= set(re.findall(r"""f["']([\w.]+\.)\{""", code))
    begun |= {"basic.", "people.", "notice.", "models.", "sign_in.", "error."}
    named = set(re.findall(r"""["']([a-z_]+(?:\.\w+)+)["']""", templates + code))
    labels = set(re.findall(r"""labels\.(\w+)|["'](\w+)["']""", templates + code))
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
                    assert "{" not in words.say(path, **dict.fromkeys(places(text) - set(words.domain), "7")), path


def test_every_reason_for_leaving_people_out_has_words() -> None:
    for language in LANGUAGES:
        assert section("left_out", language).keys() >= {
            *ExclusionReason,
            *(ERASED, BOUNCED, WITHDRAWN, SUPPRESSED, UNAPPROVED),
        }


def test_a_language_without_words_reads_english() -> None:
    assert language_of("fr-CA") == language_of("") == language_of("en_GB") == "en"
    assert language_of("zh-Hans-CN") == language_of("ZH_tw@media") == "zh"
    assert section("left_out", "fr") == section("left_out", "en") and not section("left", "en")


def test_values_are_written_as_the_language_writes_them() -> None:
    english, chinese = Words("en", "EUR"), Words("zh", "CNY", domain={"purchase": "次观看"})
    assert english.say("home.pending", n=1234) != chinese.say("home.pending", n=1234)
    assert "次观看" in chinese.say("start.about", n=1234) and "1,234" in chinese.say("start.about", n=1234)
    assert english.label("basic.nothing", "x") == "x" and english.basic("shoe_size") == "shoe size"
