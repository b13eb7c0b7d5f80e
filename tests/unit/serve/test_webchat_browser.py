"""The web chat in a real browser: load, ask in Chinese, watch it stream, stop, edit, compare, vote, use the votes.

Debian's chromium drives it (packages chromium, chromium-driver, fonts-wqy-zenhei); without it the test is skipped.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_engine import ScriptedEngine, ScriptedTicket
from tests.tiny import tiny_tokenizer

from tunesmith.config.resolve import resolve
from tunesmith.infer.locate import Located
from tunesmith.infer.session import Session
from tunesmith.render.load import make_renderer
from tunesmith.serve.webchat.launch import Place, launch, make_quiet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed"),
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="chromium-driver is not installed"),
]
ANSWERS = ("我是**小助手**，很高兴认识你。", "这是另一个回答。", "说个不停。" * 400, "last")
WAIT_S = 20.0


class PacedEngine(ScriptedEngine):
    """Gives a token every so many seconds, so that a person could read along."""

    seconds_per_token = 0.01

    def submit(self, *arguments: Any) -> ScriptedTicket:  # type: ignore[override]
        ticket = super().submit(*arguments)
        threading.Thread(target=self._pace, args=(ticket,), daemon=True).start()
        return ticket

    def _pace(self, ticket: ScriptedTicket) -> None:
        for _ in range(4000):
            if ticket.cancelled.wait(self.seconds_per_token):
                break
            self.release()
        self.release()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, PacedEngine, Path]]:
    """(address, engine, feedback file) of a page that is being served."""
    make_quiet()
    from tunesmith.serve.webchat.build import build_page, look

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tokenizer = tiny_tokenizer()
    engine = PacedEngine(tokenizer, ANSWERS, models=("tuned", "base"), hold=True)
    config = resolve(["model_name_or_path=tiny"], verb="webchat").config
    session = Session(engine, make_renderer(tokenizer, "chatml"), config, Located("tiny", (), tmp_path, ()), ())
    demo, rooms, path = build_page(session, (), "en")
    yield launch(demo, Place(), look()), engine, path
    rooms.close()
    demo.close(verbose=False)
    engine.close()


class Browser:
    """What a person does on the page."""

    def __init__(self, address: str) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1440,900"):
            options.add_argument(f"--{flag}")
        for flag in ("disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"):
            options.add_argument(f"--{flag}")
        options.add_experimental_option("prefs", {"intl.accept_languages": "zh-CN,zh"})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        self.driver.get(address)
        self.wait(lambda: self.find("#ask textarea"))

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, happens: Callable[[], Any]) -> Any:
        """What `happens` gives once it gives something."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                if found := happens():
                    return found
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not within {WAIT_S} s")

    def say(self, text: str) -> None:
        (box,) = self.find("#ask textarea")
        box.send_keys(text)
        self.driver.execute_script("document.querySelector('#ask button.submit-button').click()")

    def texts(self, pane: str = "left") -> list[str]:
        return [row.text for row in self.find(f"#pane-{pane} .message-row")]

    def is_idle(self) -> bool:
        return bool(self.find("#ask button.submit-button")) and not self.find("#ask button.stop-button")

    def press(self, group: int, button: int) -> None:
        """One of the small buttons under a message; negative numbers count from the right."""
        self.find("#pane-left .message-buttons")[group].find_elements("tag name", "button")[button].click()

    def foreign_requests(self) -> list[str]:
        """Addresses elsewhere that the page has asked for, and that its policy has not blocked."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = {
            event["params"]["requestId"]: event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }
        assert len(asked) > 20, "the log of requests is there"
        blocked = {
            event["params"]["requestId"]
            for event in events
            if event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp"
        }
        return [
            url
            for name, url in asked.items()
            if name not in blocked and not url.startswith(("http://127.0.0.1:", "data:", "blob:", "chrome"))
        ]


@pytest.fixture
def browser(page: tuple[str, PacedEngine, Path]) -> Iterator[Browser]:
    browser = Browser(page[0])
    yield browser
    browser.driver.quit()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_a_conversation_in_chinese_is_streamed_judged_and_trained_on(
    page: tuple[str, PacedEngine, Path], browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tunesmith.cli.feedback import run

    _, engine, path = page
    browser.wait(lambda: "输入消息" in browser.find("#ask textarea")[0].get_attribute("placeholder"))
    engine.seconds_per_token = 0.1
    browser.say("你好，你是谁？")
    partial = browser.wait(lambda: len(browser.texts()) == 2 and 1 < len(browser.texts()[1]) < 12 and browser.texts())
    assert "我是小助手，很高兴认识你。".startswith(partial[1].strip().replace("*", "")), "it is seen while it grows"
    engine.seconds_per_token = 0.01
    browser.wait(browser.is_idle)
    assert browser.texts() == ["你好，你是谁？", "我是小助手，很高兴认识你。"]
    assert not path.exists(), "nothing is kept before somebody votes"

    browser.press(1, -1)
    browser.wait(lambda: len(records(path)) == 1)
    browser.press(1, 1)  # answer anew
    browser.wait(lambda: browser.is_idle() and "另一个" in browser.texts()[-1])
    browser.press(1, -2)
    browser.wait(lambda: len(records(path)) == 2)
    assert [record["vote"] for record in records(path)] == ["up", "down"]
    assert records(path)[0]["messages"] == [{"role": "user", "content": "你好，你是谁？"}]

    browser.say("继续说")
    browser.wait(lambda: len(browser.texts()) == 4 and len(browser.texts()[3]) > 20)
    browser.find("#ask button.stop-button")[0].click()
    browser.wait(browser.is_idle)
    assert engine.tickets[-1].cancelled.is_set()
    num_said = len(browser.texts()[3])
    time.sleep(0.5)
    assert 20 < len(browser.texts()[3]) == num_said < 2000

    assert run([str(path), "--as", "dpo", "--out", str(tmp_path / "data")]) == 0
    assert "2 records -> 1 rows for dpo; 0 records unused" in capsys.readouterr().out
    assert browser.foreign_requests() == []


def test_an_edit_and_a_choice_between_two_models(page: tuple[str, PacedEngine, Path], browser: Browser) -> None:
    _, engine, path = page
    browser.find("#compare input")[0].click()
    browser.wait(lambda: browser.find("#pane-right"))
    browser.say("Hi")
    browser.wait(lambda: browser.is_idle() and len(browser.texts("right")) == 2)
    assert [model for _, _, model in engine.asked] == ["tuned", "base"]
    assert browser.texts("right") == ["Hi", "这是另一个回答。"]
    browser.find("#choice button")[1].click()
    browser.wait(lambda: browser.texts("left") == browser.texts("right"))
    assert [(record["kind"], record["model"]) for record in records(path)] == [("choice", "base")]

    browser.press(1, 3)
    (box,) = browser.wait(lambda: browser.find("#pane-left textarea"))
    box.clear()
    box.send_keys("改过的回答")
    browser.press(1, 0)
    browser.wait(lambda: browser.texts("left") == ["Hi", "改过的回答"])
    assert records(path)[1]["edited"]["content"] == "改过的回答"
    assert records(path)[1]["answer"]["content"] == "这是另一个回答。"


def test_a_tab_that_closes_cancels_its_answer(page: tuple[str, PacedEngine, Path], browser: Browser) -> None:
    _, engine, _ = page
    engine.answers = [ANSWERS[2]]
    browser.say("说吧")
    browser.wait(lambda: len(browser.texts()) == 2 and len(browser.texts()[1]) > 5)
    browser.driver.get("about:blank")
    browser.wait(lambda: engine.tickets[0].cancelled.is_set())


def test_a_page_that_is_loaded_again_shows_its_conversation(
    page: tuple[str, PacedEngine, Path], browser: Browser
) -> None:
    browser.say("你好")
    browser.wait(lambda: browser.is_idle() and len(browser.texts()) == 2)
    said = browser.texts()
    browser.driver.refresh()
    browser.wait(lambda: browser.texts() == said)


def test_an_image_that_a_model_writes_is_not_fetched(page: tuple[str, PacedEngine, Path], browser: Browser) -> None:
    _, engine, _ = page
    engine.answers = ["![a](http://example.invalid/a.png) <img src='http://example.invalid/b.png'> done"]
    browser.say("Hi")
    browser.wait(lambda: browser.is_idle() and "done" in "".join(browser.texts()))
    time.sleep(0.5)
    assert browser.foreign_requests() == []
