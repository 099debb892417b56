"""Trains every optimizer on every task, and compares them.

python -m benchmarks.quality [--quick] [--save FOLDER]

It takes one to two hours on two CPU cores, most of them to compile. With a folder it
saves after each pair of a task and an optimizer, and a second call goes on where the
first was stopped.
"""

import argparse
import pathlib

from ..report import machine
from .evidence import Evidence, write
from .optimizers import CONTENDERS
from .protocol import QUICK, run, Settings
from .tasks import TASKS


# What is trained by `--quick` if no names are given.
FEW = ("AdamW", "SGD, momentum 0.9", "Muon")


def main(arguments: list[str] | None = None) -> Evidence:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few optimizers, few numbers, few steps"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--optimizers", nargs="+", choices=CONTENDERS)
    parser.add_argument(
        "--again", action="store_true", help="also what is in the folder already"
    )
    parser.add_argument(
        "--save", type=pathlib.Path, help="a folder for tables, JSON and pictures"
    )
    args = parser.parse_args(arguments)
    names = args.optimizers or (FEW if args.quick else [*CONTENDERS])
    # All others are compared with it.
    names = dict.fromkeys(["AdamW", *names])
    settings = QUICK if args.quick else Settings()
    output = args.save and args.save / "evidence.json"
    print(machine(), "\n")
    results = run(settings, args.tasks, names, output, again=args.again)
    evidence = Evidence(results)
    if args.save:
        write(evidence, args.save)
    print(f"\n{evidence.verdict()}\n\n{evidence.table()}")
    return evidence


if __name__ == "__main__":
    main()
