"""The page in a real browser. Skipped where there is no browser, or the extra `app` is not installed.

Set APP_SCREENSHOT to a path to keep the picture that the README shows.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER and importlib.util.find_spec("gradio") and importlib.util.find_spec("selenium")),
    reason="needs Chromium with its driver, gradio and selenium",
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1150",
)
PEAK = """
const done = arguments[arguments.length - 1];
fetch(document.querySelector('#music a[download]').href)
  .then(answer => answer.arrayBuffer())
  .then(bytes => new OfflineAudioContext(1, 1, 44100).decodeAudioData(bytes))
  .then(sound => done([sound.length, sound.sampleRate, Math.max(...sound.getChannelData(0).map(Math.abs))]))
  .catch(error => done(String(error)));
"""


@pytest.fixture
def page(pipeline, tmp_path) -> Iterator[str]:
    """Address of the page, served by the script itself."""
    folder = Path(os.environ.get("APP_PIPELINE", tmp_path / "pipeline"))
    if not folder.exists():
        pipeline.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "scripts/app.py", "--pipeline", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert server.poll() is None, server.stderr.read()
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        server.terminate()
        server.wait(20)
        server.stderr.close()


@pytest.fixture
def browser(tmp_path) -> Iterator[object]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(300)
    yield driver
    driver.quit()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_prompt_and_a_press_of_the_button_give_audio_with_samples(page, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page)
    wait = WebDriverWait(browser, 300)  # on a busy machine
    prompt = wait.until(lambda b: b.find_element(By.CSS_SELECTOR, "#prompt textarea, #prompt input"))
    prompt.send_keys(Keys.CONTROL, "a")
    prompt.send_keys("slow ambient pads")
    browser.find_element(By.ID, "generate").click()
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#music a[download]"))
    assert browser.find_elements(By.CSS_SELECTOR, "#music audio")
    length, sample_rate, peak = browser.execute_async_script(PEAK)
    assert sample_rate == 44_100
    assert length > 10_000
    assert 0.001 < peak <= 1
    wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#spectrogram img"))
    time.sleep(1)  # the waveform is drawn after the audio has come
    if path := os.environ.get("APP_SCREENSHOT"):
        browser.save_screenshot(path)
