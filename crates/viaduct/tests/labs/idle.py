"""For how long a processor had nothing to do (proc_stat(5)): whoever waited longer than that for something waited for a processor.

now: prints the seconds of each. since FILE: the most that one of them had nothing to do since `now` was written there."""
import sys


def now():
    with open("/proc/stat") as lines:
        of_each = [line.split() for line in lines if line.startswith("cpu") and line[3].isdigit()]
    # In USER_HZ; what waits for a disk waits for no processor.
    return [(int(words[4]) + int(words[5])) / 100 for words in of_each]


def between(before, after):
    return max(later - earlier for earlier, later in zip(before, after))


if __name__ == "__main__":
    if sys.argv[1] == "now":
        print(*now())
    else:
        print(between([float(word) for word in open(sys.argv[2]).read().split()], now()))
