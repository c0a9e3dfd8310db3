"""Text: paraphrases found among in-batch negatives, and why some of these have to be hard.

    python -m examples.text

The sentences are made by a small grammar, as "the tired sailor helped the rich doctor" and "the
wealthy physician was assisted by the weary seaman": each word has a synonym, and each sentence an
active and a passive voice. A search by one should find the other among 500 sentences of meanings
that were not trained on. Half of these are the other half with the roles exchanged: who helped whom
matters, and a bag of words cannot know.

The other sentences of a batch are the negatives. Hardly any of them has the same words, so a
network need not look at the roles; with each meaning's exchanged twin in the batch, it has to.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import metricjax as mj
from examples import _shared

synonyms = lambda text: [pair.split("/") for pair in text.split()]
NOUNS = synonyms(
    "dog/hound cat/feline doctor/physician lawyer/attorney child/kid thief/burglar "
    "teacher/instructor sailor/seaman king/monarch woman/lady"
)
ADJECTIVES = synonyms(
    "big/large small/little angry/furious happy/cheerful rich/wealthy tired/weary"
)
VERBS = synonyms(
    "chased/pursued helped/assisted hit/struck phoned/called found/discovered praised/lauded "
    "hired/employed taught/trained"
)
WORDS = ["", "the", "was", "by", *itertools.chain(*NOUNS, *ADJECTIVES, *VERBS)]
CODES = {word: code for code, word in enumerate(WORDS)}
LENGTH = 9  # words of the longest sentence
MEANINGS = np.array([  # adjective, noun, verb, adjective, noun
    meaning for meaning in itertools.product(range(6), range(10), range(8), range(6), range(10))
    if meaning[1] != meaning[4]
])  # fmt: skip
EXCHANGED = [3, 4, 2, 0, 1]  # who did it and to whom, the other way round


def sentence(rng, meaning, passive):
    """The words of one way to say it."""
    either = lambda synonyms, i: synonyms[i][rng.integers(2)]
    adjective, noun, verb, other_adjective, other_noun = meaning
    who = ["the", either(ADJECTIVES, adjective), either(NOUNS, noun)]
    whom = ["the", either(ADJECTIVES, other_adjective), either(NOUNS, other_noun)]
    verb = either(VERBS, verb)
    return [*whom, "was", verb, "by", *who] if passive else [*who, verb, *whom]


def paraphrases(rng, meanings):
    """Two sentences for each meaning, one of them passive, as codes ``[N, 9]``; 0 is no word."""
    passive = rng.integers(0, 2, len(meanings))
    both = np.zeros((2, len(meanings), LENGTH), np.int32)
    for codes, voices in zip(both, (passive, 1 - passive), strict=True):
        for row, meaning, voice in zip(codes, meanings, voices, strict=True):
            words = sentence(rng, meaning, voice)
            row[: len(words)] = [CODES[word] for word in words]
    return both


class Encoder(nnx.Module):
    """One layer of attention, and the mean of what it makes of the words."""

    def __init__(self, rngs: nnx.Rngs, width: int = 64):
        self.words = nnx.Embed(len(WORDS), width, rngs=rngs)
        self.places = nnx.Embed(LENGTH, width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.hidden = nnx.Linear(width, 4 * width, rngs=rngs)
        self.out = nnx.Linear(4 * width, 64, rngs=rngs)

    def __call__(self, codes):
        there = codes > 0
        x = self.words(codes) + self.places(jnp.arange(LENGTH))[None]
        x = x + self.attention(self.norm(x), mask=there[:, None, None, :])
        return self.out(jnp.mean(nnx.gelu(self.hidden(x)), 1, where=there[..., None]))


@nnx.jit
def step(model, optimizer, sentences, others):
    def total(model):
        return mj.reduce(mj.losses.infonce(model(sentences), model(others), temperature=0.1))

    (loss, _), grads = nnx.value_and_grad(total, has_aux=True)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def embed(model, codes):
    return model(codes)


def train(meanings, steps, *, twins):
    rng, model = np.random.default_rng(0), Encoder(nnx.Rngs(0))
    rate = optax.warmup_cosine_decay_schedule(0, 3e-3, steps // 8, steps)
    optimizer = nnx.Optimizer(model, optax.adam(rate), wrt=nnx.Param)
    for _ in range(steps):
        batch = rng.choice(meanings, 64 if twins else 128, replace=False)
        if twins:
            batch = np.concatenate([batch, batch[:, EXCHANGED]])
        step(model, optimizer, *paraphrases(rng, batch))
    return model


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = _shared.options(__doc__, steps=200, argv=argv)
    rng = np.random.default_rng(1)
    held_out = rng.choice(MEANINGS, 250, replace=False)
    held_out = np.unique(np.concatenate([held_out, held_out[:, EXCHANGED]]), axis=0)
    new = (MEANINGS[:, None] != held_out).any(2).all(1)
    queries, others = paraphrases(rng, held_out)

    bag = lambda codes: (codes[..., None] == np.arange(4, len(WORDS))).sum(1).astype(np.float32)
    plain = train(MEANINGS[new], options.steps, twins=False)
    hard = train(MEANINGS[new], options.steps, twins=True)
    encoders = {
        "bag of words": bag,
        "untrained": lambda codes: embed(Encoder(nnx.Rngs(0)), codes),
        "in-batch negatives": lambda codes: embed(plain, codes),
        "with exchanged roles among them": lambda codes: embed(hard, codes),
    }
    ids = np.arange(len(held_out))

    def recall(encode):
        query, reference = encode(queries), encode(others)
        scores = mj.evaluation.retrieval_metrics(query, ids, reference, ids, k=1)
        return float(scores["precision_at_1"])

    figures = {name: recall(encode) for name, encode in encoders.items()}
    twin = [int(np.flatnonzero((held_out == m[EXCHANGED]).all(1))[0]) for m in held_out]
    some = np.ravel([(i, twin[i]) for i in rng.permutation(ids)[:4]])
    picture = heatmaps(dict(list(encoders.items())[2:]), queries[some], others[some])
    return _shared.finish(
        f"recall@1 among {len(ids)} sentences", figures, picture, options.out / "text.png"
    )


def heatmaps(encoders, queries, others):
    """The cosine of each query and each paraphrase; the right one is on the diagonal."""
    picture, count = Figure((13, 5.2)), len(queries)
    picture.subplots_adjust(left=0.25, right=0.75, top=0.87, bottom=0.26, wspace=0.08)
    panels = picture.subplots(1, len(encoders))
    for axes, (name, encode) in zip(panels, encoders.items(), strict=True):
        cosines = mj.distances.CosineSimilarity()(encode(queries), encode(others))
        shown = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
        for (row, column), cosine in np.ndenumerate(np.round(cosines, 1) + 0.0):
            color = "white" if abs(cosine) > 0.6 else "black"
            axes.text(column, row, f"{cosine:.1f}", color=color, ha="center", va="center")
        axes.set(title=name, yticks=[], xlabel="paraphrase")
        axes.set_xticks(range(count), range(1, count + 1))
    panels[-1].yaxis.tick_right()
    for axes, sentences in zip((panels[0], panels[-1]), (queries, others), strict=True):
        spelled = (" ".join(WORDS[code] for code in row if code) for row in sentences)
        names = [f"{i} {words}" for i, words in enumerate(spelled, start=1)]
        axes.set_yticks(range(count), names, fontsize=8)
    picture.suptitle(
        "Cosines of sentences (left) and paraphrases (right): 1 and 2, 3 and 4, ... exchange roles"
    )
    bar = picture.add_axes((0.4, 0.11, 0.2, 0.03))
    picture.colorbar(shown, bar, orientation="horizontal", label="cosine similarity")
    return picture


if __name__ == "__main__":
    main()
