"""Tells texts in a wrong script (`in_wrong_script`) or language (`in_wrong_language`)."""

from __future__ import annotations

import functools
from typing import Any

import langcodes
import regex
from langcodes.data_dicts import LIKELY_SUBTAGS

from distill.errors import InputError

# Scripts of ISO 15924 that are several of Unicode's.
_MIXED_SCRIPTS = {
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Jpan": ("Hani", "Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
}
_LEAST_SHARE = 0.5

# Shorter texts carry too little to be identified.
_LEAST_CHARACTERS = 20
# A text is dropped only when its own language is as unlikely as this.
_LEAST_CONFIDENCE = 0.05
# Languages a corpus is likely to be polluted with, beside the pair's own.
_LIKELY_OTHERS = ("en", "fr", "de", "es", "pt", "ar", "ru", "id")


def script_of(language: str) -> str:
    """The script (ISO 15924) of a pair's language: as its code says, else as CLDR has it.

    Args:
        language: a code such as ``sw``, ``kan``, ``sr_Cyrl`` or ``zh_TW``.

    Raises:
        InputError: the code names no script and CLDR does not know the language.
    """
    try:
        tag = langcodes.Language.get(language.replace("_", "-")).prefer_macrolanguage()
        known = any(
            broader in LIKELY_SUBTAGS and not broader.startswith("und")
            for broader in tag.broader_tags()
        )
        script = tag.script or (tag.maximize().script if known else None)
        if script is not None:
            _letters_of(script)
            return str(script)
    except (langcodes.LanguageTagError, regex.error):
        pass
    code = language.partition("_")[0]
    raise InputError(
        f"check_script: the script of {language!r} is not known",
        "a language of Unicode's CLDR, or a code with its script",
        f"write the script in the pair's code, such as {code}_Latn if it is written in Latin "
        "letters, or leave the check out",
    )


@functools.lru_cache(maxsize=256)
def _letters_of(script: str) -> regex.Pattern[str]:
    scripts = "".join(rf"\p{{scx={each}}}" for each in _MIXED_SCRIPTS.get(script, (script,)))
    return regex.compile(rf"(?V1)[\p{{L}}&&[{scripts}]]")


_LETTER = regex.compile(r"\p{L}")


@functools.lru_cache(maxsize=256)
def _letters_of_language(language: str) -> regex.Pattern[str]:
    return _letters_of(script_of(language))


def in_wrong_script(text: str, language: str) -> bool:
    """Whether less than half of the letters are of the language's script. No letters: False."""
    letters = len(_LETTER.findall(text))
    right = len(_letters_of_language(language).findall(text))
    return right < _LEAST_SHARE * letters


def require_identifier(languages: tuple[str, ...]) -> None:
    """Check that the identifier is installed and knows the languages.

    Raises:
        InputError: it is not, or it does not.
    """
    try:
        import lingua
    except ImportError as error:
        raise InputError(
            "language_identifier lingua: not installed",
            "the package lingua-language-detector",
            "pip install lingua-language-detector, or leave the check out",
        ) from error
    known = {language.iso_code_639_1.name.lower() for language in lingua.Language.all()}
    for language in languages:
        if _two_letters(language) not in known:
            raise InputError(
                f"language_identifier lingua: {language!r}",
                f"one of its {len(known)} languages",
                "leave the check out for this pair",
            )


@functools.lru_cache(maxsize=256)
def _two_letters(language: str) -> str:
    """The code of ISO 639-1 where there is one: ``kn`` for ``kan_Knda``."""
    code = language.partition("_")[0]
    try:
        return str(langcodes.Language.get(code).prefer_macrolanguage().language)
    except langcodes.LanguageTagError:
        return code


@functools.lru_cache(maxsize=8)
def _detector(languages: tuple[str, ...]) -> Any:
    import lingua

    chosen = [getattr(lingua.IsoCode639_1, code.upper()) for code in languages]
    return lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).build()


def in_wrong_language(text: str, language: str, other: str) -> bool:
    """Whether a text is surely not in its language, by lingua.

    Args:
        text: a sentence; one of fewer than 20 characters is never judged.
        language: the language it should be in.
        other: the other language of its pair, in which untranslated lines are.
    """
    if len(text) < _LEAST_CHARACTERS:
        return False
    import lingua

    code, other_code = _two_letters(language), _two_letters(other)
    candidates = tuple(sorted({code, other_code, *_LIKELY_OTHERS}))
    expected = lingua.Language.from_iso_code_639_1(getattr(lingua.IsoCode639_1, code.upper()))
    confidence = _detector(candidates).compute_language_confidence(text, expected)
    return float(confidence) < _LEAST_CONFIDENCE
