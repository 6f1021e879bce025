"""The retrieval task: token ids and vectorised prompt generation.

A prompt is BOS followed by uniform noise in which PAIRS pairs "key value" (two
adjacent tokens) lie at random places; the keys of a prompt are distinct, the
values are drawn independently. A question is "ASK key"; the right next token,
predicted at the key, is that key's value.
"""
import json

import torch

VOCAB = 256
BOS = 0
ASK = 1
KEY0, KEYS = 16, 64        # key tokens   16 ..  79
VALUE0, VALUES = 80, 64    # value tokens 80 .. 143
NOISE0, NOISES = 144, 112  # noise tokens 144 .. 255
PROMPT = 1024              # length of an evaluation prompt, to the last prompt token
PAIRS = 32                 # pairs in an evaluation prompt
QUESTIONS = 8              # questions per evaluation prompt

TASK_JSON = json.dumps({
    "name": "key-value retrieval", "bos": BOS, "ask": ASK,
    "key_first": KEY0, "key_count": KEYS,
    "value_first": VALUE0, "value_count": VALUES,
    "noise_first": NOISE0, "noise_count": NOISES,
    "prompt_tokens": PROMPT, "pairs": PAIRS, "questions": QUESTIONS,
})


def haystack(batch, length, pairs, gen):
    """-> tokens [batch, length], keys [batch, pairs], values [batch, pairs].

    The length - 1 tokens after BOS are length - 1 - pairs items, of which
    `pairs`, chosen without replacement, are pairs (two tokens each) and the
    others single noise tokens.
    """
    items = length - 1 - pairs
    chosen = torch.rand(batch, items, generator=gen).topk(pairs, dim=1).indices.sort(1).values
    start = 1 + chosen + torch.arange(pairs)
    keys = KEY0 + torch.rand(batch, KEYS, generator=gen).topk(pairs, dim=1).indices
    values = torch.randint(VALUE0, VALUE0 + VALUES, (batch, pairs), generator=gen)
    tokens = torch.randint(NOISE0, NOISE0 + NOISES, (batch, length), generator=gen)
    tokens[:, 0] = BOS
    tokens.scatter_(1, start, keys)
    tokens.scatter_(1, start + 1, values)
    return tokens, keys, values


def question_section(keys, values, order, answered):
    """Questions number order[b, q], with the answer after it where answered[q].

    -> tokens [batch, n], position of each question's key in them [questions],
    right answers [batch, questions].
    """
    asked, answers = keys.gather(1, order), values.gather(1, order)
    width = 2 + answered.long()
    first = width.cumsum(0) - width
    tokens = torch.full((keys.shape[0], int(width.sum())), ASK, dtype=torch.long)
    tokens[:, first + 1] = asked
    tokens[:, first[answered] + 2] = answers[:, answered]
    return tokens, first + 1, answers


def training_batch(batch, length, pairs, questions, gen):
    """A haystack of `length` tokens and a question section in one of three forms.

    list:   some distinct keys asked without answers; then the last of them is
            answered and the others are asked again, with answers (and more keys)
    chat:   every question is answered, keys in random order
    mixed:  every second question or so is answered, keys drawn with repetition
    -> tokens [batch, n], positions [questions] to predict at, targets [batch, questions]
    """
    tokens, keys, values = haystack(batch, length, pairs, gen)
    kind = int(torch.randint(3, (1,), generator=gen))
    rounds = -(-questions // pairs)
    shuffled = torch.rand(batch, rounds, pairs, generator=gen).argsort(-1).flatten(1)[:, :questions]
    if kind == 0:
        m = int(torch.randint(2, min(pairs, questions // 2) + 1, (1,), generator=gen))
        order = torch.cat([shuffled[:, 1:m], shuffled[:, :1], shuffled[:, 1:questions - m + 1]], 1)
        answered = torch.arange(questions) >= m - 1
    elif kind == 1:
        order, answered = shuffled, torch.ones(questions, dtype=torch.bool)
    else:
        order = torch.randint(pairs, (batch, questions), generator=gen)
        answered = torch.rand(questions, generator=gen) < 0.5
    asked, at, answers = question_section(keys, values, order, answered)
    return torch.cat([tokens, asked], 1), length + at, answers


def evaluation_batch(batch, kind, gen, length=PROMPT, pairs=PAIRS, questions=QUESTIONS):
    """-> prompts [batch, length], asked keys and right values [batch, questions].

    aware:    haystack, then "ASK k2 ... ASK k8 ASK k1"
    agnostic: haystack only
    """
    aware = kind == "aware"
    tokens, keys, values = haystack(batch, length - 2 * questions * aware, pairs, gen)
    order = torch.rand(batch, pairs, generator=gen).argsort(1)[:, :questions]
    if aware:
        asked, _, _ = question_section(keys, values, order.roll(-1, 1),
                                       torch.zeros(questions, dtype=torch.bool))
        tokens = torch.cat([tokens, asked], 1)
    return tokens, keys.gather(1, order), values.gather(1, order)
