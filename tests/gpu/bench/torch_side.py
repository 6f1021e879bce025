#!/ usr / bin / env python3
"""What the usual PyTorch sequence takes for one layer's eviction, on the tensors of kvsteward_gpu_bench.

usual   as the libraries for KV compression do it: keys repeated for the query heads, attention weights of the window
        materialised in the cache's type, a softmax in float32, pooling, a top-k for the floors and one over all heads,
        then a gather (after kvpress 0.5.4, SnapKVPress and AdaKVPress, Apache-2.0)
tuned   what someone who looks at it would write: no repeated keys, float32 throughout, top-k unsorted;
eager and compiled

    The numbers are made from the same seeds(kernels.cu)
        .What the tuned sequence keeps is compared with kvsteward's mask before anything is timed.Prints ratios; lines for run.sh with --rows.
"""
import argparse
import json
import sys
import time

import numpy
import torch
import torch.nn.functional as F

HEADS, GROUP, DIM, ROWS = 8, 4, 128, 32
SINKS, RECENT, POOL = 4, 32, 7
CACHE_SEED, QUERY_SEED = 1, 2
TOKENS = 32768
LAYERS = 4  # take turns: 268 MB of keys, more than a cache holds
NEEDED = {"usual": 10.0, "tuned": 4.0}


def numbers(seed, first, count):
    """As NumberOf in kernels.cu."""
    mask = 0xFFFFFFFF
    x = torch.arange(first, first + count, dtype=torch.int64, device="cuda") ^ (seed * 0x9E3779B9 & mask)
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & mask
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & mask
    x = x ^ (x >> 16)
    total = (x & 255) + ((x >> 8) & 255) + ((x >> 16) & 255) + (x >> 24) - 510
    return (total.float() * 2.0**-7).to(torch.bfloat16)


def layer_tensors(layer, tokens):
    """Keys and values [HEADS, tokens, DIM] and queries [HEADS * GROUP, ROWS, DIM] of a layer."""
    size = HEADS * 2 * tokens * DIM
    cache = numbers(CACHE_SEED, layer * size, size).view(HEADS, 2, tokens, DIM)
    size = HEADS * GROUP * ROWS * DIM
    queries = numbers(QUERY_SEED, layer * size, size).view(HEADS * GROUP, ROWS, DIM)
    return cache[:, 0].contiguous(), cache[:, 1].contiguous(), queries


def selected(scores, budget):
    """Two top-k: each head's floor first, then the best of all. `scores`: float32 [HEADS, candidates]."""
    total = budget * HEADS
    floor = total // 5 // HEADS
    best = torch.topk(scores, floor, dim=-1).indices
    raised = scores.scatter(1, best, torch.finfo(scores.dtype).max)
    return torch.topk(raised.flatten(), total).indices


def usual(keys, values, queries, budget):
    tokens = keys.shape[1]
    repeated = keys[:, None].expand(HEADS, GROUP, tokens, DIM).reshape(HEADS * GROUP, tokens, DIM)
    attention = torch.matmul(queries, repeated.transpose(1, 2)) / DIM**0.5
    hidden = torch.ones_like(attention) * float("-inf")
    attention = attention + torch.triu(hidden, diagonal=tokens - ROWS + 1)
    attention = F.softmax(attention, dim=-1, dtype=torch.float32).to(queries.dtype)
    scores = attention.mean(dim=-2)[:, SINKS : tokens - RECENT]
    scores = F.avg_pool1d(scores, kernel_size=POOL, padding=POOL // 2, stride=1)
    scores = scores.view(HEADS, GROUP, -1).mean(dim=1)
    if not scores.max().item() >= 0:
        raise ValueError("scores are not finite")
    return scores.float(), compacted(scores.float(), keys, values, budget)


def tuned_scores(keys, queries):
    tokens = keys.shape[1]
    rows = queries.view(HEADS, GROUP * ROWS, DIM)
    logits = torch.bmm(rows, keys.transpose(1, 2)).float() * DIM**-0.5
    position = torch.arange(tokens, device="cuda")
    row = torch.arange(GROUP * ROWS, device="cuda") % ROWS + tokens - ROWS
    logits = logits.masked_fill(position[None, :] > row[:, None], float("-inf"))
    scores = torch.softmax(logits, dim=-1).sum(dim=1)[:, SINKS : tokens - RECENT] / (GROUP * ROWS)
    return F.avg_pool1d(scores, kernel_size=POOL, padding=POOL // 2, stride=1)


def tuned(keys, values, queries, budget):
    scores = tuned_scores(keys, queries)
    total = budget * HEADS
    floor = total // 5 // HEADS
    best = torch.topk(scores, floor, dim=-1, sorted=False).indices
    raised = scores.scatter(1, best, torch.finfo(scores.dtype).max)
    kept = torch.topk(raised.flatten(), total, sorted=False).indices
    return scores, gathered(kept, keys, values)


def compacted(scores, keys, values, budget):
    return gathered(selected(scores, budget), keys, values)


def gathered(kept, keys, values):
    """The rows that stay, one head after the other, protected ones aside."""
    tokens = keys.shape[1]
    candidates = tokens - SINKS - RECENT
    kept = torch.sort(kept).values
    rows = kept // candidates * tokens + kept % candidates + SINKS
    return keys.reshape(-1, DIM).index_select(0, rows), values.reshape(-1, DIM).index_select(0, rows)


def double_scores(keys, queries):
    """The tuned scores in float64, a head at a time."""
    tokens = keys.shape[1]
    position = torch.arange(tokens, device="cuda")
    row = torch.arange(GROUP * ROWS, device="cuda") % ROWS + tokens - ROWS
    scores = []
    for head in range(HEADS):
        rows = queries.view(HEADS, GROUP * ROWS, DIM)[head].double()
        logits = rows @ keys[head].double().T * DIM**-0.5
        logits = logits.masked_fill(position[None, :] > row[:, None], float("-inf"))
        scores.append(torch.softmax(logits, dim=-1).sum(dim=0)[SINKS : tokens - RECENT] / (GROUP * ROWS))
    return F.avg_pool1d(torch.stack(scores), kernel_size=POOL, padding=POOL // 2, stride=1)


def compare(path, keys, queries, budget):
    """Tokens on which kvsteward's mask differs from the float64 scores; stops unless all of them are near the cut."""
    tokens = keys.shape[1]
    words = (tokens + 63) // 64
    bits = numpy.unpackbits(numpy.fromfile(path, dtype=numpy.uint8), bitorder="little").reshape(HEADS, words * 64)
    mask = torch.from_numpy(bits[:, :tokens].astype(bool)).cuda()
    if not (mask[:, :SINKS].all() and mask[:, tokens - RECENT :].all()):
        sys.exit("torch_side: a protected token is not in kvsteward's mask")
    ours = mask[:, SINKS : tokens - RECENT]
    if int(ours.sum()) != budget * HEADS:
        sys.exit(f"torch_side: kvsteward keeps {int(ours.sum())} tokens, not {budget * HEADS}")
    scores = double_scores(keys, queries)
    theirs = torch.zeros_like(ours.flatten())
    theirs[selected(scores, budget)] = True
    differ = ours.flatten() ^ theirs
    cut = scores.flatten()[theirs].min()
    far = (scores.flatten() - cut).abs() > 1e-3 * cut
    if bool((differ & far).any()):
        sys.exit(f"torch_side: {int((differ & far).sum())} tokens far from the cut differ from kvsteward's")
    return int(differ.sum())


def waited_us(body, repetitions):
    """Median wall time as a caller sees it, waiting for the device included."""
    times = []
    for i in range(repetitions + 10):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        body(i % LAYERS)
        torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - begin))
    return sorted(times[10:])[repetitions // 2]


def device_us(body, repetitions):
    """Median time between events, launches enqueued as fast as Python does."""
    times = []
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for i in range(repetitions + 10):
        begin.record()
        body(i % LAYERS)
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return sorted(times[10:])[repetitions // 2]


def matmul_tflops():
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(10):
        a @ b
    end.record()
    end.synchronize()
    return 2 * size**3 * 10 / (begin.elapsed_time(end) * 1e-3) / 1e12


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matmul", action="store_true", help="only print the rate of a bf16 product, in TFLOP/s")
    parser.add_argument("--ours", help="JSON of kvsteward_gpu_bench")
    parser.add_argument("--mask", help="mask of kvsteward_gpu_bench")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--rows", help="file for the figures, a line each")
    parser.add_argument("--repetitions", type=int, default=50)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch_side: PyTorch sees no GPU")
    if arguments.matmul:
        print(f"{matmul_tflops():.1f}")
        return
    if not arguments.ours or not arguments.mask:
        parser.error("--ours and --mask are needed")
    with open(arguments.ours, encoding="utf-8") as file:
        figures = {figure["name"]: figure for figure in json.load(file)["figures"]}
    ours = figures["one layer of ada-snapkv, graph, 32k"]["median"]

    layers = [layer_tensors(layer, TOKENS) for layer in range(LAYERS)]
    budget = TOKENS // 10 - SINKS - RECENT
    differ = compare(arguments.mask, layers[0][0], layers[0][2], budget)
    print(f"same tokens as kvsteward's but for {differ} of {budget * HEADS}, all of them at the cut")

    compiled = torch.compile(tuned)
    bodies = {
        "usual, eager": lambda i: usual(*layers[i], budget),
        "tuned, eager": lambda i: tuned(*layers[i], budget),
        "tuned, compiled": lambda i: compiled(*layers[i], budget),
    }
    result = {
  "differ" : differ, "ours_us" : ours, "sequences" : {}}
    rows = []
    for name, body in bodies.items():
        try:
            waited, device = waited_us(body, arguments.repetitions), device_us(body, arguments.repetitions)
        except Exception as error:  # a compiler that is not there is no reason to lose the rest
            print(f"{name}: failed: {type(error).__name__}: {str(error).splitlines()[0]}")
            rows.append(f"PyTorch {name}\t-\t-\t-\t-\t-\tFAILED")
            continue
        needed = NEEDED[name.split(",")[0]]
        ratio = device / ours
        verdict = "met" if ratio >= needed else "MISSED"
        print(f"{name}: {device:.0f} us on the device, {waited:.0f} us waited for, {ratio:.1f} times kvsteward's {ours:.0f}")
        result["sequences"][name] = {"device_us": device, "waited_us": waited, "ratio": ratio, "verdict": verdict}
        rows.append(f"PyTorch {name} / ours (at least)\t{device:.0f} us\t{ours:.2f}\t{ratio:.2f}\t{needed:.2f} x\t-\t{verdict}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    if arguments.rows:
        with open(arguments.rows, "w", encoding="utf-8") as file:
            file.write("".join(row + "\n" for row in rows))


if __name__ == "__main__":
    main()
