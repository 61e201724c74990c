"""Reads a row and writes one as soon as the process has begun: cold.py DATABASE

Says what the application `minimal` says: `row`, `written`, and the most memory that it has had.
"""

import sys

from connected import add_one, connect, read


def main():
    connection = connect(sys.argv[1])
    [(n,)] = read(connection)
    print(f"row {n}", flush=True)
    add_one(connection)
    print("written", flush=True)
    with open("/proc/self/status") as status:
        [peak] = [line for line in status if line.startswith("VmHWM:")]
    print(peak.removeprefix("VmHWM:").strip(), flush=True)


if __name__ == "__main__":
    main()
