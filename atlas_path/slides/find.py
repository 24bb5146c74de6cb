"""Which images lie in the folders a user names, and what each is called."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from atlas_path.errors import UsageError
from atlas_path.slides.base import SlideSource
from atlas_path.slides.dicom_files import is_dicom, slide_series_uid

SLIDE_SUFFIXES = (
    *(
        ".svs",
        ".tif",
        ".tiff",
        ".btf",
        ".qptiff",
        ".ndpi",
        ".scn",
        ".mrxs",
        ".bif",
        ".svslide",
        ".vms",
        ".vmu",
    ),
    *(".czi", ".dcm", ".dicom", ".dic", ".png", ".jpg", ".jpeg", ".zarr"),
)
_DOUBLE_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.btf", ".ome.zarr", ".qptiff.tif")


def find_slides(inputs: Sequence[Path]) -> list[SlideSource]:
    """All slides in `inputs` (files, folders, `.zarr` folders; folders are searched to any depth).

    An image id is the path relative to the folder that was named, without suffix. Ids that would be equal get
    their suffix; those still equal (two folders named) get the names of their parent folders in front.
    A mammogram's id is a pseudonym, for its file name often is an identifier; DICOM files count whatever
    their suffix. Hidden and `.part` entries and the parts of multi-file slides are not listed. A DICOM series
    is one slide.

    Raises:
        UsageError: an input does not exist, or there is no slide in any of them.
    """
    found: dict[Path, Path] = {}  # absolute path -> path relative to the input it came from
    for given in inputs:
        if not given.exists():
            raise UsageError(given, "does not exist", "check the path")
        root = given.resolve()
        if given.is_file() or is_zarr_folder(given):
            found.setdefault(root, Path(given.name))
        else:
            for path in _walk(root):
                found.setdefault(path, path.relative_to(root))
    sources = _one_per_dicom_series(found)
    if not sources:
        names = ", ".join(str(given) for given in inputs) or "nothing"
        raise UsageError(names, "holds no slides", f"give slides or folders of {' '.join(SLIDE_SUFFIXES)}")
    return sorted(map(with_pseudonym, _named(sources)), key=lambda source: (source.image_id, source.path))


def is_zarr_folder(path: Path) -> bool:
    """A folder that is one zarr image, by its name or its metadata file."""
    return path.is_dir() and (
        path.suffix == ".zarr" or any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))
    )


def may_be_mammogram(path: Path, films: Path | None = None) -> bool:
    """A quick look: starts as DICOM, calls itself DICOM, or lies at or below a `mammograms.csv`."""
    from atlas_path.slides.mammo.header import DICOM_SUFFIXES, has_dicom_magic
    from atlas_path.slides.mammo.table import FILM_SUFFIXES, film_row

    suffix = path.suffix.lower()
    if suffix in FILM_SUFFIXES:
        return film_row(path, films) is not None
    return path.is_file() and (suffix in DICOM_SUFFIXES or has_dicom_magic(path))


def mammogram_pseudonym(path: Path, films: Path | None = None) -> str | None:
    """The image id of a mammogram; None for anything else."""
    if not may_be_mammogram(path, films):
        return None
    from atlas_path.slides.mammo import is_mammogram, mammogram_id

    return mammogram_id(path, films) if is_mammogram(path, films) else None


def with_pseudonym(source: SlideSource) -> SlideSource:
    """The source itself, or, if it is a mammogram, one that is private and named by its pseudonym."""
    pseudonym = mammogram_pseudonym(source.path)
    return SlideSource(source.path, pseudonym, private=True) if pseudonym else source


def _walk(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        lower = {name.lower() for name in files}
        companions = _companions(here, files)
        zarrs = [name for name in folders if not _skipped(name) and is_zarr_folder(here / name)]
        folders[:] = sorted(
            name
            for name in folders
            if not _skipped(name) and name not in zarrs and f"{name.lower()}.mrxs" not in lower
        )
        yield from (here / name for name in zarrs)
        for name in sorted(files):
            path = here / name
            if _skipped(name) or name in companions:
                continue
            if path.suffix.lower() in SLIDE_SUFFIXES or is_dicom(path) or mammogram_pseudonym(path):
                yield path


def _skipped(name: str) -> bool:
    return name.startswith(".") or name.endswith(".part")


def _companions(folder: Path, files: Sequence[str]) -> set[str]:
    """Files that Hamamatsu VMS and VMU index files in this folder point to: parts, not slides."""
    parts: set[str] = set()
    for name in files:
        if name.lower().endswith((".vms", ".vmu")):
            text = (folder / name).read_text("latin-1")
            parts.update(line.partition("=")[2].strip() for line in text.splitlines() if "=" in line)
    return parts


def _one_per_dicom_series(found: dict[Path, Path]) -> dict[Path, Path]:
    """DICOM whole-slide files of one series are levels of one slide: keep the first file of each series.

    Where a folder holds a single series of several files, the folder names the slide.
    """
    kept: dict[Path, Path] = {}
    series: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path, relative in found.items():
        uid = slide_series_uid(path)
        if uid is None:
            kept[path] = relative
        else:
            series[path.parent, uid].append(path)
    per_folder = Counter(folder for folder, _ in series)
    for (folder, _), paths in series.items():
        first = min(paths)
        relative = found[first]
        if len(paths) > 1 and per_folder[folder] == 1 and relative.parent != Path():
            relative = relative.parent.with_name(relative.parent.name + ".dcm")
        kept[first] = relative
    return kept


def _stem(relative: Path) -> str:
    text = relative.as_posix()
    for suffix in _DOUBLE_SUFFIXES:
        if text.lower().endswith(suffix) and len(relative.name) > len(suffix):
            return text[: -len(suffix)]
    return relative.with_suffix("").as_posix()


def _named(sources: dict[Path, Path]) -> list[SlideSource]:
    """Ids made unique: bare stem, then with suffix, then with as many parent folders as it takes."""
    ids = {path: _stem(relative) for path, relative in sources.items()}
    for path in _clashing(ids):
        ids[path] = sources[path].as_posix()
    depth = 1
    while clashing := _clashing(ids):
        for path in clashing:
            parents = path.parts[1:-1][-depth - len(sources[path].parts) + 1 :]
            ids[path] = "/".join((*parents, path.name))
        depth += 1
    return [SlideSource(path, image_id) for path, image_id in ids.items()]


def _clashing(ids: dict[Path, str]) -> list[Path]:
    counts = Counter(ids.values())
    return [path for path, image_id in ids.items() if counts[image_id] > 1]
