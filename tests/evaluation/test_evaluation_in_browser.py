"""The report of an evaluation of real runs, opened in a real browser."""

import pytest
from support.browser import column, requested

from mmseg_daft.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def report(case, tmp_path_factory):
    out = tmp_path_factory.mktemp('report')
    runs = [f'FT={case.folder / "ft"}', f'DAFT={case.folder / "daft"}', f'_[b]$x$={case.start}']
    assert main(['evaluate', str(case.config), *runs, '--out', str(out), '--workers', '0', '--formats', 'png',
                 '--corruptions', 'noise', 'fog', '--severities', '1', '5']) == 0
    return out / 'report.html'


def test_the_report_opens_from_a_file_shows_every_figure_and_sorts(report, browser):
    browser.get(report.as_uri())
    images = browser.execute_script(
        'return [...document.images].map(i => [i.alt, i.complete, i.naturalWidth, i.getBoundingClientRect().width])')
    assert {path.stem for path in (report.parent / 'figures').iterdir()} == {
        'sets', 'differences', 'corruptions', 'classes', 'sheet_images'}
    assert len(images) == 5
    for alt, complete, natural, width in images:
        assert alt and complete and natural > 300 and 100 < width <= 1180
    assert column(browser, 0, 0) == ['test', 'mPC', 'rPC']
    assert '[' in column(browser, 0, 1)[0] and set(column(browser, 1, 4)) <= {'better', 'worse', 'level'}
    assert column(browser, 2, 2)[:3] == ['FT', 'DAFT', '_[b]$x$'] and len(column(browser, 2, 0)) == 3 * (1 + 4)
    heads = browser.find_elements('css selector', 'table')[2].find_elements('css selector', 'th button')
    browser.execute_script('arguments[0].click()', heads[3])
    assert column(browser, 2, 3)[-3:] == ['–'] * 3  # where there is none, last
    assert all(alt in browser.page_source for alt in ('Worst classes', 'Images on which the runs differ most'))
    assert browser.get_log('browser') == []  # neither errors nor warnings
    requests = requested(browser)
    assert requests and not [r for r in requests if '"url":"http' in r]
    browser.set_window_size(500, 900)
    browser.get(report.as_uri())
    assert browser.execute_script('return document.documentElement.scrollWidth <= window.innerWidth')
