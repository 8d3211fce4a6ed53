"""The records of measured rows as a table, in plain text or Markdown."""

HEADING = ("", "ours s", "torch s", "ratio", "aim", "first ours s", "first torch s", "own ours GB",
           "own torch GB", "ratio", "aim", "share ours", "share torch", "rel. error")


def cells(record):
    """Return a record's cells, in the order of HEADING."""
    def number(value, form):
        return "" if value is None else format(value, form)

    (time_aim, memory_aim), memory = record["aims"], record["own_gb"]
    share = record["share"] or (None, None)
    return (record["what"], *(number(x, ".3f") for x in record["seconds"]),
            number(record["ratio"], ".2f"), number(time_aim or None, ".2f"),
            *(number(x, ".2f") for x in record["first_seconds"]),
            *(number(x, ".2f") for x in memory), number(memory[0] / memory[1], ".2f"),
            number(memory_aim or None, ".1f"), *(number(x, ".0%") for x in share),
            number(record["error"], ".1e"))


def plain(records):
    """Return the records as columns; all but the first are right-aligned."""
    lines = [HEADING, *map(cells, records)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) if i else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(line, widths)))
                     for line in lines)


def markdown(records):
    """Return the records as a table in Markdown."""
    lines = [HEADING, ["---"] * len(HEADING), *map(cells, records)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
