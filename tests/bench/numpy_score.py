#!/usr/bin/env python3
"""The scoring that kvsteward_bench does, in NumPy: what a worker without the engine would write.

One layer, 32 query heads on 8 kv heads of 128 numbers, window 32, bf16, policy ahakv-ada: float32 keys and values from
bf16, logits by BLAS, softmax, column sums, group mean, value prior. For every line of input it scores once and prints the
seconds. The BLAS library in use is named on stderr.
"""
import sys
import time

import numpy as np

QUERY_HEADS, KV_HEADS, HEAD_DIM, WINDOW = 32, 8, 128, 32
SINKS, RECENT = 4, 32


def bf16(array):
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def floats(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def score(queries, keys, values, budget):
    tokens = keys.shape[1]
    group = QUERY_HEADS // KV_HEADS
    positions = np.arange(tokens - WINDOW, tokens)
    gains = np.maximum(1.0, np.sqrt(2 * np.log(np.maximum(1.0, (positions + 1) / budget)))) / np.sqrt(HEAD_DIM)
    scale = np.tile(gains.astype(np.float32), group)[:, None]
    unseen = np.triu(np.ones((WINDOW, WINDOW), bool), 1)
    scores = np.empty((KV_HEADS, tokens), np.float32)
    for head in range(KV_HEADS):
        rows = floats(queries[head * group : (head + 1) * group]).reshape(group * WINDOW, HEAD_DIM) * scale
        logits = rows @ floats(keys[head]).T
        logits.reshape(group, WINDOW, tokens)[:, :, tokens - WINDOW :][:, unseen] = -np.inf
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        weights = 1 / (logits.sum(axis=1) * np.float32(group))
        column = weights @ logits
        norms = np.square(floats(values[head])).sum(axis=1)
        candidates = slice(SINKS, tokens - RECENT)
        column[candidates] *= norms[candidates] / norms[candidates].mean()
        scores[head] = column
    return scores


def main():
    tokens = int(sys.argv[1])
    random = np.random.default_rng(1)
    queries = bf16(random.standard_normal((QUERY_HEADS, WINDOW, HEAD_DIM), np.float32))
    keys = bf16(random.standard_normal((KV_HEADS, tokens, HEAD_DIM), np.float32))
    values = bf16(random.standard_normal((KV_HEADS, tokens, HEAD_DIM), np.float32))
    with open("/proc/self/maps", encoding="ascii") as maps:
        libraries = {line.split("/", 1)[1].strip() for line in maps if "blas" in line}
    print(f"NumPy {np.__version__}, BLAS: {', '.join(sorted(libraries))}", file=sys.stderr, flush=True)
    if not any("openblas" in name for name in libraries):
        sys.exit("NumPy does not use OpenBLAS: install libopenblas0-pthread")
    for _ in sys.stdin:
        begin = time.perf_counter()
        score(queries, keys, values, max(64, tokens // 10))
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
