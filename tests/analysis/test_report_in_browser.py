"""The report of real runs, opened in a real browser."""

import pytest
from support.browser import column, requested

from mmseg_daft.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def report(distortion_case, tmp_path_factory):
    case, out = distortion_case, tmp_path_factory.mktemp('report')
    assert main([
        'analyze', str(case.config), f'FT={case.folder / "ft"}', f'DAFT={case.folder / "daft"}', '--out', str(out),
        '--workers', '0', '--formats', 'png', '--stages', '3', '4']) == 0
    return out / 'report.html'


def test_the_report_opens_from_a_file_shows_every_figure_and_sorts(report, browser):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(report.as_uri())
    images = browser.execute_script(
        'return [...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.getBoundingClientRect().width])')
    figures = {path.stem for path in (report.parent / 'figures').iterdir()}
    assert len(images) == len(figures) == 10
    for alt, complete, natural, width in images:
        assert alt and complete and natural > 300 and 100 < width <= 1180

    heads = browser.find_elements('css selector', 'table:first-of-type th button')
    texts = [head.text for head in heads]
    cosine = texts.index('cosine similarity, per image')
    unsorted = column(browser, 0, cosine)
    numbers = sorted(unsorted, key=lambda text: float(text.split()[0]))
    assert len(unsorted) == 4
    heads[cosine].click()
    assert column(browser, 0, cosine) == numbers
    heads[cosine].click()
    assert column(browser, 0, cosine) == numbers[::-1] != numbers
    heads[0].click()
    assert column(browser, 0, 0) == ['DAFT', 'DAFT', 'FT', 'FT']

    layers = browser.find_element('css selector', 'nav a[href="#table-5"]')
    layers.click()
    WebDriverWait(browser, 30).until(  # the browser tells of the new place in the page later
        lambda browser: browser.execute_script('return [...document.querySelectorAll("details")].at(-1).open'))
    change = browser.find_elements('css selector', 'table')[4].find_elements('css selector', 'th button')[-1]
    browser.execute_script('arguments[0].click()', change)
    sorted_ = browser.execute_script(
        'return [...document.querySelectorAll("table")[4].tBodies[0].rows].map(row => row.cells[4].dataset.key)')
    assert len(sorted_) == 2 * 5 * 20 and [float(v) for v in sorted_] == sorted(map(float, sorted_))

    assert browser.get_log('browser') == []  # neither errors nor warnings
    requests = requested(browser)
    assert requests and not [r for r in requests if '"url":"http' in r]


def test_it_is_still_readable_on_a_narrow_screen(report, browser):
    browser.set_window_size(500, 900)
    browser.get(report.as_uri())
    assert browser.execute_script('return document.documentElement.scrollWidth <= window.innerWidth')
