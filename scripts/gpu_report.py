#!/usr/bin/env python3
"""Makes report.txt and report.json of what scripts/gpu_check.sh left in a folder.

usage: gpu_report.py FOLDER STAGE...
"""
import json
import pathlib
import subprocess
import sys


def json_lines(path):
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                pass  # cut off when the stage's time was up
    return lines


def gpu():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def stage_status(folder, stage):
    passed, failed = folder / f"{stage}.passed", folder / f"{stage}.failed"
    if passed.exists():
        return {"stage": stage, "status": "passed", "seconds": int(passed.read_text())}
    if failed.exists():
        code, seconds = failed.read_text().split()
        return {"stage": stage, "status": "timed out" if code in ("124", "137") else "failed", "seconds": int(seconds)}
    return {"stage": stage, "status": "not run", "seconds": 0}


def last_line(path):
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return lines[-1][:160] if lines else ""


def number(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows, columns):
    cells = [columns] + [[number(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in cells)


def main():
    folder, stages = pathlib.Path(sys.argv[1]), sys.argv[2:]
    report = {
        "gpu": gpu(),
        "stages": [stage_status(folder, stage) for stage in stages],
        "ops": json_lines(folder / "bench_ops.log"),
        "train": json_lines(folder / "bench_train.log"),
        "decode": json_lines(folder / "decode.log"),
        "peers": json_lines(folder / "peers.jsonl"),
    }
    text = [report["gpu"], ""]
    for entry in report["stages"]:
        tail = "" if entry["stage"].startswith(("bench", "decode", "peers", "build")) else last_line(folder / f"{entry['stage']}.log")
        text.append(f"{entry['stage']:<16} {entry['status']:<10} {entry['seconds']:>4} s  {tail}")
    if report["ops"]:
        text += ["", table(report["ops"], ["op", "pass", "shape", "median_s", "bandwidth_share", "gemm_share", "error"])]
    if report["train"]:
        text += ["", table(report["train"], ["preset", "seq", "batch", "precision", "checkpoint_every", "tok_s", "gemm_share", "peak_mb"])]
    if report["decode"]:
        text += ["", table(report["decode"], ["model", "type", "depth", "batch", "repeats", "tok_s", "read_share", "rss_mb"])]
    if report["peers"]:
        text += ["", table(report["peers"], ["arch", "compile", "seq", "batch", "tok_s", "mfu", "peak_mb", "error"])]
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "report.txt").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
