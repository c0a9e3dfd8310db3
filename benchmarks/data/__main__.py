"""Packs one set of real data into the cache folder.

python -m benchmarks.data emoji
"""

import numpy as np

from benchmarks._harness import Parser
from benchmarks.data import _scores, emoji, features, fonts, omniglot, save, toponyms, words

SETS = {
    "emoji": (emoji, emoji.packed),
    "omniglot": (omniglot, omniglot.packed),
    "toponyms": (toponyms, toponyms.packed),
    "fonts": (fonts, fonts.fonts),
    "letters": (fonts, fonts.letters),
    "words": (words, words.packed),
    "emoji-features": (features, features.packed),
}
"""The file that tells the source and the license, and the function that packs."""


def baseline(pack):
    """A line on the unseen classes without learning: by tf-idf, or by pixels or features."""
    samples, labels = pack.part(unseen=True)
    if samples.dtype.kind == "U":
        how, found = "tf-idf", _scores.of_texts(samples, labels)
    else:
        how = "pixels" if samples.ndim == 4 else "features"
        found = _scores.of_vectors(samples - samples.mean(0), labels)  # the mean says nothing
    first, average = (float(np.mean(x)) for x in found.values())
    return f"{how}, unseen classes: P@1 {first:.3f}, MAP@R {average:.3f}"


def about(pack):
    """A line on the sizes."""
    seen, unseen = (np.sum(~pack.unseen), np.sum(pack.unseen))
    return f"{len(pack.samples):,} samples, {seen:,} seen and {unseen:,} unseen classes"


def main(argv=None):
    parser = Parser("benchmarks.data", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETS)
    parser.add_argument("--from", dest="folder", help="of the archives of omniglot")
    args = parser.parse_args(argv)
    if (args.name == "omniglot") != (args.folder is not None):
        parser.error("omniglot needs `--from FOLDER`, and no other set has it")
    told, packed = SETS[args.name]
    pack = packed(args.folder) if args.folder else packed()
    print(f"{args.name}: {about(pack)}")
    print(f"source: {told.SOURCE}\nlicense: {told.LICENSE}")
    print(f"packed in {save(args.name, pack)}")
    print(baseline(pack))


if __name__ == "__main__":
    main()
