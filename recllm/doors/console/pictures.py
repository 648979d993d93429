"""Pictures of products: files of the folder `images`, named after the product or by its attribute `image`.

Nothing is fetched: `https://shop.example/tent.jpg?v=2` stands for `images/tent.jpg`. A file is read, and answered as a
small picture of its own, so that no browser gets a byte of the file itself.
"""

from __future__ import annotations

import io
import json
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from recllm.base.schema import IMAGE

FOLDER = "images"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")
SIZE = 480
"""Width and height at most, in pixels."""
MAX_BYTES, MAX_PIXELS = 30_000_000, 60_000_000
"""Of a file; a larger one is not read."""
KEPT_PICTURES = 500


def picture_file(folder: Path, item_id: str, attributes: str | None) -> Path | None:
    """The file of a product; None without one. attributes: a JSON object, whose `image` is an address or a name."""
    address = str(json.loads(attributes or "{}").get(IMAGE, "")).replace("\n", ",").partition(",")[0].strip()
    name = unquote(re.sub(r"[?#].*", "", address) if "://" in address else address).rpartition("/")[2]
    for file_name in (name, *(f"{item_id}{suffix}" for suffix in SUFFIXES)):
        is_plain = file_name.lower().endswith(SUFFIXES) and len(file_name.encode(errors="replace")) <= 255
        if is_plain and not set(file_name) & set("/\\:\0"):
            path = folder / file_name
            if path.is_file() and not path.is_symlink():
                return path
    return None


def small_picture(path: Path) -> bytes | None:
    """A WebP of at most `SIZE` pixels a side; None for a file that is no picture, or too large."""
    state = path.stat()
    return _small_picture(path, state.st_mtime_ns) if state.st_size <= MAX_BYTES else None


@lru_cache(maxsize=KEPT_PICTURES)
def _small_picture(path: Path, _changed_at: int) -> bytes | None:
    from PIL import Image, ImageOps

    written = io.BytesIO()
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (SIZE, SIZE))  # JPEG: decoded at a fraction of its size
            image.thumbnail((SIZE, SIZE))  # before it is turned, which copies it
            upright = ImageOps.exif_transpose(image)
            mode = "RGBA" if upright.has_transparency_data else "RGB"
            upright.convert(mode).save(written, "WEBP", quality=80)
    except Exception:  # formats and EXIF of a shop's own files fail in many ways
        return None
    return written.getvalue()
