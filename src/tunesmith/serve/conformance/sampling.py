"""How answers are drawn and when they end."""

from __future__ import annotations

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Mode, Target, expect

CHECKS = Checks()
QUESTION = "Count from one to ten in words."


@CHECKS.add("max_tokens ends with length")
def _length(target: Target, mode: Mode) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        limits = {"max_tokens": 5} if field == "max_tokens" else {"max_tokens": None, "max_completion_tokens": 5}
        answer = target.chat(mode, QUESTION, **limits)
        expect(answer.first.finish_reason == "length", f"{field}: finish_reason is {answer.first.finish_reason}")
        expect((answer.usage or {})["completion_tokens"] == 5, f"{field}: {answer.usage} is not 5 tokens")


@CHECKS.add("a stop text ends with stop, and is not shown")
def _stop(target: Target, mode: Mode) -> None:
    whole = target.chat(mode, QUESTION).first.text
    expect(len(whole) > 9, f"the answer is too short to be stopped: {whole!r}")
    middle = whole[5:9]  # seldom on borders of tokens
    for given in (middle, ["never to be found", middle]):
        stopped = target.chat(mode, QUESTION, stop=given).first
        expect(stopped.text == whole[: whole.index(middle)], f"{stopped.text!r} is not {whole!r} up to {middle!r}")
        expect(stopped.finish_reason == "stop", f"finish_reason is {stopped.finish_reason}")


@CHECKS.add("n answers")
def _several(target: Target, mode: Mode) -> None:
    answer = target.chat(mode, QUESTION, n=2, max_tokens=8)
    expect(len(answer.choices) == 2, f"{len(answer.choices)} answers")
    expect(answer.choices[0] == answer.choices[1], "greedy answers differ")
    drawn = target.chat(mode, QUESTION, n=4, max_tokens=12, temperature=1.5, top_p=1, seed=3)
    expect(len({choice.text for choice in drawn.choices}) > 1, "four drawn answers are one")


@CHECKS.add("a seed repeats an answer")
def _seed(target: Target, mode: Mode) -> None:
    def draw(number: int) -> str:
        return target.chat(mode, QUESTION, temperature=1.5, top_p=1, seed=number, max_tokens=8).first.text

    first = draw(1)
    expect(draw(1) == first, "the same seed gave another answer")
    expect(any(draw(number) != first for number in (2, 3, 4)), "every seed gives the same answer")


@CHECKS.add("logit_bias forces a token")
def _bias(target: Target, mode: Mode) -> None:
    free = target.chat(mode, QUESTION, max_tokens=3).first.text
    forced = {target.chat(mode, QUESTION, max_tokens=3, logit_bias={token: 100}).first.text for token in ("100", "200")}
    expect(len(forced) == 2 and free not in forced, f"forced {forced}, free {free!r}")


@CHECKS.add("penalties change an answer")
def _penalties(target: Target, mode: Mode) -> None:
    def answer(**fields: float) -> str:
        prompt = "Write the word yes forty times."
        return target.chat(mode, prompt, max_tokens=24, **fields).first.text

    plain = answer()
    expect(answer(presence_penalty=0, frequency_penalty=0) == plain, "penalties of 0 change the answer")
    others = {answer(frequency_penalty=penalty) for penalty in (2, -2)}
    expect(others != {plain}, "frequency_penalty changes nothing")
    expect(answer(presence_penalty=2) != answer(presence_penalty=-2), "presence_penalty changes nothing")
