"Figures of the site: small WebP files named after what is in them, with sizes and alternative texts."
import base64
import hashlib
import io
import re
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

LOSSLESS = 48 * 2**10       # a picture that needs more bytes than this without loss may lose a little
WIDE = 640                  # pixels: a wider picture may be shrunk on a phone until its labels are illegible
DATA_URL = re.compile(r'data:(image/[\w+-]+);base64,(.+)', re.S)


def encode(image: Image.Image, quality: int = 82) -> bytes:
    "The smaller of two WebP files: exact, or nearly so where an exact one is large."
    def save(**options):
        file = io.BytesIO()
        image.save(file, 'webp', method=4, **options)
        return file.getvalue()
    exact = save(lossless=True, quality=30)
    return exact if len(exact) <= LOSSLESS else min(exact, save(quality=quality), key=len)


def flatten(image: Image.Image) -> Image.Image:
    "Without transparency: figures are drawn for white paper."
    if image.mode in ('RGBA', 'LA', 'P'):
        image = image.convert('RGBA')
        paper = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(paper, image)
    return image.convert('RGB')


class Figures:
    "Collects the pictures of all pages, and writes those that are not there yet."
    def __init__(self, folder: Path):
        self.folder, self.jobs, self.used = folder, {}, set()
        self.folder.mkdir(parents=True, exist_ok=True)

    def place(self, data: bytes, suffix: str) -> str:
        name = f'{hashlib.sha256(data).hexdigest()[:16]}.{suffix}'
        self.used.add(name)
        if not (self.folder/name).exists(): self.jobs[name] = data
        return name

    def image(self, text: str, kind: str, words: str, up: str) -> str:
        "HTML of a picture that is stored in a notebook; one that a page shrinks leads to itself in full size."
        width, size = 0, ''
        if kind == 'image/svg+xml': data, suffix = text.encode(), 'svg'
        else:
            data, suffix = base64.b64decode(text), 'gif' if kind == 'image/gif' else 'webp'
            picture = Image.open(io.BytesIO(data))
            width, height = picture.size
            looks = ' class="chart"' if suffix == 'webp' and is_chart(picture) else ''
            size = f'{looks} width="{width}" height="{height}" style="--width:{width}px"'
        file = f'{up}_static/figures/{self.place(data, suffix)}'
        image = f'<img src="{file}"{size} alt="{escape(words)}" loading="lazy" decoding="async">'
        return f'<a class="wide" href="{file}">{image}</a>' if width > WIDE else image

    def keep(self, url: str, up: str):
        "The address of a picture that came as a data URL; None for all others."
        found = DATA_URL.match(url)
        if not found or found[1] not in ('image/png', 'image/gif', 'image/jpeg', 'image/webp'): return None
        name = self.place(base64.b64decode(found[2]), found[1].split('/')[1].replace('png', 'webp'))
        return f'{up}_static/figures/{name}'

    def thumbnail(self, image: Image.Image, width: int = 480, height: int = 240) -> str:
        "The name of a small picture: the upper left part where the whole would be illegible."
        image = trim(flatten(image))
        name = f'{hashlib.sha256(image.tobytes()).hexdigest()[:16]}-small.webp'
        self.used.add(name)
        if not (self.folder/name).exists():
            part = image.crop((0, 0, min(image.width, 2 * image.height), image.height))
            small = ImageOps.fit(part, (width, height), Image.Resampling.LANCZOS, centering=(0, 0))
            (self.folder/name).write_bytes(encode(small, 75))
        return name

    def write(self):
        "Write what is missing, and remove what no page shows any more."
        def one(item):
            name, data = item
            if name.endswith('.webp'): data = encode(flatten(Image.open(io.BytesIO(data))))
            (self.folder/name).write_bytes(data)
        with ThreadPoolExecutor(2) as pool: list(pool.map(one, self.jobs.items()))
        for path in self.folder.iterdir():
            if path.name not in self.used: path.unlink()


def is_chart(image: Image.Image) -> bool:
    "Lines and words on white paper, few colours: what a dark page may show with light and dark exchanged."
    image = flatten(image)
    histogram = image.convert('L').histogram()
    pixels = sum(histogram)
    colours = [n for n, _ in image.point(lambda v: v & 0xe0).getcolors(1 << 9) if n >= 20]
    return histogram[255] > .72 * pixels and sum(histogram[:24]) < .03 * pixels and len(colours) < 80


def trim(image: Image.Image) -> Image.Image:
    "Without the white margin."
    box = ImageOps.invert(image.convert('L')).getbbox()
    return image.crop(box) if box else image
