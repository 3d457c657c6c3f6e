#!/usr/bin/env python3
"""Sorts the emoji of an unpacked ruby-gemojione into class folders.

    sort_emoji.py TREE OUT    TREE: the unpacked package; OUT: gets one folder per category

Left out: skin-tone variants (near copies of one image) and the category `extras`, which has one image.
"""

import json
import os
import shutil
import sys

SKIN_TONES = {f"1F3F{digit}" for digit in "BCDEF"}


def main(tree, out):
    index = images = None
    for folder, _, names in os.walk(tree):
        if "index.json" in names and os.path.basename(folder) == "config":
            index = os.path.join(folder, "index.json")
        if folder.endswith(os.path.join("assets", "png")):
            images = folder
    if index is None or images is None:
        sys.exit(f"{tree} holds no config/index.json or no assets/png")
    with open(index, encoding="utf-8") as file:
        entries = json.load(file)
    counts = {}
    for entry in entries.values():
        name, category = entry["unicode"].upper(), entry["category"]
        source = os.path.join(images, f"{name}.png")
        if category == "extras" or SKIN_TONES & set(name.split("-")) or not os.path.exists(source):
            continue
        os.makedirs(os.path.join(out, category), exist_ok=True)
        shutil.copyfile(source, os.path.join(out, category, f"{name}.png"))
        counts[category] = counts.get(category, 0) + 1
    print(", ".join(f"{category} {count}" for category, count in sorted(counts.items())))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
