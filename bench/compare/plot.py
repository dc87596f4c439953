# SPDX-License-Identifier: Apache-2.0
"""Draws compare.json as SVG. Usage: plot.py COMPARE.json FOLDER [PAGE]

With a page, plots go into a folder for the maker of the processor and the vectors it has, as amd-avx2, and with the table between the
page's lines <!-- compare AMD AVX2 --> and <!-- /compare -->.
kernels.svg and steps.svg: a bar for every ratio, a line at its target, a dot at the worst shape; memory.svg: both peaks."""
import html
import json
import pathlib
import sys

LEFT, WIDTH, ROW = 480, 400, 22
HOLDS, MISSED, PEER, INK = "#2a7f62", "#c8553d", "#b0b7c3", "#20242b"


def text(x, y, what, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(what)}</text>'


def bar(y, length, height, colour):
    return f'<rect x="{LEFT}" y="{y:.1f}" width="{max(length, 1):.1f}" height="{height}" fill="{colour}"/>'


def colour_of(row):
    return MISSED if row["holds"] is False else HOLDS


def draw(title, rows, lines_of):
    parts = [text(8, 20, title)]
    for i, row in enumerate(rows):
        parts += [text(LEFT - 8, 44 + i * ROW + 11, row["name"], "end"), *lines_of(row, 44 + i * ROW)]
    size = (LEFT + WIDTH + 110, 44 + len(rows) * ROW + 8)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" font-family="sans-serif" font-size="12" fill="{INK}">\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n")


def ratios(title, rows):
    most = max(max(r["ratio"], r["target"] or 0) for r in rows)

    def lines_of(row, y):
        end = LEFT + max(row["ratio"], row["target"] or 0) / most * WIDTH
        out = [bar(y, row["ratio"] / most * WIDTH, 14, colour_of(row)), text(end + 8, y + 11, f"{row['ratio']:.2f}")]
        if row["target"] is not None:
            at = LEFT + row["target"] / most * WIDTH
            out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 2}" y2="{y + 16}" stroke="{INK}" stroke-width="2"/>')
        if len(row.get("shapes", {})) > 1:
            out.append(f'<circle cx="{LEFT + min(row["shapes"][row["worst"]] / most, 1) * WIDTH:.1f}" cy="{y + 7}" r="3" fill="{INK}"/>')
        return out

    return draw(title, rows, lines_of)


def memory(title, rows):
    most = max(max(r["ours"], r["peer"]) for r in rows)

    def lines_of(row, y):
        return [bar(y, row["ours"] / most * WIDTH, 7, colour_of(row)), bar(y + 8, row["peer"] / most * WIDTH, 7, PEER),
                text(LEFT + max(row["ours"], row["peer"]) / most * WIDTH + 8, y + 11, f"{row['ours']:.0f} / {row['peer']:.0f}")]

    return draw(title, rows, lines_of)


def table(rows):
    yield "| row | ours | peer | ratio | at best | target | worst |"
    yield "|---|---|---|---|---|---|---|"
    for r in rows:
        ratio = f"**{r['ratio']:.2f}**" if r["holds"] else f"{r['ratio']:.2f}"
        target = f"{r['bound']} {r['target']:g}" if r["target"] is not None else ""
        worst = f"{r['shapes'][r['worst']]:.2f}, `{r['worst']}`" if len(r.get("shapes", {})) > 1 else ""
        yield f"| {r['name']} | {r['ours']:.4g} {r['unit']} | {r['peer']:.4g}, {r['peer_name']} | {ratio} | {r['at_best']:.2f} | {target} | {worst} |"


def kind_of_machine(rows):
    """AMD AVX2"""
    maker = next((m for m in ("Intel", "AMD") if m in rows[0]["machine"]), "other")
    return f"{maker} {rows[0]['vectors']}"


def write_page(page, folder, plots, rows):
    begin, end = f"<!-- compare {kind_of_machine(rows)} -->\n", "<!-- /compare -->\n"
    before, found, rest = page.read_text().partition(begin)
    if not found:
        sys.exit(f"{page} has no line {begin}")
    machines = ", ".join(dict.fromkeys(r["machine"] for r in rows))
    where = folder.resolve().relative_to(page.resolve().parent).as_posix()
    lines = [f"Measured on {machines} with {rows[0]['vectors']}; a ratio in bold meets its target.", "",
             *(f"![{name}]({where}/{name}.svg)" for name in plots), "", *table(rows)]
    page.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2])


def main(source, folder, page=None):
    rows = json.loads(pathlib.Path(source).read_text())
    parts = {"memory": [r for r in rows if r["unit"] == "MiB"], "steps": [r for r in rows if r["unit"] in ("tokens/s", "samples/s")]}
    parts["kernels"] = [r for r in rows if r not in parts["memory"] and r not in parts["steps"]]
    how = {"kernels": (ratios, "Kernels: speed or share of the limit, ours / peer; line: target; dot: worst shape"),
           "steps": (ratios, "Training steps: speed, ours / peer; line: target"),
           "memory": (memory, "Peak memory of training steps, MiB: ours above, peer below")}
    folder = pathlib.Path(folder) / (kind_of_machine(rows).lower().replace(" ", "-") if page else "")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [name for name in how if parts[name]]
    for name in drawn:
        f, title = how[name]
        (folder / f"{name}.svg").write_text(f(title, parts[name]))
    if page is not None:
        write_page(pathlib.Path(page), folder, drawn, rows)


main(*sys.argv[1:])
