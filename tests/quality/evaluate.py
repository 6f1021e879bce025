"""Accuracy of the retrieval model after eviction, emulated.

The prompt is prefilled; a policy scores the cache per (layer, kv head) from the
last WINDOW queries and keeps k = floor(budget * length) positions; the last prompt
token is recomputed over what is kept (keys keep their absolute positions), and
then the questions are answered one by one, each with the model's own answer fed
back. See README.md for the two kinds of prompt.
"""
import math

import torch
import torch.nn.functional as F

from task import ASK, PROMPT, QUESTIONS, evaluation_batch

WINDOW = 32
SINKS = 4
BUDGETS = (0.5, 0.25, 0.1)
KINDS = ("aware", "agnostic")
SEED = 1_000_003  # training uses the seed of train.py's --seed


def attention_sums(cache, gain=None):
    """Softmax of the last WINDOW queries over the whole prompt, summed over those
    rows and averaged over the query group -> [batch, kv heads, length]. gain: a
    factor per row on q.k / sqrt(d)."""
    q, k = cache["q"][:, :, -WINDOW:], cache["k"]
    b, heads, rows, d = q.shape
    n = k.shape[2]
    logits = q @ k.repeat_interleave(heads // k.shape[1], 1).transpose(2, 3) / math.sqrt(d)
    if gain is not None:
        logits = logits * gain[:, None]
    causal = torch.ones(rows, n, dtype=torch.bool, device=q.device).tril(n - rows)
    weights = logits.masked_fill(~causal, -torch.inf).softmax(-1).sum(2)
    return weights.view(b, k.shape[1], -1, n).mean(2)


def step_gain(length, k, floor, device):
    position = torch.arange(length - WINDOW, length, device=device)
    return (2 * ((position + 1) / k).clamp(min=1).log()).sqrt().clamp(min=floor)


def top(scores, k):
    """Mask of the k largest of each row; equal scores: lower position first."""
    best = scores.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def keep_recent_and_top(scores, k):
    scores = scores.clone()
    scores[..., -WINDOW:] = torch.inf
    return top(scores, k)


def streaming(cache, k):
    keep = torch.zeros_like(cache["k"][..., 0], dtype=torch.bool)
    keep[..., :SINKS] = True
    keep[..., -(k - SINKS):] = True
    return keep


def snapkv(cache, k):
    scores = attention_sums(cache)
    candidates = F.max_pool1d(scores[..., :-WINDOW], 7, 1, 3)
    return keep_recent_and_top(torch.cat([candidates, scores[..., -WINDOW:]], -1), k)


def ahakv(cache, k):
    n = cache["k"].shape[2]
    prior = cache["v"].square().sum(-1)
    prior = F.avg_pool1d(prior, 7, 1, 3, count_include_pad=False)
    prior = prior / prior.amax(-1, keepdim=True)
    return keep_recent_and_top(attention_sums(cache, step_gain(n, k, 0.0, prior.device)) * prior, k)


def ahakv_ada(cache, k, guaranteed=0.2):
    n = cache["k"].shape[2]
    norm = cache["v"].square().sum(-1)
    prior = norm / norm[..., SINKS:-WINDOW].mean(-1, keepdim=True)
    scores = attention_sums(cache, step_gain(n, k, 1.0, prior.device)) * prior
    scores = scores[..., SINKS:-WINDOW]
    b, heads, m = scores.shape
    c = k - SINKS - WINDOW
    own = top(scores, int(guaranteed * c))
    joint = scores.masked_fill(own, torch.inf).view(b, -1)
    chosen = top(joint, heads * c).view(b, heads, m)
    return F.pad(F.pad(chosen, (SINKS, 0), value=True), (0, WINDOW), value=True)


POLICIES = {"streaming-llm": streaming, "snapkv": snapkv, "ahakv": ahakv, "ahakv-ada": ahakv_ada}


def compact(cache, keep):
    """What is left of the cache, less the last prompt token (it is recomputed): rows
    [batch, kv heads, width], width the most that any head keeps; the mask `keep`
    leaves out the padding of heads that keep fewer."""
    keep = keep[:, :, :-1]
    width = int(keep.sum(-1).max())
    rows = keep.byte().argsort(dim=-1, descending=True, stable=True)[..., :width]
    wide = rows[..., None].expand(*rows.shape, cache["k"].shape[-1])
    return {"k": cache["k"].gather(2, wide), "v": cache["v"].gather(2, wide), "keep": keep.gather(2, rows)}


def answer(model, caches, keeps, prompts, asked, kind):
    """The model's answers [batch, questions] over the evicted caches."""
    n = prompts.shape[1]
    kept = [compact(c, keep) for c, keep in zip(caches, keeps)]
    chunk, position, answers = prompts[:, -1:], n - 1, []
    ask = torch.full_like(chunk, ASK)
    if kind == "agnostic":
        chunk = torch.cat([chunk, ask, asked[:, :1]], 1)
    for i in range(asked.shape[1]):
        if i:
            chunk = torch.cat([answers[-1], ask, asked[:, i:i + 1]], 1)
        logits = model(chunk, position, kept, at=slice(-1, None))
        position += chunk.shape[1]
        answers.append(logits[:, -1:].argmax(-1))
    return torch.cat(answers, 1)


@torch.no_grad()
def accuracies(model, kind, prompts, batch=64, seed=SEED, policies=POLICIES, budgets=BUDGETS):
    """-> {(policy, budget): share of right answers}; the full cache is ("full", 1)."""
    device = next(model.parameters()).device
    gen = torch.Generator().manual_seed(seed + KINDS.index(kind))
    right = {}
    for first in range(0, prompts, batch):
        made = evaluation_batch(min(batch, prompts - first), kind, gen)
        tokens, asked, values = (t.to(device) for t in made)
        caches = [{} for _ in model.model.layers]
        model(tokens, 0, caches, at=slice(-1, None))
        plans = {("full", 1): [torch.ones_like(c["k"][..., 0], dtype=torch.bool) for c in caches]}
        for budget in budgets:
            k = int(budget * tokens.shape[1])
            for name, policy in policies.items():
                plans[name, budget] = keeps = [policy(c, k) for c in caches]
                assert all((keep.sum((1, 2)) == k * keep.shape[1]).all() for keep in keeps)
        for plan, keeps in plans.items():
            hits = (answer(model, caches, keeps, tokens, asked, kind) == values).sum().item()
            right[plan] = right.get(plan, 0) + hits
    return {plan: hits / (prompts * QUESTIONS) for plan, hits in right.items()}


def table(model, prompts, policies=POLICIES, budgets=BUDGETS):
    print(f"{prompts} prompts x {QUESTIONS} questions per cell, {PROMPT} tokens; per cent right")
    print("| kind | policy | " + " | ".join(f"{b:.0%}" for b in budgets) + " |")
    print("| --- | --- |" + " ---: |" * len(budgets))
    for kind in KINDS:
        got = accuracies(model, kind, prompts, policies=policies, budgets=budgets)
        print(f"| {kind} | full cache | " + " | ".join([f"{100 * got['full', 1]:.1f}"] * len(budgets)) + " |")
        for name in policies:
            print(f"| {kind} | {name} | " + " | ".join(f"{100 * got[name, b]:.1f}" for b in budgets) + " |", flush=True)
