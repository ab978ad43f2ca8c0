"""Files that are broken at random: videos through the decoding pool, JSON files through the scripts."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.support.attack_tools import Attack, Start, compare_argv, new_bench, sample_argv
from tests.support.clip_table import CLIPS
from tests.support.clip_writer import write_clip
from tests.support.fault_tools import SET, Bench
from tests.support.mutations import changed_bytes, mutated
from tests.support.odd_files import damaged
from videobench.video.pool import DecodePool
from videobench.video.spec import PixelSpec

FRAMES, EDGE, WORKERS = 8, 32, 2


def videos(folder: Path, number: int, start: int) -> Attack:
    """Bytes changed, cut off, joined with another clip's, or called by another suffix: frames, or a reason."""
    folder.mkdir()
    clips = [write_clip(folder / f"{name}{suffix}", codec, **arguments) for name, suffix, codec, arguments, _ in CLIPS]
    paths = [_break(clips, folder, index, start) for index in range(number)]
    spec = PixelSpec(EDGE, EDGE, "bilinear", mean=(0, 0, 0), std=(1, 1, 1), shortest_edge=EDGE)
    with DecodePool(spec, FRAMES, WORKERS) as pool:
        for path, prepared in zip(paths, pool.prepare(paths), strict=True):
            if prepared.error is None:
                shape = tuple(prepared.pixels.shape)
                yield "damaged video, decoded", "" if shape[0] == FRAMES else f"{path}: {shape}"
            else:
                yield "damaged video, refused", "" if str(path) in prepared.error else prepared.error


def _break(clips: list[Path], folder: Path, index: int, start: int) -> Path:
    source = random.Random(start + index)
    clip, other = source.sample(clips, 2)
    whole = clip.read_bytes()
    at = source.randrange(len(whole))
    how = index % 4
    changed = [damaged(whole, start + index), whole[:at], whole[:at] + other.read_bytes()[at:], whole][how]
    path = folder / f"{index} {clip.stem}{other.suffix if how == 3 else clip.suffix}"
    path.write_bytes(changed)
    return path


def examples(strategy: SearchStrategy[bytes], number: int, start: int) -> list[bytes]:
    found: list[bytes] = []

    @seed(start)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(content: bytes) -> None:
        found.append(content)

    collect()
    return found


def json_files(folder: Path, number: int, start: int) -> Attack:
    """Each kind of file in turn."""
    bench, said, out = new_bench(folder, 6), folder / "said", folder / "written"
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    for script, argv in (("extract_dataset", sample_argv(bench, out)), ("run_gpu", bench.run_flags("--limit", 2))):
        assert Start(script, argv, said).end() == (0, ""), said.read_text()
    attacked = _attacked(bench, out)
    share = -(-number // len(attacked))
    for kind, (path, script, argv) in attacked.items():
        good = path.read_bytes()
        change: Callable[..., SearchStrategy[bytes]] = mutated if path.suffix == ".json" else changed_bytes
        for content in examples(change(json.loads(good) if path.suffix == ".json" else good), share, start):
            path.write_bytes(content)
            _, fault = Start(script, argv, said).end()
            yield f"mutated {kind}", fault and f"{fault}\n{content[:300]!r}"
        path.write_bytes(good)


def _attacked(bench: Bench, out: Path) -> dict[str, tuple[Path, str, list[str]]]:
    """Kind -> (file, script that reads it, its flags)."""
    dry, compare = bench.run_flags("--dry_run"), compare_argv(bench, bench.folder / "reports")
    manifest = out / "sampling_manifest.json"
    return {
        "questions": (bench.qa, "run_gpu", dry),
        "answers": (bench.folder / "qa/ANSWER.json", "extract_dataset", sample_argv(bench, bench.folder / "again")),
        "replies": (bench.folder / "npu.json", "precision_test", compare),
        "manifest": (manifest, "extract_dataset", ["--verify", str(manifest), "--sampling_output_folder", str(out)]),
        "journal": (bench.folder / f"out/journal/{SET}.rank0.jsonl", "run_gpu", bench.run_flags("--limit", 2)),
    }
