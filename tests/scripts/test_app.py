"""The page in a real browser. Skipped where there is no browser, or the extra `app` is not installed.

Set APP_SCREENSHOT to a path to keep the picture that the README shows.
"""

import importlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.output import read_metadata
from tests.conftest import tone

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
  .then(sound => done([
    sound.length,
    sound.sampleRate,
    sound.getChannelData(0).reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0),
  ]))
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
    assert not browser.find_element(By.CSS_SELECTOR, "#tempo textarea, #tempo input").get_attribute("value")
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


@pytest.fixture
def app():
    """The script as a module; its libraries warn of things that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("scripts.app")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("replace the region", {"regions": [(0.1, 0.4)], "strength": 0.5}),
        ("continue it", {"audio_length_in_s": 0.5 + 2.0}),
        ("lead up to it", {"audio_start_in_s": 2.0}),
        ("vary all of it", {"strength": 0.5}),
    ],
)
def test_an_upload_becomes_the_arguments_of_its_task(app, pipeline, task, expected):
    upload = 44_100, (tone(440, 0.5).numpy()[0] * 32_768).astype("int16")
    arguments = app.editing_arguments(pipeline, upload, task, 2.0, 0.1, 0.4, 0.5, "0,2")
    torch.testing.assert_close(arguments.pop("audio"), tone(440, 0.5), rtol=0, atol=1e-4)
    assert arguments == expected | {"first_beat_in_s": 0.2}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_upload_of_another_rate_or_in_stereo_is_converted_with_a_note(app, monkeypatch):
    notes = []
    monkeypatch.setattr(app.gr, "Info", notes.append)
    waveform = app.read_upload((22_050, tone(440, 0.5, 22_050, channels=2).T.numpy()), 44_100, 1)
    assert waveform.shape == (1, 22_050)
    assert notes == [
        "The audio was converted from 22050 to 44100 Hz.",
        "The audio was converted from 2 to 1 channels.",
    ]


def test_without_an_upload_music_of_the_length_is_made(app, pipeline):
    assert app.editing_arguments(pipeline, None, "continue it", 3.0, 0, 0, 1, "") == {"audio_length_in_s": 3.0}


def test_a_wrong_argument_is_shown_on_the_page(app, pipeline):
    with pytest.raises(app.gr.Error, match="tempo must be a number from 20 to 400"):
        generate(app, pipeline, "lofi", "5")
    with pytest.raises(app.gr.Error, match="tempo must be a number or left empty, got 'fast'"):
        generate(app, pipeline, "lofi", "fast")


def generate(app, pipeline, prompt, tempo) -> dict:
    """How the music of the page was made."""
    editing = None, "continue it", 0, 0, 1, ""
    path, _ = app.generate(pipeline, prompt, "", 0.2, 0, 4.0, 1, tempo, app.FROM_PROMPT, False, *editing)
    return read_metadata(path)


@pytest.mark.parametrize(("tempo", "told"), [("", 90.0), ("0", 0.0), ("120", 120.0)])
def test_an_empty_tempo_is_that_of_the_prompt(app, pipeline, tempo, told):
    assert generate(app, pipeline, "lofi, 90 bpm, in C minor", tempo)["tempo"] == told
