#!/usr/bin/env python3
"""Scores one layer with kvsteward_bench and with NumPy in turns, in the same minute on the same machine.

Needs Debian's python3-numpy and libopenblas0-pthread. Prints min / median / max of both and the ratios; --json FILE
writes the readings.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys


class Contestant:
    """A process that scores once per line of input and prints the seconds."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def once(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended before it scored")
        return float(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", help="path of the executable kvsteward_bench")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="file for the readings")
    options = parser.parse_args()

    tokens = str(options.tokens)
    script = pathlib.Path(__file__).with_name("numpy_score.py")
    engine = Contestant([options.bench, "--serve", "--tokens", tokens])
    numpy = Contestant([sys.executable, str(script), tokens])
    readings = {"kvsteward": [], "numpy": []}
    engine.once(), numpy.once()  # warm both up
    for _ in range(options.rounds):
        readings["kvsteward"].append(engine.once())
        readings["numpy"].append(numpy.once())
    engine.close(), numpy.close()

    for name, seconds in readings.items():
        print(
            f"{name:10} {1e3 * min(seconds):9.1f} {1e3 * statistics.median(seconds):9.1f} {1e3 * max(seconds):9.1f} ms"
            " min / median / max"
        )
    ratios = {
        "minima": min(readings["numpy"]) / min(readings["kvsteward"]),
        "medians": statistics.median(readings["numpy"]) / statistics.median(readings["kvsteward"]),
        "worst round": min(n / k for n, k in zip(readings["numpy"], readings["kvsteward"])),
    }
    print("NumPy / kvsteward: " + ", ".join(f"{name} {ratio:.1f}x" for name, ratio in ratios.items()))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({**readings, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
