"""How well agreement without labels predicts accuracy: `python agreement.py DISTILL OUT NAME=TEACHER.ndp=DATA …`

For each teacher pack (with calibrated noise), students of several widths and noises are made, compared with the teacher
(`distill compare`: no labels) and measured (`distill evaluate`). Prints each student, and the rank correlation (Spearman)
of agreement and accuracy, of each network and of all: accuracy relative to the teacher's there. Students in OUT are not made again.
"""
import json
import pathlib
import subprocess
import sys

WIDTHS = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
RUNS = {"standard": [], "propagated": [], "calibrated": ["--images", "256", "--projections", "0"]}


def main(distill, out, *teachers):
    call = lambda *words: json.loads(subprocess.run([distill, *map(str, words), "--json"], check=True, stdout=subprocess.PIPE).stdout)
    out = pathlib.Path(out)
    out.mkdir(exist_ok=True)
    every = []
    for entry in teachers:
        name, teacher, data = entry.split("=")
        whole = call("evaluate", teacher, "--data", data)["accuracy"]
        rows = []
        for noise, options in RUNS.items():
            for width in WIDTHS:
                blocks, student = (out / f"{name}-{noise}-{width}{end}.ndp" for end in ("-blocks", ""))
                if not student.exists():
                    call("run", teacher, "-o", blocks, "--width", width, "--noise", noise, *options)
                    call("recompose", teacher, blocks, "-o", student)
                compared = call("compare", teacher, student)
                accuracy = call("evaluate", student, "--data", data)["accuracy"]
                rows.append((accuracy / whole, compared["agreement"], -compared["output_error"]))
                print(f"| {name} | {noise} | {width} | {compared['agreement']:.1f} | {compared['output_error']:.3f} | {accuracy:.2f} |", flush=True)
        say(name, rows)
        every += rows
    say("all", every)


def say(name, rows):
    accuracy, agreement, closeness = zip(*rows)
    print(f"{name}: {len(rows)} students, rank correlation with accuracy: agreement {spearman(agreement, accuracy):.3f}, "
          f"error of the output {spearman(closeness, accuracy):.3f}", flush=True)


def spearman(a, b):
    a, b = ranks(a), ranks(b)
    mean = (len(a) - 1) / 2
    dot = lambda x, y: sum((p - mean) * (q - mean) for p, q in zip(x, y))
    return dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5


def ranks(values):
    """Ranks from 0; equal values share their mean rank."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


if __name__ == "__main__":
    main(*sys.argv[1:])
