"""When is an answer the right one? How the final answer is found in a text, and when two answers are equal.

The final answer of a text, what follows its last `</think>`, is the first of these that it has:
  1. what stands in its last `\boxed{...}`;  2. in its last `<answer>...</answer>`;  3. after its last `####`;
  4. what follows the last `answer is`, `answer:`, `答案是`, `答案为` or `答案：` on the same line;
  5. where a number is expected, its last number;
  6. its last line, or the whole text where the expected answer has several lines.

Two answers are equal when both are one number of the same value: `42` = `42.0` = `$42` = `= 42.`, `1,000` = `1000`,
`1/2` = `0.5`, `5e3` = `5000`, `50%` = `50`. Where 1 to 4 lead to more than a number ("42 apples"), its first number
counts. The comparison is exact (fractions, not floats). All else is compared as text: NFKC, lower case, white space as
one space, without the marks around it (quotes, brackets, asterisks, a full stop).
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

# at most 100 digits: no answer is longer, and Python refuses to read thousands of them
_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3}){1,30}|\d{1,100})(?:\.\d{1,100})?(?:[eE][-+]?\d{1,3})?|[-+]?\.\d{1,100}"
_RATIO = rf"(?:{_NUMBER})(?: ?/ ?\d{{1,100}})?"
_IN_TEXT = re.compile(rf"(?<![\w.])(?:{_RATIO})(?!\d)")
_WHOLE = re.compile(rf"[$€£¥]? ?({_RATIO}) ?%?\.?")
_MARKER = re.compile(r"(?:answer\s*(?:is\b|:)|答案(?:是|为|:))\s*:?(.*)", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_AROUND = " \t\n\"'`*_()[]{}<>“”‘’「」.。,!?;:="


def is_right(completion: str, expected: str) -> bool:
    """Whether the final answer of `completion` is `expected` (a text of its own, or a solution that ends in one)."""
    right = final_answer(expected, None)
    number = as_number(right)
    given = final_answer(completion, right)
    if number is None:
        return plain(given) == plain(right) if plain(right) else given == right
    value = as_number(given)
    if value is None:  # "is 42 apples": the first number of what a marker pointed to
        found = _IN_TEXT.search(given)
        value = as_number(found[0]) if found else None
    return value == number


def final_answer(text: str, expected: str | None) -> str:
    """The final answer of a text; `expected` decides what counts where nothing marks it (None: the text is one)."""
    text = _written_plainly(text).rpartition("</think>")[2].strip()
    marked = _marked(text)
    if marked is not None:
        return marked.strip()
    if expected is None or "\n" in expected:
        return text
    if as_number(expected) is not None:
        numbers = _IN_TEXT.findall(text)
        return numbers[-1] if numbers else text
    return text.splitlines()[-1] if text else ""


def _written_plainly(text: str) -> str:
    """One way to write each character (NFKC), the minus sign and the fraction."""
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").replace("\N{FRACTION SLASH}", "/")
    return _FRACTION.sub(r"\1/\2", text)


def _marked(text: str) -> str | None:
    boxed = text.rfind("\\boxed{")
    if boxed >= 0:
        return _inside_braces(text[boxed + len("\\boxed{") :])
    tagged = _TAGGED.findall(text)
    if tagged:
        return tagged[-1]
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0]
    phrases = _MARKER.findall(text)
    return phrases[-1] if phrases and phrases[-1].strip(_AROUND) else None


def _inside_braces(text: str) -> str:
    """Up to the brace that closes the one before `text`; all of it when none does."""
    depth = 1
    for position, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:position]
    return text


def as_number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else; None for any other."""
    match = _WHOLE.fullmatch(_written_plainly(text).strip(_AROUND.replace(".", "")))
    if match is None:
        return None
    numerator, _, denominator = match[1].replace(",", "").partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator.strip()) / (int(denominator) if denominator else 1)


def plain(text: str) -> str:
    """A text as it is compared: NFKC, lower case, single spaces, nothing around it."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)
