#!/usr/bin/env python3
"""Trains the tiny Llama that the quality tests use (models/retrieval.safetensors).

The model retrieves values by key from a long haystack (see task.py and README.md),
so that the quality tests can count what an eviction policy loses. Training goes
through haystacks of growing length; the next length starts when the model answers
nearly all questions at the present one. At the end it prints the evaluation table.

    python3 train.py                      train, then evaluate
    python3 train.py --evaluate FILE      evaluate a model file only
"""
import argparse
import math
import pathlib
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import evaluate
from model import Llama, load, save
from task import KEY0, KEYS, VALUE0, VALUES, evaluation_batch, training_batch

HERE = pathlib.Path(__file__).resolve().parent
# (haystack length, pairs, sequences per batch, most steps). A stage ends early when the
# model passes it, except the last, which takes all its steps while the rate falls to 0.
STAGES = [(32, 6, 16, 20000), (64, 10, 16, 4000), (128, 16, 16, 3000),
          (256, 24, 12, 2500), (512, 32, 8, 2500), (1024, 32, 4, 1500)]
QUESTIONS = 16     # per training sequence
PASS = 0.985       # smoothed accuracy that ends a stage
WARMUP = 200


def train(args, device):
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    model = Llama().to(device)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    # Retrieval needs "the key just before me" at every value token first; without a
    # hint the loss stays on a plateau for very long. So a throw-away linear map reads
    # that key off the first layer's output while the first stage lasts.
    hint = torch.nn.Linear(model.config.hidden_size, KEYS).to(device)
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": args.decay},
                                   {"params": others + list(hint.parameters()), "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.98))
    begun, total = time.time(), 0
    for number, (length, pairs, batch, most) in enumerate(STAGES):
        last = number == len(STAGES) - 1
        smooth = 0.0
        for step in range(most):
            rate = args.lr * min(1.0, (total + 1) / WARMUP)
            if last:
                rate *= 0.5 * (1 + math.cos(math.pi * step / most))
            for group in optimiser.param_groups:
                group["lr"] = rate
            tokens, at, answers = (t.to(device) for t in training_batch(batch, length, pairs, QUESTIONS, gen))
            states = []
            logits = model(tokens, at=at, states=states)
            loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
            if number == 0:
                row, column = ((tokens >= VALUE0) & (tokens < VALUE0 + VALUES)).nonzero(as_tuple=True)
                loss = loss + F.cross_entropy(hint(states[0][row, column]), tokens[row, column - 1] - KEY0)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            total += 1
            right = (logits.argmax(-1) == answers).float().mean().item()
            smooth += (right - smooth) * (0.02 if step > 50 else 1 / (step + 1))
            if step % 100 == 0:
                print(f"{time.time() - begun:6.0f} s  length {length:4}  step {step:5}  "
                      f"loss {loss.item():.4f}  accuracy {smooth:.4f}", flush=True)
            if not last and step > 100 and smooth > PASS:
                break
        print(f"length {length} done after {step + 1} steps, accuracy {smooth:.4f}", flush=True)
        save(model, args.out)
    return model


def golden(model, path):
    """One 64-token prompt and all its logits, for testing other implementations."""
    tokens, _, _ = evaluation_batch(1, "aware", torch.Generator().manual_seed(64), length=64, pairs=12)
    with torch.no_grad():
        logits = model.cpu().eval()(tokens)
    save_file({"tokens": tokens[0], "logits": logits[0].contiguous()}, path)


def main():
    parser = argparse.ArgumentParser(description="Train or evaluate the retrieval model.")
    parser.add_argument("--out", default=HERE.parents[1] / "models" / "retrieval.safetensors", type=pathlib.Path)
    parser.add_argument("--golden", type=pathlib.Path, default=HERE / "golden.safetensors")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of the matrices")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--prompts", type=int, default=512, help="evaluation prompts of each kind")
    parser.add_argument("--evaluate", metavar="FILE", help="only evaluate this model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.evaluate:
        model = load(args.evaluate).to(device)
    else:
        model = train(args, device).eval()
        golden(model, args.golden)
        model.to(device)
    evaluate.table(model, args.prompts)


if __name__ == "__main__":
    main()
