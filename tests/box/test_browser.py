"""The pages as a person uses them: Chromium opens them, logs in, asks, sees the answer grow, and clears the chat."""

from __future__ import annotations

import pytest
import yaml
from box import ROOT
from browser import Album, chromium, ensure_packages, watch
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from test_gateway import token_of, url_of

SECONDS = 30
LESSON = yaml.safe_load((ROOT / "local_box" / "miniature" / "questions.yml").read_text(encoding="utf-8"))
# CSS selectors of what the two pages show: gradio's bubbles, streamlit's.
QUESTIONS, ANSWERS = "[data-testid=user]", "[data-testid=bot]"
ANSWERS2 = ".stChatMessage [aria-label$=assistant]"


def lesson(question: str) -> str:
    """Return what the miniature was taught to answer."""
    return next(known["answer"] for known in LESSON["rounds"] if question in known["ask"])


@pytest.fixture(scope="module")
def page(served_box) -> str:
    """The address of web_demo's page."""
    ensure_packages()
    return url_of() + "/"


@pytest.fixture(scope="module")
def known(page, served_box):
    """A browser that was told the password; from then on it opens pages without."""
    with chromium() as driver:
        # Under an address with a password in it gradio's page stays empty.
        driver.get(page.replace("://", f"://glmbox:{token_of(served_box)}@"))
        yield driver


@pytest.fixture
def album(request) -> Album:
    return Album(request.node.name)


def shown(driver: Chrome, selector: str) -> list[str]:
    """Return the texts of what a CSS selector finds, all of one moment."""
    script = "return [...document.querySelectorAll(arguments[0])].map(found => found.innerText.trim())"
    return driver.execute_script(script, selector)


def element(driver: Chrome, xpath: str) -> WebElement:
    """Return what an XPath finds, once it is there and can be used."""

    def usable(_: Chrome) -> WebElement | None:
        return next((found for found in driver.find_elements(By.XPATH, xpath) if found.is_enabled()), None)

    return WebDriverWait(driver, SECONDS).until(usable)


def ask(driver: Chrome, question: str, button: str, answers: str, album: Album) -> None:
    """Type a question, press the button, and hold the answer to it: it grows in steps and ends as it was taught.

    answers: CSS selector of all answers on the page.
    """
    # Streamlit runs its script for the text, then again for the button; its page shows an answer only as a whole where
    # the second run begins before the first has ended.
    element(driver, "//textarea").send_keys(question, Keys.TAB)
    album.take(driver, "question")
    WebDriverWait(driver, SECONDS).until(lambda there: shown(there, "[data-testid=stStatusWidget]") == [])
    until = watch(driver, answers)
    element(driver, f"//button[normalize-space()='{button}']").click()
    *growing, whole = until(lesson(question), SECONDS)
    assert len(growing) >= 2, growing
    assert [text for text in growing if not whole.startswith(text)] == []
    assert growing == sorted(growing, key=len)
    album.take(driver, "answer")


def test_without_the_password_there_is_no_page(page):
    with chromium() as driver:
        driver.get(page)
        assert driver.find_element(By.TAG_NAME, "body").text == ""
        assert driver.get_cookies() == []
        # What is behind the empty page, where the browser waits for a password.
        driver.get(page + "healthz")
        script = "return fetch('/', {credentials: 'omit'}).then(async reply => [reply.status, await reply.text()])"
        status, text = driver.execute_script(script)
        assert status == 401
        assert "Send the token" in text


def test_web_demo_is_asked_and_answers_and_is_cleared(known, page, album):
    known.get(page)
    element(known, "//textarea")
    album.take(known, "opened")
    ask(known, "你好", "Send", ANSWERS, album)
    ask(known, "讲个笑话", "Send", ANSWERS, album)
    assert shown(known, QUESTIONS) == ["你好", "讲个笑话"]
    assert shown(known, ANSWERS) == [lesson("你好"), lesson("讲个笑话")]
    element(known, "//button[normalize-space()='Start over']").click()
    WebDriverWait(known, SECONDS).until(lambda driver: shown(driver, f"{QUESTIONS}, {ANSWERS}") == [])
    album.take(known, "cleared")


def test_the_cookie_is_enough_from_then_on(known, page, album):
    """In another browser, since one that was told a password goes on sending it."""
    (cookie,) = known.get_cookies()
    assert cookie["httpOnly"] is True
    with chromium() as driver:
        driver.get(page + "healthz")  # open to all; a browser takes cookies for the page that it shows
        driver.add_cookie(cookie)
        driver.get(page)
        ask(driver, "你好", "Send", ANSWERS, album)
        driver.refresh()
        element(driver, "//textarea")
        assert shown(driver, ANSWERS) == []


def test_web_demo2_is_asked_and_answers(known, page, album):
    known.get(page + "web_demo2/")
    element(known, "//textarea")
    album.take(known, "opened")
    ask(known, "讲个故事", "提问", ANSWERS2, album)
