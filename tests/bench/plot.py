#!/usr/bin/env python3
"""Draws what kvsteward_bench --json wrote under "scaling" as a self-contained SVG: an eviction's cost against its tokens.

Points are minima, thin lines reach to the medians. A cost that is proportional to the tokens is a level line.
"""
import json
import math
import pathlib
import statistics
import sys

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 66, 150, 44, 56
COLOURS = ("#0b6e99", "#c2571a", "#3f7d20", "#7b3fa0")


def read(path):
    """{policy: [(tokens, minimum, median)]} in nanoseconds per token and kv head."""
    curves = {}
    for key, values in json.loads(pathlib.Path(path).read_text())["scaling"].items():
        policy, tokens = key.rsplit("/", 1)
        curves.setdefault(policy, []).append((int(tokens), min(values), statistics.median(values)))
    return {policy: sorted(points) for policy, points in curves.items()}


def name(tokens):
    return f"{tokens // 1024}k"


def step_for(top):
    """A round step that divides the axis into four to eight."""
    power = 10 ** math.floor(math.log10(top / 4))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if top / (power * factor) <= 8)


def apart(heights, gap):
    """Moves labels down until none touches the one above it."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for above, below in zip(order, order[1:]):
        placed[below] = max(placed[below], placed[above] + gap)
    return placed


def draw(curves):
    lengths = [tokens for tokens, _, _ in next(iter(curves.values()))]
    step = step_for(max(median for points in curves.values() for _, _, median in points))
    top = step * math.ceil(max(median for points in curves.values() for _, _, median in points) / step)
    low, high = math.log2(lengths[0]), math.log2(lengths[-1])

    def x(tokens):
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log2(tokens) - low) / (high - low)

    def y(cost):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * cost / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="13" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">Cost of an eviction to 10 %, '
        "nanoseconds per token and kv head</text>",
    ]
    for i in range(round(top / step) + 1):
        cost = i * step
        parts.append(f'<path d="M{LEFT} {y(cost):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(cost) + 4:.1f}" text-anchor="end">{cost:g}</text>')
    for tokens in lengths:
        parts.append(f'<path d="M{x(tokens):.1f} {y(0):.1f}v5" stroke="#333"/>')
        parts.append(f'<text x="{x(tokens):.1f}" y="{y(0) + 20:.1f}" text-anchor="middle">{name(tokens)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 12}" text-anchor="middle">tokens in the cache</text>')

    ends = apart([y(points[-1][1]) + 4 for points in curves.values()], 17)
    for (policy, points), colour, end in zip(curves.items(), COLOURS, ends):
        line = " ".join(f"{x(tokens):.1f},{y(least):.1f}" for tokens, least, _ in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for tokens, least, median in points:
            parts.append(f'<path d="M{x(tokens):.1f} {y(least):.1f}V{y(median):.1f}" stroke="{colour}" opacity="0.6"/>')
            parts.append(f'<circle cx="{x(tokens):.1f}" cy="{y(least):.1f}" r="3.5" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{end:.1f}" fill="{colour}">{policy}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} BENCH.json OUT.svg")
    pathlib.Path(sys.argv[2]).write_text(draw(read(sys.argv[1])))


if __name__ == "__main__":
    main()
