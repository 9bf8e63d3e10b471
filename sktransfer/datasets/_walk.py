"""Walking folders of images as people have them: what other programs left there, links, locks.

What is left out is counted, and what somebody might miss is said in one warning.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

from sktransfer._images import identify, is_dicom
from sktransfer._utils.identifiers import cleaned
from sktransfer._utils.names import quoted, shown

# What to pick up in a folder that also holds notes and tables. What a file really is, its content
# says when it is read.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".jpf", ".jpx", ".avif"),
    *(".heic", ".heif", ".hif", ".dcm", ".dicom", ".dic", ".dcm30", ".dc3", ".ima"),
}
# Images of kinds that are not read: somebody who has them has to know.
_UNREAD = {
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".jxl", ".jxr", ".svg"),
    *(".svs", ".ndpi", ".mrxs", ".nii", ".nrrd", ".mha", ".mhd", ".npy", ".psd"),
}
# No need to look inside these.
_NO_IMAGES = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".log", ".html"),
    *(".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".py", ".zip", ".gz", ".tar", ".7z"),
    *(".rar", ".mp4", ".avi", ".mov", ".mkv", ".xmp", ".parquet", ".pt"),
}

# Left by file servers (Synology, QNAP and others), Windows, macOS, Linux and tools, in any case.
_IN_THE_CLOUD = ".*.icloud"
_LEFT_OVER = (
    *("@eaDir", "@tmp", "#recycle", "#snapshot", "@sharebin", "@SynoDrive", "@Recycle", "#trash"),
    *("@Recently-Snapshot", "@__thumb", ".@__thumb", "@Transcode", "~snapshot", "$RECYCLE.BIN"),
    *("RECYCLER", "RECYCLED", "System Volume Information", "Thumbs.db", "ehthumbs.db"),
    *("ehthumbs_vista.db", "desktop.ini", "__MACOSX", ".AppleDouble", ".DS_Store", "Icon\r"),
    *(".Spotlight-V100", ".Trashes", ".fseventsd", ".TemporaryItems", "Network Trash Folder"),
    *("Temporary Items", "iPod Photo Cache", "lost+found", "LOST.DIR", ".thumbnails"),
    *(".picasaoriginals", ".picasa.ini", "Picasa.ini", ".ipynb_checkpoints", "__pycache__"),
    *("_gsdata_", "DICOMDIR", "SYNOPHOTO_*", "SYNOFILE_THUMB*", "SYNOINDEX_*", "*@SynoEAStream"),
    *("*@SynoResource", "._*", ".Trash-*", "~$*", "found.[0-9][0-9][0-9]", "*.lrdata"),
    *("_vti_cnf", _IN_THE_CLOUD),
)
_LEFT_OVERS = re.compile("|".join(f"({translate(kind.lower())})" for kind in _LEFT_OVER))
_SMALL = re.compile(
    r"(?i)[._]*(thumb(nail)?s?|previews?|cache)"
)  # may be what the images show, too

# What words in the names of folders say that are parts of a data set and no classes.
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SAY = {
    "training": re.compile(r"train(ing)?(set|data)?"),
    "held out": re.compile(r"(val(id(ation)?)?|test(ing)?|eval(uation)?)(set|data)?|h[oe]ld(out)?"),
    "a part": re.compile(r"trn?|tst|t[es]|dev|cv|folds?|splits?|parts?|batch|shard"),
    "images": re.compile(r"(image|img)s?"),
    "annotations": re.compile(r"(mask|label|annotation|segmentation)s?|truth|gt"),
    "nothing": re.compile(r"sets?|data|dir|samples|input|out|jpe?g|png|[a-z]"),
}


@dataclass
class Walk:
    """What lies below a folder: files in the order of their paths, and what was left out."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    dangling: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)  # what may not be opened, and why
    again: list[tuple[str, str]] = field(default_factory=list)  # and where it is read
    folders: list[str] = field(default_factory=list)  # real ones and links, at the top
    doubtful: list[str] = field(default_factory=list)  # left out, and may be classes
    _seen: dict[tuple[int, int] | str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(os.fsdecode(self.folder))
        if not self.folder.is_dir():
            what = "is a file" if self.folder.is_file() else "does not exist"
            raise FileNotFoundError(
                f"There is no folder {quoted(self.folder)}: it {what}. Pass the path of a folder; "
                "extract archives before (~ is not replaced)."
            )
        top, links = str(self.folder), deque[str]()
        for above in self.folder.resolve().parents:  # a link to one of these is a loop
            self._seen[_identity(str(above))] = ""
        self._seen[_identity(top)] = ""
        os.scandir(top).close()  # what is asked for has to be readable
        files = [*self._below(top, links)]
        # Folders are read where they are; a link to one of them is a second way to it.
        links = deque(sorted(links, key=lambda link: (link.count(os.sep), link)))
        while links:
            link = links.popleft()
            try:
                mode = os.stat(link).st_mode
            except OSError as error:
                self.dangling.append(f"{self.name(link)} ({error.strerror})")
                continue
            if stat.S_ISDIR(mode):
                if self._is_new(link):
                    files += self._below(link, links)
            elif stat.S_ISREG(mode):
                files.append(link)
            else:
                self.skipped["pipes and devices"] += 1
        self.files = sorted(map(Path, files))

    def name(self, path: str | Path) -> str:
        """Return what a file is called in messages: its path below the folder."""
        return quoted(os.path.relpath(path, self.folder))

    def _below(self, top: str, links: deque[str]) -> Iterator[str]:
        """Yield the files that are really below a folder; note links."""
        waiting = [top]
        while waiting:
            place = waiting.pop()
            try:
                with os.scandir(place) as entries:
                    found = list(entries)
            except OSError as error:
                self.closed.append(f"{self.name(place)} ({error.strerror})")
                continue
            for entry in found:
                if kind := _left_over(entry.name):
                    self.skipped[kind] += 1
                    word = kind.isalpha() and (kind != "hidden" or place == str(self.folder))
                    if word and entry.is_dir() and _holds_images(entry.path):
                        self.doubtful.append(self.name(entry.path))
                elif entry.is_symlink():
                    links.append(entry.path)
                elif entry.is_dir():
                    if self._is_new(entry.path):
                        waiting.append(entry.path)
                elif entry.is_file():
                    yield entry.path
                else:
                    self.skipped["pipes and devices"] += 1

    def _is_new(self, folder: str) -> bool:
        """Note a folder; return whether it was not seen before, by this way or another."""
        if os.path.dirname(folder) == str(self.folder):
            self.folders.append(os.path.basename(folder))
        if _identity(folder) in self._seen:
            self.again.append((folder, self._seen[_identity(folder)]))
            self.skipped["links to folders that are read already"] += 1
            return False
        self._seen[_identity(folder)] = folder
        return True

    def keep(self, wanted: Callable[[Path], str]) -> None:
        """Keep the files of which ``wanted`` says nothing; count what it says of the others."""
        kept = []
        for file in self.files:
            try:
                said = wanted(file)
            except OSError as error:
                self.closed.append(f"{self.name(file)} ({error.strerror})")
                continue
            if said:
                self.skipped[said] += 1
            else:
                kept.append(file)
        self.files = kept

    def problems(self) -> list[str]:
        """Return sentences about what may be missing."""
        cloud = [f"{n} files" for kind, n in self.skipped.items() if kind == _IN_THE_CLOUD]
        return _sentences(
            {
                "{} cannot be opened; images in there are missing.": self.closed,
                "{}: links that lead nowhere; mount what they name.": self.dangling,
                "{} with images left out as hidden, or as what a system left. Rename it if it is a "
                "class.": self.doubtful,
                "{} are in iCloud only; download them.": cloud,
            }
        )


def class_name(folder: str) -> str:
    """Return what a class is called, which is what it would be called in a table."""
    try:
        name = os.fsencode(folder).decode()
    except UnicodeError:
        name = shown(folder)
    return cleaned(name) or name


def _parts(folders: list[str]) -> list[str]:
    """Return the folders that look like parts of a data set, if they are no classes."""
    said = {
        folder: {
            next((kind for kind, pattern in _SAY.items() if pattern.fullmatch(word.lower())), "")
            for word in _WORDS.findall(folder)
        }
        for folder in sorted(folders)
    }
    kinds = set[str]().union(*said.values())
    parts = {"training", "held out", "a part"}
    for pair in ({"training", "held out"}, {"images", "annotations"}):
        if pair <= kinds:
            return [folder for folder, each in said.items() if each & (pair | parts)]
    named = all(each & parts and "" not in each for each in said.values())
    return [*said] if named else []


def class_problems(walk: Walk, classes: dict[str, list[Path]], loose: int) -> list[str]:
    """Return sentences about what may be wrong with folders of classes."""

    def own(path: str) -> str:
        return class_name(os.path.relpath(path, walk.folder).split(os.sep)[0]) if path else ""

    parts = _parts(walk.folders)
    places = sorted({file.parent for files in classes.values() for file in files})
    inside = {place.relative_to(walk.folder).parts[1:2] for place in places}
    alone = len(classes) == 1 and len(inside) > 1 and () not in inside and not parts
    empty = sorted({*map(class_name, walk.folders)} - {*classes})
    lower = Counter(map(str.casefold, classes))
    same = [name for name in classes if lower[name.casefold()] > 1]
    loose_files = [f"{loose} images"] if loose else []
    twice = _twice(walk, classes)
    found = {
        "{} look like parts of a data set, and were taken for classes. Load each of them (or the "
        "images alone): load_image_folder(path of one of them).": [*map(quoted, parts)],
        "The only class, {} with images in it; if those are the classes, load it instead.": [
            f"{quoted(name)}, has {len(inside)} folders" for name in classes if alone
        ],
        "No images in {}, which made no class.": [*map(quoted, empty)],
        "{} differ in upper and lower case only; each is a class.": [*map(quoted, same)],
        "One file in two classes: {}. Leave one out.": twice["in two classes"],
        "One file twice in a class: {}. Leave one out.": twice["twice in a class"],
        "{} next to the folders of classes are of no class, and were left out.": loose_files,
        "{}. Remove the link if that is right.": [
            f"{walk.name(link)} and {walk.name(place)} are one folder; its images are of class "
            f"{quoted(own(place))} alone"
            for link, place in walk.again
            if own(place) not in ("", own(link))
        ],
    }
    return image_problems(walk) + _sentences(found)


def image_problems(walk: Walk) -> list[str]:
    """Return sentences about what may be wrong with images, whatever their classes."""
    below = {file.parent for file in walk.files if file.parent.parent != walk.folder}
    found = {
        "{}: images that may be small copies of others, and were read. Move them if so.": [
            walk.name(place) for place in sorted(below) if _SMALL.fullmatch(place.name)
        ],
        "Left out: {}. Convert what is of no format that is read, and give the others the suffix "
        "of their format.": [
            f"{n} {kind}" for kind, n in walk.skipped.items() if _LOOKS_LIKE in kind
        ],
    }
    return walk.problems() + _sentences(found)


def _twice(walk: Walk, classes: dict[str, list[Path]]) -> dict[str, list[str]]:
    """Return pairs of files that are there twice by links, soft or hard."""
    first: dict[tuple[int, int] | str, tuple[str, Path]] = {}
    found: dict[str, list[str]] = {"in two classes": [], "twice in a class": []}
    for name, files in classes.items():
        for file in files:
            own, other = first.setdefault(_identity(str(file)), (name, file))
            if other is not file:
                what = "twice in a class" if own == name else "in two classes"
                found[what].append(f"{walk.name(other)} and {walk.name(file)}")
    return found


_LOOKS_LIKE = "that look like images"


def not_an_image(file: Path) -> str:
    """Return what a file is counted as among those left out, or nothing for an image.

    A file without a suffix, or with a number for one, is what its first bytes say; one with an
    unknown suffix is an image if it is DICOM. One that cannot be opened raises OSError.
    """
    found = re.search(r"\.[^.\s]*[^.\s\d][^.\s]*$", file.name.lower().rstrip(". "))
    suffix = found[0] if found else ""
    if suffix in SUFFIXES:
        return ""
    what = shown(suffix) if suffix else "files without a suffix"
    if suffix in _NO_IMAGES:
        return what
    if suffix in _UNREAD:
        return f"{what} {_LOOKS_LIKE}"
    head = first_bytes(file)
    image = identify(head) not in (None, "TGA")  # TGA may begin in many ways
    if is_dicom(head) or (image and not suffix):
        return ""
    return f"{what} {_LOOKS_LIKE}" if image else what


def first_bytes(file: Path) -> bytes:
    """Return what tells a DICOM file from others."""
    with open(file, "rb") as opened:
        return opened.read(132)


def _left_over(name: str) -> str:
    """Return the kind of left-overs that a name belongs to, or nothing."""
    if found := _LEFT_OVERS.match(name.lower()):
        return _LEFT_OVER[(found.lastindex or 0) - 1].strip()
    return "hidden" if name.startswith(".") else ""


def _holds_images(folder: str) -> bool:
    try:
        return any(file.is_file() and not not_an_image(file) for file in Path(folder).iterdir())
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int] | str:
    """Return what is the same for all ways to a file or folder."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _sentences(found: dict[str, list[str]]) -> list[str]:
    """Return each sentence about names, the first three of them, if there are any."""
    said = []
    for sentence, names in found.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        said += [sentence.format(", ".join(names[:3]) + more)] * bool(names)
    return said
