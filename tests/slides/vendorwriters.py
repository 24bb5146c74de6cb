"""Minimal 3DHISTECH MRXS and Ventana BIF slides, in the layout that OpenSlide's documentation describes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile
from slidewriters import half

SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"


def mrxs(path: Path, picture: np.ndarray, tile: int = 128, missing: tuple[int, int] | None = None) -> Path:
    """An MRXS of two zoom levels: INI file, index of pages of (image, offset, length, file) and JPEG data.

    `missing` is the (row, column) of an image that was never scanned.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    rows, cols = picture.shape[0] // tile // 2 * 2, picture.shape[1] // tile // 2 * 2
    data = bytearray(b"\0" * 64)
    levels: list[list[tuple[int, int, int, int]]] = []
    for zoom in (0, 1):
        source, records = half(picture[: rows * tile, : cols * tile], zoom), []
        for row in range(rows >> zoom):
            for col in range(cols >> zoom):
                if zoom == 0 and (row, col) == missing:
                    continue
                piece = source[row * tile : (row + 1) * tile, col * tile : (col + 1) * tile]
                coded = simplejpeg.encode_jpeg(np.ascontiguousarray(piece), 95, colorsubsampling="444")
                number = (row << zoom) * cols + (col << zoom)
                records.append((number, len(data), len(coded), 0))
                data += coded
        levels.append(records)
    (folder / "Data0000.dat").write_bytes(bytes(data))
    (folder / "Index.dat").write_bytes(_mrxs_index(levels))
    (folder / "Slidedat.ini").write_text(_mrxs_ini(rows, cols, tile), "utf-8")
    path.write_bytes(simplejpeg.encode_jpeg(np.full((16, 16, 3), 255, np.uint8), 90))
    return path


def _mrxs_index(levels: list[list[tuple[int, int, int, int]]]) -> bytes:
    head = b"01.02" + SLIDE_ID.encode()
    table_at = len(head) + 8
    page_at = table_at + 4 * len(levels) + 8 * len(levels)
    table, lists, pages = b"", b"", b""
    for number, records in enumerate(levels):
        table += struct.pack("<i", table_at + 4 * len(levels) + 8 * number)
        lists += struct.pack("<ii", 0, page_at + len(pages))
        pages += struct.pack("<ii", len(records), 0) + b"".join(struct.pack("<4i", *one) for one in records)
    return head + struct.pack("<ii", table_at, 0) + table + lists + pages


def _mrxs_ini(rows: int, cols: int, tile: int) -> str:
    text = (
        f"[GENERAL]\nSLIDE_ID = {SLIDE_ID}\nIMAGENUMBER_X = {cols}\nIMAGENUMBER_Y = {rows}\n"
        "OBJECTIVE_MAGNIFICATION = 40\nCameraImageDivisionsPerSide = 1\nSLIDE_NAME = SMITH JOHN\n"
        "[HIERARCHICAL]\nHIER_COUNT = 1\nNONHIER_COUNT = 0\nINDEXFILE = Index.dat\n"
        "HIER_0_NAME = Slide zoom level\nHIER_0_COUNT = 2\n"
    )
    for zoom in (0, 1):
        text += f"HIER_0_VAL_{zoom} = ZoomLevel_{zoom}\n"
        text += f"HIER_0_VAL_{zoom}_SECTION = LAYER_0_LEVEL_{zoom}_SECTION\n"
    text += "[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n"
    for zoom in (0, 1):
        text += (
            f"[LAYER_0_LEVEL_{zoom}_SECTION]\nOVERLAP_X = 0\nOVERLAP_Y = 0\n"
            f"MICROMETER_PER_PIXEL_X = {0.25 * 2**zoom}\nMICROMETER_PER_PIXEL_Y = {0.25 * 2**zoom}\n"
            "IMAGE_FILL_COLOR_BGR = 16777215\n"
            f"DIGITIZER_WIDTH = {tile}\nDIGITIZER_HEIGHT = {tile}\nIMAGE_FORMAT = JPEG\n"
            f"IMAGE_CONCAT_FACTOR = {zoom}\n"
        )
    return text


def ventana_bif(path: Path, picture: np.ndarray, tile: int = 128) -> Path:
    """A BIF of one scanned area without overlap: label page, then levels, geometry in the XMP of level 0."""
    rows, cols = picture.shape[0] // tile // 2 * 2, picture.shape[1] // tile // 2 * 2
    picture = picture[: rows * tile, : cols * tile]
    scan = '<iScan Magnification="40" ScanRes="0.25" ScannerModel="VENTANA DP 200" UserName="J SMITH"/>'
    joints = "".join(_joints(rows, cols))
    stitch = (
        '<EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo>'
        f'<ImageInfo AOIScanned="1" AOIIndex="0" NumCols="{cols}" NumRows="{rows}" Width="{tile}" '
        f'Height="{tile}" Pos-X="0" Pos-Y="0">{joints}</ImageInfo></SlideStitchInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    label = np.full((64, 128, 3), 220, np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            label,
            photometric="rgb",
            description="Label_Image",
            metadata=None,
            extratags=[_xmp(f"<Metadata>{scan}</Metadata>")],
        )
        for level in range(2):
            tif.write(half(picture, level), tile=(tile, tile), photometric="rgb", compression="jpeg",
                      compressionargs={"level": 95}, subfiletype=1 if level else 0, metadata=None,
                      description=f"level={level} mag={40 >> level} quality=95",
                      extratags=[_xmp(stitch)] if level == 0 else [])  # fmt: skip
    return path


def _xmp(xml: str) -> tuple[int, int, int, bytes, bool]:
    data = xml.encode()
    return 700, 1, len(data), data, True


def _joints(rows: int, cols: int) -> list[str]:
    """Every pair of neighbours, numbered boustrophedon from the lower left from 1, joined without overlap."""

    def number(row: int, col: int) -> int:
        up = rows - 1 - row
        return up * cols + (col if up % 2 == 0 else cols - 1 - col) + 1

    text = (
        '<TileJointInfo FlagJoined="1" Confidence="99" Direction="{d}" Tile1="{a}" Tile2="{b}" '
        'OverlapX="0" OverlapY="0"/>'
    )
    joints = []
    for row in range(rows):
        for col in range(cols):
            if col + 1 < cols:
                joints.append(text.format(d="RIGHT", a=number(row, col), b=number(row, col + 1)))
            if row + 1 < rows:
                joints.append(text.format(d="UP", a=number(row + 1, col), b=number(row, col)))
    return joints
