"""The app's icons, drawn: a sun in a mirror. `python -m node.web.icons` writes them anew.

They lie in `static/icons/` as files, so that a node that starts draws nothing; a test holds the files to
this.
"""

from io import BytesIO
from math import cos, pi, sin
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

FOLDER: Final = Path(__file__).parent / "static" / "icons"
GROUND: Final = (29, 26, 22, 255)
LIGHT: Final = (242, 176, 94, 255)
FINER: Final = 4  # drawn so much larger, then reduced: smooth edges
RAYS: Final = 8


class Icon:
    """`size` in pixels; a maskable one has ground to its corners, and its sun within the safe circle."""

    def __init__(self, name: str, size: int, maskable: bool = False) -> None:
        self.name = name
        self.size = size
        self.maskable = maskable

    def png(self) -> bytes:
        edge = self.size * FINER
        image = Image.new("RGBA", (edge, edge))
        pen = ImageDraw.Draw(image)
        corner = 0 if self.maskable else edge * 15 / 64
        pen.rounded_rectangle((0, 0, edge - 1, edge - 1), corner, fill=GROUND)
        self._sun(pen, edge / 2, edge / 64 * (0.85 if self.maskable else 1))
        out = BytesIO()
        image.resize((self.size, self.size), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
        return out.getvalue()

    @staticmethod
    def _sun(pen: ImageDraw.ImageDraw, middle: float, unit: float) -> None:
        _disc(pen, middle, middle, 11.5 * unit)
        for ray in range(RAYS):
            x, y = cos(ray * 2 * pi / RAYS), sin(ray * 2 * pi / RAYS)
            near, far = 17 * unit, 22.5 * unit
            ends = (middle + x * near, middle + y * near, middle + x * far, middle + y * far)
            pen.line(ends, fill=LIGHT, width=round(4 * unit))
            for at in (near, far):
                _disc(pen, middle + x * at, middle + y * at, 2 * unit)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=LIGHT)


ICONS: Final = (Icon("icon-192.png", 192), Icon("icon-512.png", 512), Icon("maskable-512.png", 512, True))


def main() -> None:
    for icon in ICONS:
        (FOLDER / icon.name).write_bytes(icon.png())


if __name__ == "__main__":
    main()
