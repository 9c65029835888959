"""Write the newest checkpoint of a run as the model folder: `python -m recipes.nano.export --run DIR [--to DIR]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.nano import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=train.NANO)
    args = parser.parse_args()
    train.export(train.restored(args.run), args.to)
    print(f"exported to {args.to}")


if __name__ == "__main__":
    main()
