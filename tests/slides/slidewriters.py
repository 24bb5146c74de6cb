"""Minimal valid slides of many formats, written from a picture: what the contract tests read back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile

APERIO = (
    "Aperio Image Library v12.0.15 \r\n{w}x{h} [0,0 {w}x{h}] (240x240) JPEG/RGB Q=70|AppMag = 40|"
    "MPP = 0.2500|Date = 01/02/03|User = J SMITH"
)


def half(picture: np.ndarray, times: int = 1) -> np.ndarray:
    """2x mean downsampling, `times` times; sizes round down."""
    for _ in range(times):
        picture = cv2.resize(
            picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA
        )
    return picture


def pyramid_tiff(
    path: Path, picture: np.ndarray, compression: str | None = "jpeg", tile: int = 256, **options
) -> Path:
    """A plain tiled TIFF with reduced pages, resolution in pixels per centimetre (0.5 um)."""
    planar = options.pop("planar", False)
    if planar:
        options["planarconfig"] = "separate"
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as tif:
        for level in range(3):
            page = half(picture, level)
            tif.write(
                page.transpose(2, 0, 1) if planar else page,
                tile=(tile, tile),
                compression=compression,
                photometric="rgb",
                subfiletype=1 if level else 0,
                resolution=(20000 / 2**level, 20000 / 2**level),
                resolutionunit="CENTIMETER",
                metadata=None,
                **options,
            )
    return path


def striped_tiff(path: Path, picture: np.ndarray, compression: str | None = None, **options) -> Path:
    kind = "rgb" if picture.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(
        path,
        picture.squeeze(),
        photometric=kind,
        compression=compression,
        rowsperstrip=64,
        metadata=None,
        **options,
    )
    return path


def aperio(path: Path, picture: np.ndarray, compression: str = "jpeg", **options) -> Path:
    """SVS: tiled base, striped thumbnail, tiled reduced level, label with a name on it."""
    height, width = picture.shape[:2]
    if compression == "jpeg":
        options.setdefault("compressionargs", {"level": 90})
    stored = (
        cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
        if compression.endswith("ycbc")
        else picture
    )
    with tifffile.TiffWriter(path) as tif:
        for page, tiled in ((stored, True), (half(picture, 2), False), (half(stored, 2), True)):
            tif.write(
                page,
                photometric="rgb",
                compression=compression if tiled else "jpeg",
                tile=(240, 240) if tiled else None,
                description=APERIO.format(h=height, w=width)
                if page is stored
                else "Aperio Image Library v12.0.15",
                metadata=None,
                **(options if tiled else {}),
            )
        label = np.full((60, 80, 3), 200, np.uint8)
        options = {"description": "Aperio\r\nlabel 80x60", "subfiletype": 1, "metadata": None}
        tif.write(label, photometric="rgb", compression="lzw", **options)
    return path


def ome_tiff_rgb(path: Path, picture: np.ndarray) -> Path:
    with tifffile.TiffWriter(path, ome=True) as tif:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500,
                    "PhysicalSizeYUnit": "nm"}  # fmt: skip
        tif.write(
            picture, tile=(256, 256), subifds=1, photometric="rgb", compression="zlib", metadata=metadata
        )
        tif.write(
            half(picture),
            tile=(256, 256),
            subfiletype=1,
            photometric="rgb",
            compression="zlib",
            metadata=None,
        )
    return path


def ome_tiff_channels(path: Path, channels: np.ndarray) -> Path:
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tif:
        metadata = {"axes": "CYX", "PhysicalSizeX": 0.325, "PhysicalSizeY": 0.325,
                    "Channel": {"Name": ["DAPI", "CD3", "CD8", "PanCK"]}}  # fmt: skip
        options = {"tile": (256, 256), "photometric": "minisblack", "compression": "lzw"}
        tif.write(channels, subifds=1, metadata=metadata, **options)
        tif.write(channels[:, ::2, ::2], subfiletype=1, metadata=None, **options)
    return path


def qptiff(path: Path, channels: np.ndarray) -> Path:
    """One channel a page, then a thumbnail, then reduced pages, a macro image: as Akoya writes them."""
    xml = (
        '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription>'
        "<ImageType>{kind}</ImageType>"
        "<Name>{name}</Name><Biomarker>{name}</Biomarker></PerkinElmer-QPI-ImageDescription>"
    )
    names = ["DAPI", "Opal 520", "Opal 570", "Opal 690"]
    options = {
        "photometric": "minisblack",
        "compression": "lzw",
        "metadata": None,
        "software": "PerkinElmer-QPI",
    }
    with tifffile.TiffWriter(path) as tif:
        for level in (0, 1):
            for plane, name in zip(channels[:, :: 2**level, :: 2**level], names, strict=True):
                tif.write(plane, tile=(256, 256), subfiletype=1 if level else 0, resolutionunit="CENTIMETER",
                          resolution=(20000 / 2**level,) * 2, description=xml.format(
                              kind="ReducedResolution" if level else "FullResolution", name=name),
                          **options)  # fmt: skip
            if level == 0:
                small = (channels[:3, ::8, ::8] >> 8).astype(np.uint8).transpose(1, 2, 0)
                thumbnail = xml.format(kind="Thumbnail", name="")
                tif.write(small, **{**options, "photometric": "rgb"}, description=thumbnail)
    return path


def qptiff_rgb(path: Path, picture: np.ndarray) -> Path:
    """A bright-field QPTIFF: colour pages."""
    xml = "<PerkinElmer-QPI-ImageDescription><ImageType>{}</ImageType></PerkinElmer-QPI-ImageDescription>"
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "software": "PerkinElmer-QPI"}
    with tifffile.TiffWriter(path) as tif:
        for level in (0, 1):
            text = xml.format("ReducedResolution" if level else "FullResolution")
            tif.write(half(picture, level), tile=(256, 256), subfiletype=1 if level else 0, description=text,
                      resolutionunit="CENTIMETER", resolution=(20000 / 2**level,) * 2, **options)  # fmt: skip
            if level == 0:
                tif.write(half(picture, 3), description=xml.format("Thumbnail"), **options)
    return path


def philips(path: Path, picture: np.ndarray) -> Path:
    """Philips TIFF: its levels are padded to whole tiles, sizes stand in the XML only."""
    spacing = (
        '<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">'
        "&quot;{0}&quot; &quot;{0}&quot;</Attribute>"
    )
    text = '<Attribute Name="{name}" Group="0x{group}" Element="0x{element}" PMSVR="{kind}">{value}'
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        + spacing.format(0.00025 * 2**level)
        + "</DataObject>"
        for level in range(2)
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + text.format(
            name="DICOM_MANUFACTURER", group="0008", element="0070", kind="IString", value="PHILIPS"
        )
        + "</Attribute>"
        + text.format(
            name="DICOM_PATIENT_NAME", group="0010", element="0010", kind="IString", value="SMITH^J"
        )
        + "</Attribute>"
        + text.format(
            name="PIM_DP_SCANNED_IMAGES", group="301D", element="1003", kind="IDataObjectArray", value=""
        )
        + '<Array><DataObject ObjectType="DPScannedImage">'
        + text.format(name="PIM_DP_IMAGE_TYPE", group="301D", element="1004", kind="IString", value="WSI")
        + "</Attribute>"
        + spacing.format(0.00025)
        + '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" '
        f'PMSVR="IDataObjectArray"><Array>{levels}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level in range(2):
            tif.write(half(picture, level), tile=(256, 256), photometric="rgb", compression="jpeg",
                      compressionargs={"level": 92}, subfiletype=1 if level else 0, metadata=None,
                      software="Philips DP v1.0", description=xml if level == 0 else "")  # fmt: skip
    return path


def leica_scn_channels(path: Path, channels: np.ndarray) -> Path:
    """A fluorescence SCN, one gray page a channel and level; OpenSlide opens bright-field ones only."""
    height, width = channels.shape[1:]
    dims = "".join(
        f'<dimension r="{r}" c="{c}" sizeX="{width >> r}" sizeY="{height >> r}" '
        f'ifd="{r * len(channels) + c}"/>'
        for r in (0, 1)
        for c in range(len(channels))
    )
    xml = (
        '<?xml version="1.0"?>'
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:0">'
        f'<collection name="c" uuid="urn:uuid:9" sizeX="{width * 500}" sizeY="{height * 500}">'
        '<image name="scan" uuid="urn:uuid:2"><creationDate>2019-05-06T07:08:09Z</creationDate>'
        '<device model="Leica SCN400" version="1.0"/>'
        f'<pixels sizeX="{width}" sizeY="{height}">{dims}</pixels>'
        f'<view sizeX="{width * 500}" sizeY="{height * 500}" offsetX="0" offsetY="0" spacingZ="0"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>fluorescence</illuminationSource></illuminationSettings>"
        "</scanSettings></image>"
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level in (0, 1):
            for number, plane in enumerate(channels[:, :: 2**level, :: 2**level]):
                tif.write(plane, tile=(256, 256), photometric="minisblack", compression="lzw", metadata=None,
                          description="" if level + number else xml, resolution=(20000 >> level,) * 2,
                          resolutionunit="CENTIMETER")  # fmt: skip
    return path


def leica_scn(path: Path, picture: np.ndarray) -> Path:
    """SCN: BigTIFF with a macro image over the whole collection and one brightfield scan inside it."""
    height, width = picture.shape[:2]
    nm, y0, x0 = 500, 40 * 500, 100 * 500
    size_x, size_y = (width + 300) * nm, (height + 200) * nm
    small = half(picture)
    scan = (
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>"
    )
    image = (
        '<image name="{name}" uuid="urn:uuid:{n}"><creationDate>2019-05-06T07:08:09Z</creationDate>'
        '<device model="Leica SCN400" version="1.0"/><pixels sizeX="{w}" sizeY="{h}">{dims}</pixels>'
        '<view sizeX="{vx}" sizeY="{vy}" offsetX="{ox}" offsetY="{oy}" spacingZ="0"/>' + scan + "</image>"
    )
    dims = '<dimension r="{r}" sizeX="{w}" sizeY="{h}" ifd="{ifd}"/>'
    macro = np.full((size_y // nm // 4, size_x // nm // 4, 3), 235, np.uint8)
    macro_xml = image.format(
        name="macro", n=1, w=macro.shape[1], h=macro.shape[0], vx=size_x, vy=size_y, ox=0, oy=0,
        dims=dims.format(r=0, w=macro.shape[1], h=macro.shape[0], ifd=0),
    )  # fmt: skip
    main_xml = image.format(
        name="scan", n=2, w=width, h=height, vx=width * nm, vy=height * nm, ox=x0, oy=y0,
        dims=dims.format(r=0, w=width, h=height, ifd=1)
        + dims.format(r=1, w=small.shape[1], h=small.shape[0], ifd=2),
    )  # fmt: skip
    xml = (
        '<?xml version="1.0"?>'
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:0">'
        f'<collection name="c" uuid="urn:uuid:9" sizeX="{size_x}" sizeY="{size_y}">'
        f"<barcode>U01JTUlUSA==</barcode>{macro_xml}{main_xml}</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for number, page in enumerate((macro, picture, small)):
            tif.write(page, tile=(256, 256), photometric="rgb", compression="jpeg", metadata=None,
                      compressionargs={"level": 92}, description=xml if number == 0 else "",
                      resolution=(20000, 20000), resolutionunit="CENTIMETER")  # fmt: skip
    return path
