"""Hostile inputs as people meet them, each with what is right: an answer, or one line that names file, place and mend.

    python tests/corpus.py FOLDER     # writes every input to FOLDER/NUMBER-NAME/in, to try by hand, and lists them

An input is made in a folder `in`; commands are given beside it and write to `out` alone. `test_corpus.py` walks all.
"""
import dataclasses
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save, save_file


@dataclass(frozen=True)
class Case:
    name: str
    make: object # (folder) -> None: writes the input
    run: object # a command line, or a function (folder) -> text
    says: tuple # what an answer or the one line holds, all of it
    status: int = 0 # 0: an answer; 1, 2: refused
    sees: str | None = None # letters of the four corners of the picture, "RG/BW"

    @property
    def many(self): # does it list what is wrong and go on?
        return not callable(self.run) and ({"check", "--check", "csv"} & {*self.run} or self.run == MASKS)


CASES = []
CHECK = "data check in".split()
MASKS = "masks --data in --out out --size 32 --workers 0".split()


def write(files):
    "{name: text, bytes, or a function that writes to the path} -> what makes them in a folder"
    def make(folder):
        for name, content in files.items():
            path = folder/name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
    return make


def lines(*texts):
    return "".join(f"{text}\n" for text in texts)


# Pictures: four corners, red and green above blue and white, 60 x 40

COLOURS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255), "K": (0, 0, 0), "-": (128,)*3}


def corners(letters="RG/BW", width=60, height=40):
    "(height, width, 3) uint8"
    array = np.zeros((height, width, 3), np.uint8)
    for row, pair in enumerate(letters.split("/")):
        for column, letter in enumerate(pair):
            array[row*height//2:, column*width//2:] = COLOURS[letter]
    return array


def letters_of(array):
    "The colours nearest to what stands in the middle of each quarter"
    h, w = array.shape[:2]
    def letter(y, x):
        return min(COLOURS, key=lambda one: np.abs(array[y, x].astype(int) - COLOURS[one]).sum())
    return "/".join(letter(y, w//4) + letter(y, 3*w//4) for y in (h//4, 3*h//4))


def pil(mode="RGB", **crop):
    return Image.fromarray(corners(**crop)).convert(mode)


def encoded(format="PNG", picture=None, **options):
    (pil() if picture is None else picture).save(into := io.BytesIO(), format, **options)
    return into.getvalue()


def chunk(kind, content, crc=None):
    "A chunk of PNG"
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png_with(*chunks, behind=33):
    "A PNG with more chunks behind its header"
    whole = encoded()
    return whole[:behind] + b"".join(chunks) + whole[behind:]


def png_header(width, height):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0"*100)) + chunk(b"IEND", b"")


def jpeg_with(marker, content):
    "A JPEG with one more segment"
    whole = encoded("JPEG", quality=95)
    return whole[:2] + bytes([0xff, marker]) + struct.pack(">H", len(content) + 2) + content + whole[2:]


def turned(orientation, letters="RG/BW", width=60, height=40, format="JPEG"):
    exif = Image.Exif()
    exif[0x112] = orientation
    return encoded(format, pil(letters=letters, width=width, height=height), exif=exif, quality=95)


def cut_short(content):
    return content[:len(content)*2//3]


def noise(format, **options):
    "A picture that does not compress, so that what is cut off is pixels"
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return encoded(format, Image.fromarray(array), **options)


def animated(format, **options):
    return encoded(format, pil(), save_all=True, append_images=[pil(letters="KK/KK")], duration=50, **options)


def with_hole():
    "The white corner is a hole in black"
    array = np.dstack([corners("RG/BK"), np.full((40, 60), 255, np.uint8)])
    array[20:, 30:, 3] = 0
    return Image.fromarray(array)


def sixteen_bits_of_colour(path):
    ok, content = cv2.imencode(".png", corners()[..., ::-1].astype(np.uint16) * 257)
    path.write_bytes(content.tobytes())


def float_tiff(value):
    array = np.full((40, 60), .5, np.float32)
    array[0, 0] = value
    return encoded("TIFF", Image.fromarray(array))


def link_to(target):
    return lambda path: path.symlink_to(target)


def picture(name, file, content, sees="RG/BW", size=(60, 40), says=()):
    "A picture that is read"
    w, h = size
    says = (f"box 0 0 {w} {h} ->", *says)
    CASES.append(Case(name, write({file: content}), ["predict", f"in/{file}", *"--method whole --out out".split()],
                      says, sees=sees))


def no_picture(name, file, content, *says):
    "A file that is refused by what it is"
    CASES.append(Case(name, write({file: content}), ["predict", f"in/{file}", *"--method whole --out out".split()],
                      says, status=1))


GREYS = "--/KW"
picture("palette", "p.png", encoded("PNG", pil().quantize(8)))
picture("palette-with-transparent-colour", "p.png", encoded("PNG", pil().quantize(8), transparency=0), sees=None)
picture("one-bit", "p.png", encoded("PNG", pil("1", letters="KW/WK")), "KW/WK")
picture("grey", "p.png", encoded("PNG", pil("L")), GREYS)
picture("grey-and-alpha", "p.png", encoded("PNG", pil("LA")), GREYS)
picture("hole-is-white", "p.png", encoded("PNG", with_hole()))
picture("hole-in-webp", "p.webp", encoded("WEBP", with_hole(), lossless=True))
picture("sixteen-bits-of-grey", "p.png", encoded("PNG", Image.fromarray(corners("KW/WK")[...,
        0].astype(np.uint16)*257)),
        "KW/WK")
picture("sixteen-bits-of-colour", "p.png", sixteen_bits_of_colour)
picture("sixteen-bit-tiff", "p.tif", encoded("TIFF", Image.fromarray(corners("KW/WK")[..., 0].astype(np.uint16)*257)),
        "KW/WK")
picture("progressive-jpeg", "p.jpg", encoded("JPEG", progressive=True))
picture("grey-jpeg", "p.jpg", encoded("JPEG", pil("L"), quality=95), GREYS)
picture("cmyk-jpeg", "p.jpg", encoded("JPEG", pil("CMYK"), quality=95))
picture("worst-jpeg", "p.jpg", encoded("JPEG", quality=1), sees=None)
picture("cmyk-tiff", "p.tif", encoded("TIFF", pil("CMYK")))
picture("lab-tiff", "p.tif", encoded("TIFF", pil("LAB")) if "LAB" in Image.MODES else encoded("TIFF"), sees=None)
picture("packed-tiff", "p.tiff", encoded("TIFF", compression="tiff_lzw"))
picture("first-of-many-tiff", "p.tif", encoded("TIFF", save_all=True, append_images=[pil(letters="KK/KK")]))
picture("bmp", "p.bmp", encoded("BMP"))
picture("gif", "p.gif", encoded("GIF"))
picture("first-of-animated-gif", "p.gif", animated("GIF"))
picture("first-of-animated-webp", "p.webp", animated("WEBP", lossless=True))
picture("first-of-animated-png", "p.png", animated("PNG"))
picture("lossy-webp", "p.webp", encoded("WEBP", quality=95))
picture("ppm", "p.ppm", encoded("PPM"))
picture("ppm-in-letters", "p.ppm", "P3 2 2 255\n255 0 0  0 255 0\n0 0 255  255 255 255\n", size=(2, 2))
picture("sixteen-bit-pgm", "p.pgm", b"P5 2 2 65535\n" + np.array([0, 65535, 65535, 0], ">u2").tobytes(), "KW/WK", (2,
        2))
picture("tga", "p.tga", encoded("TGA"))
picture("jpeg-2000", "p.jp2", encoded("JPEG2000"))
picture("avif", "p.avif", encoded("AVIF", quality=95))
picture("pcx", "p.pcx", encoded("PCX"))
picture("icon", "p.ico", encoded("ICO", pil(width=32, height=32), sizes=[(32, 32)]), size=(32, 32))
picture("png-named-jpg", "p.jpg", encoded())
picture("jpeg-named-png", "p.png", encoded("JPEG", quality=95))
picture("suffix-in-capitals", "P.JPEG", encoded("JPEG", quality=95))
picture("no-suffix", "picture", encoded())
picture("one-pixel", "p.png", encoded("PNG", pil(letters="RR/RR", width=2, height=2).crop((0, 0, 1, 1))), "RR/RR", (1,
        1))
picture("one-pixel-wide", "p.png", encoded("PNG", pil(width=2, height=3000).crop((0, 0, 1, 3000))), "RR/BB", (1, 3000))
picture("one-pixel-high", "p.png", encoded("PNG", pil(width=3000, height=2).crop((0, 0, 3000, 1))), "RG/RG", (3000, 1))
for orientation, (letters, size) in {
    1: ("RG/BW", (60, 40)), 2: ("GR/WB", (60, 40)), 3: ("WB/GR", (60, 40)), 4: ("BW/RG", (60, 40)),
    5: ("RB/GW", (40, 60)), 6: ("BR/WG", (40, 60)), 7: ("WG/BR", (40, 60)), 8: ("GW/RB", (40, 60)),
}.items():
    picture(f"turned-{orientation}", "p.jpg", turned(orientation), letters, size)
picture("turned-0", "p.jpg", turned(0))
picture("turned-9", "p.jpg", turned(9))
picture("turned-by-text", "p.jpg",
        jpeg_with(0xe1, b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4sI", 0x112, 2, 4, b"6\0\0\0", 0)))
picture("turned-png", "p.png", turned(6, format="PNG"), "BR/WG", (40, 60))
picture("turned-webp", "p.webp", turned(6, format="WEBP"), "BR/WG", (40, 60))
picture("turned-tiff", "p.tif", turned(6, format="TIFF"), "BR/WG", (40, 60))
picture("exif-of-garbage", "p.jpg", jpeg_with(0xe1, b"Exif\0\0" + bytes(range(200))))
picture("exif-cut-short", "p.jpg", jpeg_with(0xe1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
picture("exif-that-loops", "p.jpg", jpeg_with(0xe1, b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"))
picture("profile-of-garbage", "p.jpg", jpeg_with(0xe2, b"ICC_PROFILE\0\x01\x01" + b"\xff"*300))
picture("profile-numbered-9-of-2", "p.jpg", jpeg_with(0xe2, b"ICC_PROFILE\0\x09\x02" + b"x"*30))
picture("comment-not-utf-8", "p.jpg", jpeg_with(0xfe, b"\xff\xfe\xe9"*99))
picture("segment-of-65533-bytes", "p.jpg", jpeg_with(0xed, b"Photoshop 3.0\0" + b"x"*65519))
picture("bytes-behind-the-end", "p.jpg", encoded("JPEG", quality=95) + b"<html>" + bytes(1000))
picture("png-text-of-100-mb", "p.png", png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9))))
picture("png-profile-broken", "p.png", png_with(chunk(b"iCCP", b"a\0\0not zlib")))
picture("png-remark-with-wrong-sum", "p.png", png_with(chunk(b"tEXt", b"a\0b", crc=1)))
picture("png-of-unknown-chunks", "p.png", png_with(*[chunk(b"vpAg", bytes(9))]*50))
picture("png-with-gamma-0", "p.png", png_with(chunk(b"gAMA", bytes(4))))
no_picture("png-pixels-with-wrong-sum", "p.png", encoded()[:60] + b"\xff" + encoded()[61:], "in/p.png",
           "cannot be read")
for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"):
    no_picture(f"{format.lower()}-cut-short", f"p.{format.lower()}", cut_short(noise(format)),
    f"in/p.{format.lower()}: ")
no_picture("only-a-jpeg-header", "p.jpg", encoded("JPEG")[:20], "in/p.jpg: ")
no_picture("bytes-before-the-beginning", "p.jpg", b"\0\1\2" + encoded("JPEG"), "in/p.jpg: not a picture")
no_picture("bomb", "p.png", png_header(60_000, 60_000), "in/p.png: more than", "pixels", "MAX_IMAGE_PIXELS")
no_picture("0-pixels-png", "p.png", png_header(0, 5), "in/p.png: ")
no_picture("0-pixels-gif", "p.gif", b"GIF89a\0\0\0\0\0\0\0;", "in/p.gif: ")
no_picture("nan-tiff", "p.tif", float_tiff(np.nan), "in/p.tif: ", "floating-point pixels, expected 8 or 16 bits")
no_picture("infinite-tiff", "p.tif", float_tiff(np.inf), "in/p.tif: ", "floating-point pixels, expected 8 or 16 bits")
no_picture("whole-numbers-of-32-bits", "p.tif", encoded("TIFF", Image.fromarray(np.full((4, 4), 200, np.int32))),
           "in/p.tif: ", "32-bit integers, expected 8 or 16 bits")
no_picture("empty", "p.jpg", b"", "in/p.jpg: ", "the file is empty")
no_picture("only-zeros", "p.jpg", bytes(5000), "in/p.jpg: ", "only zeros", "copy it again")
no_picture("web-page", "p.jpg", "<!DOCTYPE html><p>404", "in/p.jpg: ", "HTML", "download it again")
no_picture("answer-of-a-server", "p.jpg", '{"error": "rate limit"}', "in/p.jpg: ", "JSON", "download it again")
no_picture("xml-of-a-server", "p.jpg", '<?xml version="1.0"?><Error/>', "in/p.jpg: ", "XML", "download it again")
no_picture("lfs-pointer", "p.jpg", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
           "in/p.jpg: ", "Git LFS pointer", "git lfs pull")
no_picture("heic", "p.jpg", b"\0\0\0\x18ftypheic" + bytes(99), "in/p.jpg: ", "HEIC", "convert it to JPEG")
no_picture("film", "p.jpg", b"\0\0\0\x18ftypisom" + bytes(99), "in/p.jpg: ", "a film", "take a frame")
no_picture("jpeg-xl", "p.jpg", b"\xff\x0a" + bytes(99), "in/p.jpg: ", "JPEG XL", "convert it")
no_picture("drawing", "p.png", '<svg xmlns="http://www.w3.org/2000/svg"/>', "in/p.png: ", "SVG", "convert it to PNG")
no_picture("pdf", "p.jpg", b"%PDF-1.7\n" + bytes(99), "in/p.jpg: ", "PDF", "convert it")
no_picture("zip", "p.jpg", b"PK\x03\x04" + bytes(99), "in/p.jpg: ", "an archive", "unpack it")
no_picture("gzip", "p.jpg", gzip.compress(b"a"*99), "in/p.jpg: ", "an archive", "unpack it")
no_picture("text", "p.jpg", "Quota exceeded for this file.\n", "in/p.jpg: ", "text", "download it again")
no_picture("random-bytes", "p.jpg", np.random.default_rng(1).bytes(3000), "in/p.jpg: not a picture")
no_picture("broken-link", "p.jpg", link_to("gone.jpg"), "in/p.jpg: no such file", "link to gone.jpg")
no_picture("link-to-itself", "p.jpg", link_to("p.jpg"), "in/p.jpg: ")
no_picture("pipe", "p.jpg", os.mkfifo, "in/p.jpg: ", "a pipe or a device, expected a file")
no_picture("endless-device", "p.jpg", link_to("/dev/zero"), "in/p.jpg: ", "a pipe or a device")
CASES.append(Case("missing-but-for-case", write({"P.JPG": encoded("JPEG")}),
                  "predict in/p.jpg --method whole --out out".split(),
                  ("in/p.jpg: no such file; there is in/P.JPG", "rename it"), status=1))
TRUTH = {"p.png": encoded(), "labels/p.txt": "0 0.5 0.5 0.2 0.2\n", "labels/classes.txt": "cat\n"}
CASES.append(Case("labels-that-are-no-answers", write(TRUTH),
             "predict in/p.png --method whole --out in --save yolo".split(),
                  ("in/labels/p.txt is no answer of before", "choose another folder"), status=1))
CASES.append(Case("bad-among-good", write({"a.jpg": encoded("JPEG"), "b.jpg": "no", "c.png": encoded()}),
                  "predict in/a.jpg in/b.jpg in/c.png --method whole --out out --save csv".split(),
                  ("in/b.jpg: ", "text"), status=1))
NAMES = {
    "space": "a b.png", "dollar": "$x_2$.png", "quote": "it's \"so\".png", "percent": "100%s.png",
    "brackets": "[a]{b}.png",
    "hash": "#1.png", "emoji": "🦉.png", "arabic": "بومة.png", "line-break": "a\nb.png", "escape": "a\x1b[31mb.png",
    "two-suffixes": "a.tar.png", "dash": "-p.png", "comma": "a,b=c.png", "230-letters": "n"*230 + ".png",
    "backslash": "a\\b.png", "combined": "e\u0301.png", "direction": "a\u202egnp.png",
    "not-utf-8": os.fsdecode(b"\xe9.png"),
}
for what, file in NAMES.items():
    picture(f"name-with-{what}", file, encoded())


# index.csv

HEADER = "image,class,split,width,height,x0,y0,x1,y1,mask"
ROWS = "a.jpg,cat,train,60,40,1,2,30,20,", "b.png,dog,train,60,40,0,0,60,40,"
PHOTOS = {"a.jpg": encoded("JPEG", quality=95), "b.png": encoded()}


def listed(name, text, *says, status=0, files=PHOTOS, run=CHECK):
    "index.csv of this content"
    CASES.append(Case(f"list-{name}", write({**files, "index.csv": text}), run, says, status))


def row(*at, row=ROWS[0]):
    "A list whose first row has other values at some places"
    values = row.split(",")
    for place, value in at:
        values[place] = str(value)
    return lines(HEADER, ",".join(values), ROWS[1])


WHOLE_LIST = lines(HEADER, *ROWS)
FINE = "in: 2 pictures, no problems"
listed("as-it-should-be", WHOLE_LIST, FINE)
listed("with-byte-order-mark", b"\xef\xbb\xbf" + WHOLE_LIST.encode(), FINE)
listed("of-windows", WHOLE_LIST.replace("\n", "\r\n"), FINE)
listed("of-old-macs", WHOLE_LIST.replace("\n", "\r"), FINE)
listed("without-last-line-break", WHOLE_LIST.rstrip(), FINE)
listed("with-semicolons", WHOLE_LIST.replace(",", ";"), FINE)
listed("with-tabs", WHOLE_LIST.replace(",", "\t"), FINE)
listed("of-excel", "sep=;\n" + WHOLE_LIST.replace(",", ";"), FINE)
listed("with-spaces", lines(*(line.replace(",", " , ") for line in WHOLE_LIST.splitlines())), FINE)
listed("with-capitals", WHOLE_LIST.replace(HEADER, HEADER.title()), FINE)
listed("in-quotes", lines(*('"' + line.replace(",", '","') + '"' for line in WHOLE_LIST.splitlines())), FINE)
listed("with-other-columns", lines(*(f"{i},{line},x" for i, line in enumerate(WHOLE_LIST.splitlines()))), FINE)
listed("in-another-order", lines(*(",".join(reversed(line.split(","))) for line in WHOLE_LIST.splitlines())), FINE)
listed("with-empty-lines", WHOLE_LIST.replace("\n", "\n\n"), FINE)
listed("with-240.0", row((3, "60.0"), (4, "40.0")), FINE)
listed("with-1e1", row((5, "1e0"), (7, "3e1")), FINE)
listed("with-two-boxes", lines(HEADER, ROWS[0], ROWS[0].replace("1,2,30,20", "5,5,9,9"), ROWS[1]), FINE)
listed("with-a-folder-before", row((0, "./a.jpg")), FINE)
listed("with-backslash", row((0, "sub\\a.jpg")), FINE, files={"sub/a.jpg": PHOTOS["a.jpg"], "b.png": PHOTOS["b.png"]})
listed("class-with-dollar", row((1, "$x^2$")), FINE)
listed("class-with-line-break", row((1, '"a\nb"')), FINE)
listed("class-of-formula", row((1, "=1+1")), FINE)
listed("class-of-tags", row((1, "<script>")), FINE)
listed("class-of-4000-letters", row((1, "c"*4000)), FINE)
listed("class-of-20000-letters", row((1, "c"*20_000)), "in/index.csv: the class 'ccc", "4,096 at most", status=1)
listed("box-a-pixel-out", row((5, -1), (7, 61)), FINE, "1 of 2 boxes end outside their picture and are clipped")
listed("one-without-box", lines(HEADER, ROWS[0], "b.png,dog,train,60,40,,,,,"),
       "1 of 2 pictures have neither box nor mask",
       status=1)
listed("empty", "", "in/index.csv, line 1: lacks image, class", status=1)
listed("header-alone", HEADER + "\n", "in", "no", status=1)
listed("no-header", lines(*ROWS), "in/index.csv, line 1: lacks image, class", "the header must be", status=1)
listed("column-missing", WHOLE_LIST.replace("height", "high"), "in/index.csv, line 1: lacks height", status=1)
listed("value-missing", lines(HEADER, ROWS[0][:-1]), "in/index.csv, line 2: expected 10 values", status=1)
listed("value-too-many", lines(HEADER, ROWS[0], ROWS[1] + ",x"), "in/index.csv, line 3: expected 10 values", status=1)
listed("quote-that-does-not-end", lines(HEADER, '"' + ROWS[0], ROWS[1]), "in/index.csv, line 2: expected", status=1)
listed("value-of-a-million-letters", row((0, "a"*1_000_000)), "in/index.csv, line 2: ", "field", status=1)
listed("latin-1", row((1, "caf\xe9")).encode("latin-1"), "in/index.csv, line 2: not UTF-8", status=1)
listed("latin-1-on-line-3000", (WHOLE_LIST + "\n"*2996).encode() + b"caf\xe9\n", "in/index.csv, line 3000: not UTF-8",
       status=1)
listed("utf-16", WHOLE_LIST.encode("utf-16"), "in/index.csv, line 1: UTF-16, expected UTF-8", status=1)
listed("nul-in-name", row((0, "a\0.jpg")), "in/index.csv, line 2: ", "NUL", status=1)
listed("nul-in-class", row((1, "c\0")), "in/index.csv", "NUL", status=1)
listed("path-above", row((0, "../a.jpg")), "in/index.csv, line 2: ", "must be relative and stay in the folder",
       status=1)
listed("path-from-the-root", row((0, "/etc/passwd")), "in/index.csv, line 2: ", "must be relative", status=1)
listed("path-with-drive", row((0, "C:\\a.jpg")), "in/index.csv, line 2: ", "must be relative", status=1)
listed("path-empty", row((0, "")), "in/index.csv, line 2: ", "must be relative", status=1)
listed("mask-above", row((9, "../m.png")), "in/index.csv, line 2: ", "stay in the folder", status=1)
listed("class-empty", row((1, " ")), "in/index.csv, line 2: class and split must not be empty", status=1)
listed("split-empty", row((2, "")), "in/index.csv, line 2: class and split must not be empty", status=1)
for value in ("0", "-5", "wide", "", "60.5", "nan", "inf", "1e30", "9"*400):
    listed(f"width-{value[:9] or 'empty'}", row((3, value)), "in/index.csv, line 2: width, height must be", status=1)
for value in ("nan", "inf", "-inf", "left", "30", "100", "0x1", "-1e300"):
    listed(f"x0-{value}", row((5, value)), "in/index.csv, line 2: ", "x0", status=1)
listed("box-of-three-numbers", row((8, "")), "in/index.csv, line 2: x0, y0, x1, y1 must be numbers, got", status=1)
listed("box-reversed", row((5, 30), (7, 1)), "in/index.csv, line 2: the box 30, 2, 1, 20 must have 0 <= x0 < x1",
       status=1)
listed("box-with-decimal-comma", row((5, "1,5")), "in/index.csv, line 2: expected 10 values", status=1)
listed("twice-in-two-classes", lines(HEADER, *ROWS, ROWS[0].replace("cat", "dog")),
       "in/index.csv, line 4: a.jpg has another class", status=1)
listed("other-split-asked", WHOLE_LIST.replace("train", "holdout"), "in/index.csv has no pictures of the split 'train'",
       "it has holdout", status=1, run=MASKS)
listed("picture-missing", row((0, "c.jpg")), "in/c.jpg: no such file", "1 problem", status=1)
listed("picture-in-other-case", row((0, "A.jpg")), "in/A.jpg: no such file; there is in/a.jpg", "rename it", status=1)
listed("picture-of-another-size", row((3, 61)), "in/a.jpg: is 60 x 40, but in/index.csv says 61 x 40", status=1)
listed("picture-of-turned-size", WHOLE_LIST,
       "is 40 x 60 (turned by its EXIF orientation 6), but in/index.csv says 60 x 40",
       status=1, files={**PHOTOS, "a.jpg": turned(6)})
listed("picture-damaged", WHOLE_LIST, "in/b.png: ", "text", "1 problem", status=1, files={**PHOTOS, "b.png": "no"})
listed("picture-is-a-folder", WHOLE_LIST, "in/a.jpg: is a folder", status=1,
       files={"a.jpg/x": "", "b.png": PHOTOS["b.png"]})
listed("same-picture-twice", lines(HEADER, *ROWS, ROWS[0].replace("a.jpg", "c.jpg")),
       "c.jpg is the same picture as a.jpg",
       status=1, files={**PHOTOS, "c.jpg": PHOTOS["a.jpg"]})
listed("leak", lines(HEADER, *ROWS, ROWS[0].replace("a.jpg", "c.jpg").replace("train", "test")), "a leak",
       status=1, files={**PHOTOS, "c.jpg": PHOTOS["a.jpg"]})
MASKED = row((9, "m.png"))
listed("mask-fine", MASKED, FINE, files={**PHOTOS, "m.png": encoded("PNG", pil("1", letters="KW/KW"))})
listed("mask-missing", MASKED, "in/m.png: no such file", status=1)
listed("mask-of-another-size", MASKED, "in/m.png: is 30 x 40, but its picture says 60 x 40", status=1,
       files={**PHOTOS, "m.png": encoded("PNG", pil("1", width=30))})
listed("mask-of-nothing", MASKED, "a.jpg: the mask of 60 x 40 shows nothing", status=1,
       files={**PHOTOS, "m.png": encoded("PNG", pil("1", letters="KK/KK"))})
listed("mask-damaged", MASKED, "in/m.png: ", status=1, files={**PHOTOS, "m.png": cut_short(noise("PNG"))})
listed("damaged-picture-makes-no-mask", WHOLE_LIST, "1 of 2 masks; damaged pictures: 1", status=1, run=MASKS,
       files={**PHOTOS, "b.png": "no"})
CASES.append(Case("list-is-a-folder", write({"index.csv/x": "", **PHOTOS}), MASKS, ("in",), status=1))
CASES.append(Case("list-is-a-broken-link", write({**PHOTOS, "index.csv": link_to("gone.csv")}), MASKS, ("in",),
             status=1))


# Folders of classes

CAT = PHOTOS["a.jpg"]
DOG = PHOTOS["b.png"]


def folders(name, files, *says, status=0, run=CHECK):
    CASES.append(Case(f"folders-{name}", write(files), run, says, status))


ONE = "in: 2 pictures, no problems"
folders("plain", {"cat/1.jpg": CAT, "dog/1.png": DOG}, ONE)
folders("hidden", {"cat/1.jpg": CAT, "dog/1.png": DOG, ".git/a/1.jpg": "x", "cat/._1.jpg": "x",
        "__MACOSX/cat/1.jpg": "x",
                   "cat/Thumbs.db": "x", "cat/.DS_Store": "x", "@eaDir/cat/1.jpg": "x"}, ONE)
folders("passed-over", {"cat/1.jpg": CAT, "dog/1.png": DOG, "dog/1.xml": "<a/>", "dog/notes": ""},
        ONE, "2 files passed over", ".xml (1)")
folders("two-splits", {"Training/cat/1.jpg": CAT, "TEST/dog/1.png": DOG}, ONE)
folders("valid", {"train/cat/1.jpg": CAT, "valid/cat/1.png": DOG}, ONE)
folders("two-names-of-a-split", {"train/cat/1.jpg": CAT, "training/cat/1.png": DOG},
        "train/ and training/ are both called like the split train", "rename one", status=1)
folders("splits-below-classes", {"cat/train/1.jpg": CAT, "cat/test/1.png": DOG},
        "in: cat/test, cat/train are called like splits",
        status=1)
folders("beside-the-splits", {"train/cat/1.jpg": CAT, "test/dog/1.png": DOG, "extra/cat/2.jpg": CAT},
        ONE, "1 picture left out, in extra/ beside the splits")
folders("loose", {"cat/1.jpg": CAT, "dog/1.png": DOG, "2.jpg": CAT}, ONE,
        "1 picture left out, in in in no class's folder")
folders("loop", {"cat/1.jpg": CAT, "dog/1.png": DOG, "dog/again": link_to("../dog")}, ONE)
folders("broken-link", {"cat/1.jpg": CAT, "dog/1.png": link_to("gone.png")}, "in/dog/1.png: no such file", status=1)
folders("class-of-emoji-and-dollar", {"🦉 $5/1.jpg": CAT, "a\nb/1.png": DOG}, ONE)
folders("class-not-utf-8", {os.fsdecode(b"caf\xe9/1.jpg"): CAT}, "in: the name of the class folder",
        "not UTF-8: rename it",
        status=1, run=MASKS)
folders("empty-class", {"cat/1.jpg": CAT, "dog/1.png": DOG, "owl/notes.txt": "none yet"}, ONE, "1 file passed over")
folders("nothing", {"cat/notes.txt": "", "dog/a.txt": ""}, "in has neither an index.csv nor pictures",
        "2 files passed over",
        status=1)
folders("of-yolo", {"images/train/1.jpg": CAT, "labels/train/1.txt": "0 .5 .5 1 1"},
        "in: images/ and labels/ side by side are YOLO's",
        "convert it to COCO", status=1)
folders("of-yolo-below-splits", {"train/images/1.jpg": CAT, "train/labels/1.txt": "0 .5 .5 1 1"},
        "in/train: images/ and labels/ side by side", status=1)
folders("pictures-elsewhere", {"cat/1.jpg": CAT}, "in has no lists", "leave out --pictures elsewhere", status=1,
        run=[*CHECK, "--pictures", "elsewhere"])
folders("no-test-split", {"train/cat/1.jpg": CAT}, "in has no folder test/; it has train", status=1,
        run="evaluate --data in --out out --method whole".split())
folders("damaged-picture", {"cat/1.jpg": CAT, "cat/2.jpg": cut_short(noise("JPEG"))}, "in/cat/2.jpg: ", "1 problem",
        status=1)
folders("only-damaged", {"cat/1.jpg": "no"}, "0 of 1 masks; damaged pictures: 1", status=1, run=MASKS)
folders("deep", {"cat/" + "d/"*40 + "1.jpg": CAT, "dog/1.png": DOG}, ONE)
folders("one-picture-under-two-names", {"cat/1.jpg": CAT, "cat/1.png": DOG},
        "cat/1.jpg", "cat/1.png", "rename", status=1, run=MASKS)


# COCO

def coco(name, change, *says, status=0, run=CHECK):
    "A whole annotation file, changed"
    found = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40},
                   {"id": 2, "file_name": "b.png", "width": 60, "height": 40}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 20, 10]},
                        {"id": 2, "image_id": 2, "category_id": 9, "bbox": [0, 0, 60, 40]}]}
    text = change(found)
    text = json.dumps(found) if text is None else text
    CASES.append(Case(f"coco-{name}", write({"annotations/instances_train.json": text, "train/a.jpg": CAT,
    "train/b.png": DOG}),
                      run, says, status))


def setting(what, k, key, value):
    "A change: one value of one row"
    def change(found):
        found[what][k][key] = value
    return change


def adding(what, **fields):
    return lambda found: found[what].append(fields)


COCO_FILE = "in/annotations/instances_train.json"
coco("whole", lambda found: None, ONE)
coco("byte-order-mark", lambda found: b"\xef\xbb\xbf" + json.dumps(found).encode(), ONE)
coco("ids-of-text", lambda found: json.dumps(found).replace('d": 1', 'd": "x"'), ONE)
coco("utf-16", lambda found: json.dumps(found).encode("utf-16"), COCO_FILE, "UTF-8", status=1)
coco("latin-1", lambda found: json.dumps(found, indent=0).replace("cat", "caf\xe9").encode("latin-1"),
     COCO_FILE, "not UTF-8", "line ", status=1)
coco("cut-short", lambda found: json.dumps(found)[:-60], COCO_FILE, "line 1: not JSON", status=1)
coco("a-list", lambda found: "[" + '{"images": 1}' + "]", COCO_FILE, "not COCO", status=1)
coco("no-categories", lambda found: found.pop("categories") and None, COCO_FILE, "'categories' must be a list",
     status=1)
coco("nested-100000-deep", lambda found: '{"images": ' + "["*100_000, COCO_FILE, "not COCO", status=1)
coco("number-of-5000-digits", lambda found: json.dumps(found).replace("60", "6"*5000, 1), COCO_FILE, status=1)
coco("image-id-twice", setting("images", 1, "id", 1), COCO_FILE, "image 2 (id 1): another has the same id", status=1)
coco("image-named-twice", setting("images", 1, "file_name", "a.jpg"), COCO_FILE, "a.jpg is there twice", status=1)
coco("unknown-image", setting("annotations", 1, "image_id", 5), COCO_FILE, "annotation 2 (id 2): picture 5", status=1)
coco("unknown-category", setting("annotations", 1, "category_id", 5), COCO_FILE, "category 5 is not among", status=1)
coco("id-of-true", setting("images", 0, "id", True), COCO_FILE, "image 1 (id True): id must be", status=1)
coco("name-above", setting("images", 0, "file_name", "../../a.jpg"), COCO_FILE, "image 1 (id 1)", "stay in the folder",
     status=1)
coco("name-of-a-number", setting("images", 0, "file_name", 5), COCO_FILE, "file_name must be text, got 5", status=1)
coco("width-of-text", setting("images", 0, "width", "60"), COCO_FILE, "width must be a number", status=1)
coco("width-nan", setting("images", 0, "width", float("nan")), COCO_FILE, "width, height must be positive", status=1)
coco("box-nan", setting("annotations", 0, "bbox", [float("nan"), 0, 1, 1]), COCO_FILE, "annotation 1 (id 1): the box",
     status=1)
coco("box-infinite", setting("annotations", 0, "bbox", [0, 0, float("inf"), 1]), COCO_FILE, "the box", status=1)
coco("box-of-three", setting("annotations", 0, "bbox", [0, 0, 1]), COCO_FILE, "bbox must be 4 numbers", status=1)
coco("box-null", setting("annotations", 0, "bbox", None), COCO_FILE, "bbox must be a list, got null", status=1)
coco("box-negative", setting("annotations", 0, "bbox", [5, 5, -3, 2]), COCO_FILE, "the box", status=1)
coco("box-a-pixel-out", setting("annotations", 1, "bbox", [-1, 0, 62, 40]), ONE, "1 of 2 boxes end outside", "clipped")
coco("box-without-area", adding("annotations", id=3, image_id=1, category_id=7, bbox=[5, 5, 0, 3]), ONE,
     "boxes without area are left out: 1 of 3")
coco("picture-without-box", adding("images", id=3, file_name="c.jpg", width=9, height=9), ONE,
     "pictures without a box are left out: 1 of 3")
coco("nothing-marked", lambda found: found["annotations"].clear(), "in", status=1)
coco("picture-missing", setting("images", 0, "file_name", "c.jpg"), "c.jpg: no such file", status=1)


# VOC

def voc(name, *says, status=0, xml=None, names="one\n", run=CHECK):
    whole = ("<annotation><size><width>60</width><height>40</height></size>\n<object><name>cat</name><bndbox>"
             "<xmin>2</xmin><ymin>3</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object></annotation>")
    content = xml(whole) if xml else whole
    CASES.append(Case(f"voc-{name}", write({
        "ImageSets/Main/train.txt": names, "Annotations/one.xml": content, "JPEGImages/one.jpg": CAT}), run, says,
        status))


LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};"*10 if i else "ha"}">' for i in range(12))
VOC_ONE, VOC_FILE = "in: 1 picture, no problems", "in/Annotations/one.xml"
voc("whole", VOC_ONE)
voc("list-of-windows", VOC_ONE, names="one\r\n")
voc("list-with-marks", VOC_ONE, names="one  1\n")
voc("from-0", VOC_ONE, "clipped", xml=lambda xml: xml.replace("<xmin>2", "<xmin>0"))
voc("not-xml", VOC_FILE + ", line 1: not XML", status=1, xml=lambda xml: "no xml")
voc("cut-short", VOC_FILE + ", line 2: not XML", status=1, xml=lambda xml: xml[:-20])
voc("empty-file", VOC_FILE + ", line 1: not XML", status=1, xml=lambda xml: "")
voc("billion-laughs", VOC_FILE, status=1,
    xml=lambda xml: f"<!DOCTYPE a [{LAUGHS}]>" + xml.replace("cat", "&a11;"))
voc("entity-of-a-file", VOC_FILE, status=1,
    xml=lambda xml: '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + xml.replace("cat", "&b;"))
voc("unknown-encoding", VOC_FILE + ", line 1: not XML", status=1,
    xml=lambda xml: '<?xml version="1.0" encoding="x"?>' + xml)
voc("no-size", VOC_FILE, "width, height must be whole numbers, got nothing", status=1,
    xml=lambda xml: xml.replace("size>", "sizes>"))
voc("no-object", VOC_FILE, "names no object", status=1, xml=lambda xml: xml.replace("object>", "objects>"))
voc("no-name", VOC_FILE + ", line 2: the object has no name", status=1, xml=lambda xml: xml.replace("cat", " "))
voc("box-reversed", VOC_FILE + ", line 2: the box", status=1, xml=lambda xml: xml.replace("<xmin>2", "<xmin>50"))
voc("box-of-words", VOC_FILE + ", line 2: xmin, ymin, xmax, ymax must be numbers", status=1,
    xml=lambda xml: xml.replace("<xmin>2", "<xmin>two"))
voc("size-that-is-wrong", "is 60 x 40, but", "says 61 x 40", status=1, xml=lambda xml: xml.replace("<width>60",
    "<width>61"))
voc("annotation-missing", "in/Annotations/two.xml: no such file", status=1, names="one\ntwo\n")
voc("named-twice", "train.txt, line 2: picture one is there twice", status=1, names="one\none\n")
voc("name-above", "train.txt, line 1", "stay in the folder", status=1, names="../one\n")
voc("empty-list", "in has no pictures of the split 'train'", status=1, names="", run=MASKS)


# CUB and wsolevaluation's metadata

CUB = {
    "images.txt": "1 001.Cat/a.jpg\n2 002.Dog/b.jpg\n", "image_class_labels.txt": "1 1\n2 2\n",
    "train_test_split.txt": "1 1\n2 0\n", "bounding_boxes.txt": "1 1.0 2.0 20.0 10.0\n2 0.0 0.0 60.0 40.0\n",
    "classes.txt": "1 001.Cat\n2 002.Dog\n", "images/001.Cat/a.jpg": CAT, "images/002.Dog/b.jpg": encoded("JPEG"),
}
WSOL = {
    "train/image_ids.txt": "a.jpg\nb.png\n", "train/class_labels.txt": "a.jpg,0\nb.png,1\n",
    "train/image_sizes.txt": "a.jpg,60,40\nb.png,60,40\n",
    "train/localization.txt": "a.jpg,1,2,30,20\nb.png,0,0,60,40\n",
    "a.jpg": CAT, "b.png": DOG,
}


def changed(name, whole, file, content, *says, status=1, run=CHECK):
    "A whole data set with one file changed; None: without it"
    files = {key: value for key, value in {**whole, file: content}.items() if value is not None}
    CASES.append(Case(name, write(files), run, says, status))


changed("cub-whole", CUB, "images.txt", CUB["images.txt"], ONE, status=0)
changed("cub-no-images", CUB, "images.txt", None, "in/images.txt: no such file, and this layout needs it")
changed("cub-twice", CUB, "images.txt", "1 001.Cat/a.jpg\n1 002.Dog/b.jpg\n",
        "in/images.txt, line 2: picture 1 is there twice")
changed("cub-three-values", CUB, "images.txt", "1 001 Cat/a.jpg\n2 b.jpg\n",
        "in/images.txt, line 1: expected 2 values, got 3")
changed("cub-latin-1", CUB, "images.txt", b"1 001.Cat/a.jpg\n2 caf\xe9/b.jpg\n", "in/images.txt, line 2: not UTF-8")
changed("cub-class-0", CUB, "image_class_labels.txt", "1 0\n2 1\n", "line 1: class 0 is outside 1 to 2")
changed("cub-class-in-words", CUB, "image_class_labels.txt", "1 cat\n2 1\n",
        "line 1: the class must be whole numbers, got cat")
changed("cub-label-missing", CUB, "image_class_labels.txt", "1 1\n",
        "image_class_labels.txt: does not name every picture, 1 of 2")
changed("cub-split-2", CUB, "train_test_split.txt", "1 2\n2 0\n", "line 1: expected 1 (train) or 0 (test), got 2")
changed("cub-unknown-picture", CUB, "bounding_boxes.txt", "3 1 2 3 4\n",
        "line 1: picture 3 is not in the list of pictures")
changed("cub-box-of-words", CUB, "bounding_boxes.txt", "1 a 2 3 4\n2 0 0 6 4\n",
        "line 1: x, y, width, height must be numbers")
changed("cub-path-above", CUB, "images.txt", "1 ../../a.jpg\n2 002.Dog/b.jpg\n", "line 1", "stay in the folder")
changed("wsol-whole", WSOL, "a.jpg", CAT, ONE, status=0)
changed("wsol-no-labels", WSOL, "train/class_labels.txt", None, "in/train/class_labels.txt: no such file")
changed("wsol-label-negative", WSOL, "train/class_labels.txt", "a.jpg,-1\nb.png,1\n",
        "line 1: class -1 is outside 0 to")
changed("wsol-label-in-words", WSOL, "train/class_labels.txt", "a.jpg,cat\nb.png,1\n",
        "line 1: the class must be whole")
changed("wsol-label-missing", WSOL, "train/class_labels.txt", "a.jpg,0\n",
        "does not name every picture, 1 of 2 are missing")
changed("wsol-unknown-picture", WSOL, "train/localization.txt", "c.jpg,1,2,3,4\n",
        "line 1: picture c.jpg is not in the list")
changed("wsol-box-of-three", WSOL, "train/localization.txt", "a.jpg,1,2,3\n", "line 1: expected 5 or 3 values, got 4")
changed("wsol-box-far-out", WSOL, "train/localization.txt", "a.jpg,1,2,300,20\n",
        "line 1: the box 1, 2, 300, 20 must have")
changed("wsol-size-0", WSOL, "train/image_sizes.txt", "a.jpg,0,40\nb.png,60,40\n",
        "line 1: width, height must be positive")
changed("wsol-no-pictures", WSOL, "train/image_ids.txt", "", "in", run=MASKS)


# Weights of a network

def vit_state(**more):
    "Random weights of a small ViT that timm has"
    from locloc.backbone import load_backbone
    return {**load_backbone("test_vit", weights=False).model.state_dict(), **more}


def torch_file(change=lambda state: state, **options):
    return lambda path: torch.save(change(vit_state()), path, **options)


def safetensors_file(change=lambda state: state):
    return lambda path: save_file(change(vit_state()), path)


class MakesAFile:
    "What pickle runs when it is loaded"
    def __reduce__(self): return os.mkdir, ("owned",)


def prefixed(prefix):
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def weights(name, file, content, *says, status=1):
    CASES.append(Case(f"weights-{name}", write({file: content, "p.png": encoded()}), [
        "predict", "in/p.png", "--out", "out", "--method", f"attention:test_vit,weights=in/{file}"], says, status))


W = "box "
weights("of-torch", "w.pth", torch_file(), W, status=0)
weights("of-safetensors", "w.safetensors", safetensors_file(), W, status=0)
weights("safetensors-named-pth", "w.pth", safetensors_file(), W, status=0)
weights("torch-named-safetensors", "w.safetensors", torch_file(), W, status=0)
weights("of-old-torch", "w.pth", torch_file(_use_new_zipfile_serialization=False), W, status=0)
weights("wrapped-in-model", "w.pth", torch_file(lambda state: {"model": state, "epoch": 3}), W, status=0)
weights("wrapped-in-state-dict", "w.pth", torch_file(lambda state: {"state_dict": prefixed("module.")(state)}), W,
        status=0)
weights("of-a-teacher", "w.pth", torch_file(lambda state: {"teacher": prefixed("module.backbone.")(state)}), W,
        status=0)
weights("compiled", "w.pth", torch_file(prefixed("_orig_mod.")), W, status=0)
weights("of-half-precision", "w.pth", torch_file(lambda state: {k: v.half() for k, v in state.items()}), W, status=0)
weights("with-a-head-more", "w.pth", torch_file(lambda state: {**state, "head.weight": torch.ones(3, 3)}), W, status=0)
weights("with-numpy-numbers", "w.pth", torch_file(lambda state: {"model": state, "loss": np.float64(1)}), W, status=0)
weights("empty", "w.pth", b"", "in/w.pth")
weights("of-zeros", "w.pth", bytes(9999), "in/w.pth")
weights("web-page", "w.pth", "<!DOCTYPE html>", "in/w.pth")
weights("lfs-pointer", "w.safetensors", "version https://git-lfs.github.com/spec/v1\n", "in/w.safetensors")
weights("zip-of-something", "w.pth", lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"), "in/w.pth")
weights("that-run-code", "w.pth", pickle.dumps({"model": MakesAFile()}), "in/w.pth")
weights("that-run-code-in-torch", "w.pth", lambda path: torch.save({"model": MakesAFile()}, path), "in/w.pth")
weights("cut-short-torch", "w.pth", lambda path: (torch_file()(path), path.write_bytes(cut_short(path.read_bytes()))),
        "in/w.pth")
weights("cut-short-safetensors", "w.safetensors", lambda path: path.write_bytes(cut_short(save(vit_state()))),
        "in/w.safetensors")
weights("header-too-long", "w.safetensors", struct.pack("<Q", 2**60) + b"{}", "in/w.safetensors")
weights("header-not-json", "w.safetensors", struct.pack("<Q", 4) + b"nope" + bytes(99), "in/w.safetensors")
weights("one-tensor-missing", "w.pth", torch_file(without("cls_token")), "in/w.pth for test_vit", "cls_token")
weights("of-another-shape", "w.pth", torch_file(lambda state: {**state, "cls_token": torch.ones(1, 1, 3)}),
        "in/w.pth for test_vit", "cls_token")
weights("of-another-network", "w.pth", lambda path: torch.save({"conv1.weight": torch.ones(3)}, path), "in/w.pth")
weights("a-tensor", "w.pth", lambda path: torch.save(torch.ones(3), path), "in/w.pth")
weights("a-list", "w.pth", lambda path: torch.save([1, 2], path), "in/w.pth")
weights("of-nan", "w.pth", torch_file(lambda state: {**state, "cls_token": state["cls_token"]*np.nan}), "in/w.pth",
        "not finite")
weights("of-numpy", "w.pth", lambda path: np.savez(path.open("wb"), a=np.ones(3)), "in/w.pth")
weights("a-folder", "w/x", b"", "in/w")
CASES[-1].run[-1] = "attention:test_vit,weights=in/w"
weights("missing", "v.pth", b"", "in/w.pth")
CASES[-1].run[-1] = "attention:test_vit,weights=in/w.pth"


# Thresholds in a file

def params(name, content, *says, status=1):
    run = "masks --data scenes --count 2 --size 32 --workers 0 --out out --params in/params.json"
    CASES.append(Case(f"params-{name}", write({"params.json": content}), run.split(), says, status))


P = "in/params.json holds no settings of GrabCut"
params("whole", '{"delta0": 0.1, "delta1": 0.5, "split": null, "iterations": 1, "seed": 0, "kernel": "grid"}',
       "out: 2 masks", status=0)
params("some", '{"delta0": 0.1}', "out: 2 masks", status=0)
params("none", "{}", "out: 2 masks", status=0)
params("byte-order-mark", b"\xef\xbb\xbf{}", "out: 2 masks", status=0)
params("empty", "", P)
params("not-json", "delta0: .1", P)
params("a-list", "[0.1, 0.5]", P)
params("a-number", "5", P)
params("null", "null", P)
params("unknown", '{"delta2": 1}', P, "delta2")
params("of-text", '{"delta0": "0.1"}', P, "delta0")
params("of-true", '{"iterations": true}', P, "iterations")
params("nan", '{"delta0": NaN}', P, "delta0")
params("infinite", '{"delta1": Infinity}', P, "delta1")
params("above-1", '{"delta1": 1.5}', P, "delta1")
params("reversed", '{"delta0": 0.9, "delta1": 0.1}', P, "delta0")
params("half-a-round", '{"iterations": 1.5}', P, "iterations")
params("no-rounds", '{"iterations": 0}', P, "iterations")
params("seed-of-text", '{"seed": "x"}', P, "seed")
params("seed-of-41-bits", '{"seed": 2199023255552}', P, "seed must be a whole number of 32 bits")
params("unknown-kernel", '{"kernel": "gpu"}', P, "kernel must be one of grid, cv2")
params("kernel-of-a-list", '{"kernel": ["grid"]}', P, "kernel")
params("nested", '{"delta0": {"a": 1}}', P, "delta0")
params("nested-100000-deep", '{"delta0": ' + "["*100_000, P)
params("utf-16", "{}".encode("utf-16"), P)
params("random-bytes", np.random.default_rng(2).bytes(300), P)
CASES.append(Case("params-missing", write({"a": ""}), CASES[-1].run, ("in/params.json",), 1))
CASES.append(Case("params-a-folder", write({"params.json/x": ""}), CASES[-1].run, ("in/params.json",), 1))


# Mask stores

SCENES = "--data scenes --count 3 --size 32 --workers 0"


def a_store(folder):
    from locloc.data import load_dataset
    from locloc.stores import make_masks
    make_masks(load_dataset("scenes", split="train").subset(3), folder/"store", size=32, progress=False)


def store(name, change, *says, status=1, run=f"masks {SCENES} --out in/store --check"):
    def make(folder):
        a_store(folder)
        masks = sorted((folder/"store").rglob("*.png"))
        change(masks[0], folder/"store"/"manifest.json")
    CASES.append(Case(f"store-{name}", make, run.split(), says, status))


def write_manifest(content):
    return lambda mask, manifest: manifest.write_bytes(content)


def write_mask(content):
    return lambda mask, manifest: mask.write_bytes(content)


TRAIN = "train geg --preset tiny --data scenes --count 3 --masks in/store --out out"
MANIFEST = "in/store/manifest.json"
store("whole", lambda mask, manifest: None, "no problems", status=0)
store("without-manifest", lambda mask, manifest: manifest.unlink(), "in/store", "manifest.json")
for name, content in {"empty": b"", "not-json": b"{'a': 1}", "a-list": b"[]", "null": b"null", "random": os.urandom(50),
                      "utf-16": "{}".encode("utf-16"), "deep": b"["*100_000}.items():
    store(f"manifest-{name}", write_manifest(content), MANIFEST, "damaged")
    store(f"manifest-{name}-in-training", write_manifest(content), MANIFEST, "damaged", run=TRAIN)
store("mask-missing", lambda mask, manifest: mask.unlink(), "missing")
store("mask-missing-in-training", lambda mask, manifest: mask.unlink(), "in/store: no mask for 1 of 3", run=TRAIN)
store("mask-cut-short", lambda mask, manifest: mask.write_bytes(mask.read_bytes()[:-20]), "damaged", "delete it")
store("mask-empty", write_mask(b""), "damaged", "delete it")
store("mask-is-text", write_mask(b"no"), "damaged", "delete it")
store("mask-is-jpeg", write_mask(encoded("JPEG", pil("L", width=32, height=32))), "in/store")
store("mask-of-greys", write_mask(encoded("PNG", pil("L", width=32, height=32))), "no 1-bit mask", "delete it")
store("mask-of-another-size", write_mask(encoded("PNG", pil("1", width=31, height=32))), "in/store")
store("mask-is-a-folder", lambda mask, manifest: (mask.unlink(), mask.mkdir()), "in/store")
store("mask-is-a-broken-link", lambda mask, manifest: (mask.unlink(), mask.symlink_to("gone.png")), "in/store")
store("strange-mask", lambda mask, manifest: (mask.parent/"zzz.png").write_bytes(mask.read_bytes()), "zzz")
store("half-written", lambda mask, manifest: (mask.parent/f".{'a'*16}.tmp").write_bytes(b"half"),
      "left by a killed run", "make_masks sweeps")
store("of-other-thresholds", lambda mask, manifest: None, MANIFEST, "holds masks made in another way: ",
      "delta0 is 0.12 there and 0.2",
      "another folder", run=f"masks {SCENES} --out in/store --delta0 .2")
store("of-another-split", lambda mask, manifest: None, MANIFEST, "split is 'train' there and 'test' here",
      run=f"masks {SCENES} --out in/store --split test")
store("no-store", lambda mask, manifest: None, "in is no mask store", run=TRAIN.replace("in/store", "in"))
CASES.append(Case("store-in-a-file", write({"store": "x"}), f"masks {SCENES} --out in/store".split(),
             ("in/store is a file, not a folder",), 1))
CASES.append(Case("store-among-others-pictures", write({"store/a.png": encoded()}),
             f"masks {SCENES} --out in/store".split(),
                  ("in/store holds PNGs but no manifest.json: take another folder",), 1))


# Runs and models

def a_model(folder):
    from locloc.backbone import load_backbone
    from locloc.geg import GEG
    from locloc.lfdm import LinearHead
    from locloc.model import LocLoc
    torch.manual_seed(0)
    vit = load_backbone("test_vit", weights=False)
    LocLoc(vit, GEG(vit.embed_dim, 8, 8), LinearHead.from_backbone(vit, 2), ("cat", "dog")).save(folder/"run"/"model")


def model(name, change, *says, status=1, run="predict in/p.png --out out --method in/run"):
    "A finished run, changed: `change(folder of the model, its config)`; what it returns is the config written"
    def make(folder):
        a_model(folder)
        write({"p.png": encoded()})(folder)
        place = folder/"run"/"model"
        config = change(place, json.loads((place/"config.json").read_text()))
        if config is not None:
            (place/"config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    CASES.append(Case(f"model-{name}", make, run.split(), says, status))


def other(**values):
    return lambda place, config: config | values


def rewrite_weights(change):
    "A change of the bytes of the weights"
    def rewrite(place, config):
        file = place/"model.safetensors"
        file.write_bytes(change(file.read_bytes()))
    return rewrite


CONFIG, TENSORS = "in/run/model/config.json", "in/run/model/model.safetensors"
model("whole", lambda place, config: None, "in/p.png: ")
CASES[-1] = dataclasses.replace(CASES[-1], status=0)
model("config-missing", lambda place, config: (place/"config.json").unlink(), CONFIG, "missing")
model("config-empty", lambda place, config: "", CONFIG, "damaged")
model("config-not-json", lambda place, config: "{'a'", CONFIG, "damaged")
model("config-a-list", lambda place, config: "[]", CONFIG, "damaged")
model("config-null", lambda place, config: "null", CONFIG, "damaged")
model("config-deep", lambda place, config: "["*100_000, CONFIG, "damaged")
model("no-classes", lambda place, config: {k: v for k, v in config.items() if k != "classes"}, CONFIG, "classes")
model("one-class-too-few", other(classes=["cat"]), CONFIG, "1 class names for a classifier of 2 classes")
model("classes-null", other(classes=None), CONFIG, "does not describe a model")
model("classes-of-numbers", other(classes=[1, 2]), CONFIG, "classes")
model("threshold-of-text", other(threshold="half"), CONFIG, "threshold")
model("threshold-2", other(threshold=2), CONFIG, "threshold must be a number in [0, 1], got 2")
model("threshold-nan", other(threshold=float("nan")), CONFIG, "threshold must be a number in [0, 1], got nan")
model("unknown-protocol", other(protocol="mine"), CONFIG, "mine")
model("unknown-network", other(backbone={"name": "vit_of_tomorrow", "timm_kwargs": {}}), CONFIG, "vit_of_tomorrow")
model("network-of-a-list", other(backbone=[]), CONFIG)
model("strange-option-of-network", other(backbone={"name": "test_vit", "timm_kwargs": {"a": 1}}), CONFIG, "test_vit")
model("weights-missing", lambda place, config: (place/"model.safetensors").unlink(), TENSORS, "missing")
model("weights-empty", rewrite_weights(lambda content: b""), TENSORS, "damaged")
model("weights-cut-short", rewrite_weights(cut_short), TENSORS, "damaged")
model("weights-of-another", rewrite_weights(lambda content: save({"a": torch.ones(2)})), TENSORS)


def not_finished(place, config):
    place.rename(place.parent/"checkpoints")


model("not-finished", not_finished, "in/run is a run that is not finished", "give its training command again")
CASES.append(Case("model-empty-folder", write({"p.png": encoded(), "run/x": ""}),
                  "predict in/p.png --out out --method in/run".split(),
                  ("in/run/config.json is missing",), 1))
CASES.append(Case("model-missing", write({"p.png": encoded()}), "predict in/p.png --out out --method in/run".split(),
                  ("in/run: no such folder: locloc train makes one",), 1))
CASES.append(Case("info-of-nothing", write({"p.png": encoded()}), "info in".split(), ("in: no manifest.json",), 1))
CASES.append(Case("info-of-garbage", write({"config.json": "{"}), "info in".split(), ("in/config.json",), 1))
CASES.append(Case("info-of-a-list", write({"report.json": "[1]"}), "info in".split(), ("in/report.json",), 1))


# Archives

def member(name, content=b"x", **fields):
    found = tarfile.TarInfo(name)
    found.size = len(content)
    for field, value in fields.items():
        setattr(found, field, value)
    return found, content


def tar_of(*members, mode="w:gz"):
    with tarfile.open(fileobj=(into := io.BytesIO()), mode=mode) as archive:
        for found, content in members:
            archive.addfile(found, io.BytesIO(content))
    return into.getvalue()


def get(content, known=None):
    "`locloc data get` of an archive that is there already, under the checksum of `known`"
    def run(folder):
        from locloc import fetch
        from locloc.cli import main
        known_file = content if known is None else known
        birds = fetch.Archive("https://localhost:1/birds.tgz", hashlib.sha256(known_file).hexdigest(), len(known_file),
        "birds")
        with patch.dict(fetch.ARCHIVES, birds=birds):
            (folder/"out").mkdir()
            (folder/"out"/"birds.tgz").write_bytes(content)
            main("data get birds --to out".split())
    return run


def archive(name, content, *says, status=1, known=None):
    CASES.append(Case(f"archive-{name}", write({}), get(content, known), says, status))


BIRD = member("birds/a.txt")
TGZ = "out/birds.tgz was not unpacked: "
archive("whole", tar_of(BIRD), "out/birds; next: locloc data check", status=0)
archive("not-compressed", tar_of(BIRD, mode="w:"), "out/birds; next", status=0)
archive("above", tar_of(BIRD, member("../a.txt")), TGZ, "../a.txt leads out of the folder")
archive("above-within", tar_of(BIRD, member("birds/../../a.txt")), TGZ, "leads out of the folder")
archive("above-with-backslashes", tar_of(BIRD, member("birds\\..\\..\\a.txt")), TGZ, "leads out")
archive("from-the-root", tar_of(BIRD, member("/birds/a.txt")), TGZ, "/birds/a.txt leads out of the folder")
archive("with-drive", tar_of(BIRD, member("C:/a.txt")), TGZ, "leads out")
archive("link", tar_of(BIRD, member("birds/b", b"", type=tarfile.SYMTYPE, linkname="/etc")), TGZ, "birds/b is a link")
archive("hard-link", tar_of(BIRD, member("birds/b", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")), TGZ,
        "a link or a device")
archive("device", tar_of(BIRD, member("birds/b", b"", type=tarfile.CHRTYPE)), TGZ, "a link or a device")
archive("pipe", tar_of(BIRD, member("birds/b", b"", type=tarfile.FIFOTYPE)), TGZ, "a link or a device")
archive("of-another-folder", tar_of(member("owls/a.txt")), TGZ, "no folder birds in it")
archive("folder-is-a-file", tar_of(member("birds")), TGZ, "no folder birds in it")
archive("cut-short", cut_short(tar_of(member("birds/a", np.random.default_rng(3).bytes(90_000)))), TGZ)
archive("web-page", b"<!DOCTYPE html>"*99, TGZ)
archive("zip", encoded("PNG"), TGZ)
archive("random", np.random.default_rng(4).bytes(5000), TGZ)
archive("of-nothing", tar_of(), TGZ, "no folder birds")
archive("altered", tar_of(BIRD) + b" ", "out/birds.tgz: sha256 is", "delete it", known=tar_of(BIRD,
        BIRD)[:len(tar_of(BIRD))] + b"x")
archive("too-short", tar_of(BIRD)[:-9], "out/birds.tgz: ", "bytes", known=tar_of(BIRD))


# Arguments

def arguments(name, line, *says, status=1):
    CASES.append(Case(f"arguments-{name}", write({"p.png": encoded(), "file": "x"}), line.split(), says, status))


arguments("no-picture", "predict --method whole --out out", "no picture given", "locloc predict PICTURE")
arguments("unknown-method", "predict in/p.png --out out --method grabcat",
          "no method and no run folder called 'grabcat'", "nearest: grabcut")
arguments("method-without-source", "predict in/p.png --out out --method grabcut",
          "grabcut needs an attention source, such as grabcut:lowlevel")
arguments("method-with-strange-source", "predict in/p.png --out out --method whole:lowlevel",
          "whole takes no attention source")
arguments("unknown-source", "predict in/p.png --out out --method grabcut:lowlevl", "no network called 'lowlevl'")
arguments("unknown-option", "predict in/p.png --out out --method grabcut:lowlevel,delta2=1", "delta2")
arguments("option-without-value", "predict in/p.png --out out --method grabcut:lowlevel,delta0",
          "an option is name=value, got 'delta0'")
arguments("option-of-text", "predict in/p.png --out out --method grabcut:lowlevel,delta0=low", "delta0")
arguments("option-reversed", "predict in/p.png --out out --method grabcut:lowlevel,delta0=.9,delta1=.1", "delta0")
arguments("size-0", "predict in/p.png --out out --method grabcut:lowlevel,size=0", "size must be 1 or more, got 0")
arguments("size-half", "predict in/p.png --out out --method grabcut:lowlevel,size=1.5",
          "size must be 1 or more, got 1.5")
arguments("share-2", "predict in/p.png --out out --method centred,share=2", "share must be in (0, 1], got 2")
arguments("out-is-a-file", "predict in/p.png --out in/file --method whole", "in/file is a file, not a folder")
arguments("out-in-a-file", "predict in/p.png --out in/file/out --method whole", "in/file is a file, not a folder")
arguments("unknown-command", "predikt in/p.png", "predikt", status=2)
arguments("unknown-flag", "predict in/p.png --uot out", "--uot", status=2)
arguments("unknown-format", "predict in/p.png --out out --method whole --save xml", "xml", status=2)
arguments("masks-size-0", "masks --data scenes --count 2 --out out --size 0", "size must be 1 or more, got 0")
arguments("masks-size-negative", "masks --data scenes --count 2 --out out --size -16",
          "size must be 1 or more, got -16")
arguments("masks-size-of-text", "masks --data scenes --out out --size big", "big", status=2)
arguments("masks-count-0", "masks --data scenes --count 0 --out out", "--count must be 1 or more, got 0")
arguments("masks-workers-negative", "masks --data scenes --out out --workers -1", "workers must be 0 or more, got -1")
arguments("masks-batch-0", "masks --data scenes --out out --batch 0", "batch must be 1 or more, got 0")
arguments("masks-ppd-and-delta0", "masks --data scenes --out out --method ppd --delta0 .1",
          "--method ppd has one threshold, --ppd: leave out delta0")
arguments("masks-shard-0", "masks --data scenes --out out --shard 0/4", "--shard is i/n with i from 1 to n",
          "got '0/4'")
arguments("masks-shard-of-text", "masks --data scenes --out out --shard first", "--shard is i/n", "got 'first'")
arguments("masks-delta0-nan", "masks --data scenes --out out --delta0 nan", "--delta0 must be in [0, 1], got nan")
arguments("masks-delta0-above", "masks --data scenes --out out --delta0 .9 --delta1 .1",
          "--delta0 must not exceed --delta1")
arguments("masks-unknown-preset", "masks --data scenes --out out --preset best", "no preset 'best'; there are paper")
arguments("masks-unknown-data", "masks --data in/birds --out out", "no data set 'in/birds': expected scenes")
arguments("masks-data-is-a-file", "masks --data in/file --out out", "no data set 'in/file'")
arguments("masks-unknown-split", "masks --data scenes --split holdout --out out",
          "splits train, val, test, got 'holdout'")
arguments("masks-no-out", "masks --data scenes", "--out", status=2)
arguments("evaluate-no-protocol", "evaluate --data scenes --out out --protocol", "no protocol given")
arguments("evaluate-unknown-protocol", "evaluate --data scenes --count 2 --out out --protocol mine", "mine", "wsoleval")
arguments("evaluate-workers-0", "evaluate --data scenes --out out --workers 0", "workers must be 1 or more, got 0")
arguments("evaluate-held-out-unknown", "evaluate --data scenes --count 2 --out out --held-out rest", "'rest'")
arguments("evaluate-pseudo-missing", "evaluate --data scenes --count 2 --out out --pseudo in", "in is no mask store")
arguments("train-no-stage", "train", "geg", status=2)
arguments("train-no-masks", "train geg --preset tiny --data scenes --out out", "training needs pseudo masks",
          "locloc masks")
arguments("train-epochs-0", "train geg --preset tiny --data scenes --out out --epochs 0",
          "epochs must be 1 or more, got 0")
arguments("train-lr-nan", "train geg --preset tiny --data scenes --out out --lr nan", "lr must be more than 0, got nan")
arguments("train-crop-above-resize", "train geg --preset tiny --data scenes --out out --crop 64 --resize 32",
          "need 0 < crop <= resize")
arguments("train-unknown-optimizer", "train geg --preset tiny --data scenes --out out --optimizer adamm",
          "optimizer 'adamm'")
arguments("train-unknown-preset", "train geg --preset huge --data scenes --out out", "huge", status=2)
arguments("train-no-localizer", "train lfdm --preset tiny --data scenes --no-augment --localizer in --out out",
          "in/config.json is missing")
arguments("check-nothing", "data check in/birds", "no data set 'in/birds'")
arguments("check-workers-0", "data check scenes --workers 0", "workers must be 1 or more, got 0")
arguments("get-unknown", "data get dogs --to out", "no data set 'dogs' to get: expected one of cub")
arguments("get-into-a-file", "data get cub --to in/file", "in/file is a file, not a folder")
arguments("tune-nothing", "tune", "no picture given")
arguments("tune-port", "tune scenes --port 99999", "--port must be from 1 to 65535, got 99999")
arguments("tune-missing", "tune in/q.png --no-browser", "in/q.png")
arguments("demo-0", "demo --out out --train 0", "train must be 2 or more, got 0")
arguments("info-missing", "info in/run", "in/run: no manifest.json, config.json or report.json")


if __name__ == "__main__":
    for number, case in enumerate(CASES, 1):
        place = Path(sys.argv[1])/f"{number:03}-{case.name[:60]}"/"in"
        place.mkdir(parents=True)
        case.make(place)
        print(place.parent, "answers" if case.status == 0 else "is refused", *map(repr, case.says))
