"""How long after a move of the hand the playground has its answer, in a real browser.

    python benchmarks/playground.py

A page with the playground is opened in headless Chromium, a digit is dragged about, and each time from the pointer's
event until the new prediction (10 frames in, 10 back, 20 ahead) stands on the canvas is measured. So is the bare
computation, without pointer and drawing, by the clock and, on Linux, by the processor's time, which is the same on a
machine that does other things besides. Writes `benchmarks/results/playground/chromium.json`."""
import argparse
import math
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tools'))

from lstm_video_repr.widgets import Playground, write_weights
from results import save, stamp

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'
OUT = ROOT/'benchmarks'/'results'/'playground'/'chromium.json'
LAB = 'document.querySelector(".lvr-host").lab'


def summary(
    times: list, # milliseconds
) -> dict: # rounded
    "Median, 95th percentile and least."
    ordered = sorted(times)
    return {'n': len(ordered), 'median ms': round(statistics.median(ordered), 1),
            '95th percentile ms': round(ordered[math.ceil(.95 * len(ordered)) - 1], 1), 'least ms': round(ordered[0], 1)}


def processor_time() -> float: # milliseconds of all renderers of a Chromium; nan where there is no /proc
    "How long processors have worked for pages."
    ticks = 0
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            if b'--type=renderer' not in (folder/'cmdline').read_bytes(): continue
            ticks += sum(map(int, (folder/'stat').read_text().rpartition(')')[2].split()[11:13]))
        except OSError: continue # it has ended meanwhile
    return 1000 * ticks / os.sysconf('SC_CLK_TCK') if Path('/proc').is_dir() else math.nan


def drag(
    page, # with a playground that is awake
    moves: int, # of the pointer
) -> list: # milliseconds from each pointer event to its prediction
    "Take a digit and lead it in circles."
    box = page.locator('.lvr-yard').bounding_box()
    def at(angle): return (box['x'] + box['width'] * (.5 + .25 * math.cos(angle)),
                           box['y'] + box['height'] * (.5 + .25 * math.sin(angle)))
    grip = page.locator('.lvr-grip').first.bounding_box()
    page.mouse.move(grip['x'] + 12, grip['y'] + 12)
    page.mouse.down()
    page.evaluate(f'{LAB}.latencies.length = 0')
    for k in range(moves):
        page.mouse.move(*at(k / 9))
        page.wait_for_timeout(8)
    page.mouse.up()
    return page.evaluate(f'{LAB}.latencies')


def measure(
    folder: Path, # for the page
    moves: int, # of the pointer
) -> dict: # what was measured
    "Open a page, and drag."
    from playwright.sync_api import sync_playwright
    play = Playground()
    file = play.to_html(folder/'playground.html')
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, (os.environ.get('LVR_BROWSER', ''), *BROWSERS))), None)
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-dev-shm-usage'])
        page = browser.new_page(viewport=dict(width=900, height=1200), offline=True)
        page.goto(file.as_uri())
        page.wait_for_function(f'{LAB}?.done() === 60', timeout=60_000)
        drag(page, 30) # until the browser has compiled what is asked for often
        begin = processor_time()
        whole = drag(page, moves)
        middle = processor_time()
        bare = page.evaluate(f'{LAB}.time({moves})')
        end = processor_time()
        version = browser.version
        browser.close()
    network = {key: play.network[key] for key in ('size', 'side', 'units')}
    weights = {'weights as a script': len(write_weights(play)), 'page': file.stat().st_size}
    return {'network': network, 'bytes': weights, 'browser': f'Chromium {version}',
            'pointer to prediction': summary(whole) | {'processor ms': round((middle - begin) / len(whole), 1)},
            'computation': summary(bare) | {'processor ms': round((end - middle) / len(bare), 1)}}


def main(
    argv: list | None = None, # the words of the command; None: those of this process
) -> int: # 0
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--moves', type=int, default=200, help='of the pointer (default: 200)')
    parser.add_argument('--note', default='', help='what else there is to say of the machine, kept with the results')
    parser.add_argument('--out', type=Path, default=OUT, help='where to write')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder: found = measure(Path(folder), args.moves)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(args.out, stamp('cpu') | found | dict(note=args.note))
    for name in 'pointer to prediction', 'computation': print(f'{name}: {found[name]}')
    return 0


if __name__ == '__main__': sys.exit(main())
