"""A script with the faults that an attack must see."""


def main(argv):
    if argv == ["traceback"]:
        raise RuntimeError("nobody foresaw this")
    return int(argv[0])
