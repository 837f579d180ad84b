"Bringing home what `gpu.py` has made: a few files of at most 16 MB, and the way back, made sure of by their SHA-256."
import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import zlib
from pathlib import Path

from gpu_common import MB
from lstm_video_repr.core.files import make_folder, replace_file

PIECE, ALL_PIECES = 16*MB, 64*MB # what is brought home: a file, and all pieces of a model
RESULTS = 'gpu-results.tar.gz' # all but the model


def digest(data: bytes) -> str: return hashlib.sha256(data).hexdigest()


def write_bytes(
    path: Path, # to write or replace
    data: bytes, # what it is to hold
) -> Path: # the same
    "All or nothing."
    with replace_file(path) as temp: temp.write_bytes(data)
    return path


def is_cut(
    listed: Path, # NAME.pieces.json, perhaps
    whole: str, # SHA-256 of the file
) -> bool: # is just this file there already, in pieces?
    "Pieces that need not be made again."
    try: about = json.loads(listed.read_text(encoding='utf8'))
    except (OSError, ValueError): return False
    return about['sha256'] == whole and all((listed.parent/p['name']).is_file() for p in about['pieces'])


def move_in(
    files: dict[str, bytes], # name -> content
    folder: Path, # where they go
):
    "Write all of them beside the folder first: what was there is replaced within a moment, or not at all."
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix='.packing-') as near:
        for name, data in files.items(): (Path(near)/name).write_bytes(data)
        for name in files: os.replace(Path(near)/name, folder/name)


def cut(
    file: Path, # to be cut
    folder: Path, # where the pieces go
    *,
    size: int = PIECE, # bytes of a piece
) -> Path: # the list of pieces: NAME.pieces.json
    "Cut a file into pieces, with a SHA-256 of each and of the whole."
    data, pieces, files = file.read_bytes(), [], {}
    listed = make_folder(folder)/f'{file.name}.pieces.json'
    if is_cut(listed, digest(data)): return listed
    for n, start in enumerate(range(0, max(1, len(data)), size)):
        piece, name = data[start:start + size], f'{file.name}.{n:02d}'
        files[name] = piece
        pieces.append(dict(name=name, bytes=len(piece), sha256=digest(piece)))
    about = dict(name=file.name, bytes=len(data), sha256=digest(data), pieces=pieces)
    move_in(files | {listed.name: json.dumps(about, indent=1).encode()}, folder)
    for old in folder.glob(f'{file.name}.[0-9]*'):
        if old.name not in files: old.unlink()
    return listed


def read_list(
    listed: Path, # NAME.pieces.json
) -> tuple[str, str, list]: # name and SHA-256 of the file, and those of its pieces
    "What a list of pieces says. `OSError` for what is none, or names files elsewhere."
    try:
        about = json.loads(listed.read_text(encoding='utf8'))
        pieces = [(p['name'], p['sha256']) for p in about['pieces']]
        name, whole = about['name'], about['sha256']
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f'{listed.name} is no list of pieces ({error})') from error
    if any(Path(n).name != n for n in (name, *(n for n, _ in pieces))):
        raise OSError(f'{listed.name} names files in other folders; expected pieces beside it')
    return name, whole, pieces


def join(
    listed: Path, # NAME.pieces.json, with the pieces beside it
    folder: Path | None = None, # where the file goes; None: beside its pieces
) -> Path: # the file
    "Put a file together again. `OSError` names a piece that is missing or not what it was."
    name, whole, pieces = read_list(listed)
    data = b''
    for piece, wanted in pieces:
        path = listed.parent/piece
        if not path.is_file(): raise FileNotFoundError(f'{piece} is missing; expected it beside {listed.name}')
        part = path.read_bytes()
        if digest(part) != wanted: raise OSError(f'{piece} is damaged: its SHA-256 is not that in {listed.name}')
        data += part
    if digest(data) != whole: raise OSError(f'{name} is not what it was: its SHA-256 is not that in {listed.name}')
    return write_bytes(make_folder(folder or listed.parent)/name, data)


def without_owner(
    member: tarfile.TarInfo, # a file of the archive
) -> tarfile.TarInfo: # the same
    "Whose files they were is nobody's business."
    member.uid = member.gid = 0
    member.uname = member.gname = ''
    return member


def archive(
    paths: list[Path], # of files
) -> bytes: # of a .tar.gz
    "Files as one, each under its bare name."
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode='w:gz') as tar:
        for path in paths:
            member, data = without_owner(tar.gettarinfo(path, path.name)), path.read_bytes() # it may grow meanwhile
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return raw.getvalue()


def pack(
    out: Path, # folder of the files
    work: Path, # folder in which the model to bring home lies
    folder: Path, # where all goes
):
    """All but what can be made again, as files of at most 16 MB; `unpack` is the way back. `ValueError` for too much.

    May be called while a part still writes: each time what is there is replaced."""
    model, paths = work/'bundle.safetensors', [*sorted(out.glob('gpu-*')), out/'summary.txt']
    paths = [p for p in paths if p.is_file() and p.suffix in ('.json', '.jsonl', '.png', '.txt')]
    make_folder(folder)
    if len(results := archive(paths)) > PIECE:
        raise ValueError(f'the results are {len(results) / MB:.0f} MB; expected at most {PIECE / MB:.0f}')
    move_in({RESULTS: results}, folder)
    if not model.is_file(): return
    if (size := model.stat().st_size) > ALL_PIECES:
        raise ValueError(f'{model.name} is {size / MB:.0f} MB; expected at most {ALL_PIECES / MB:.0f}')
    cut(model, folder)


def unpack_archive(
    file: Path, # of results
    out: Path, # where they go
) -> list[Path]: # the files
    "`OSError` for what is damaged, or no plain file."
    files = {}
    try:
        with tarfile.open(file) as tar:
            for member in tar.getmembers():
                if not member.isfile() or Path(member.name).name != member.name:
                    raise OSError(f'{file.name} holds {member.name!r}; expected plain files')
                files[member.name] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f'{file.name} is damaged ({error})') from error
    return [write_bytes(out/name, data) for name, data in files.items()]


def unpack(
    folder: Path, # that `pack` filled
    out: Path, # where the results go
    work: Path, # where a model goes, and its log: `tools/bundle.py` wants both
) -> list[Path]: # the files
    "Put together what `pack` cut. `OSError` names what is missing or damaged; the results are there nevertheless."
    lists, results, files = sorted(folder.glob('*.pieces.json')), folder/RESULTS, []
    if not lists and not results.is_file():
        raise FileNotFoundError(f'{str(folder)!r} has no {RESULTS} and no *.pieces.json; expected what --pack filled')
    make_folder(out)
    if results.is_file(): files += unpack_archive(results, out)
    for listed in lists: files.append(join(listed, work))
    log = out/'gpu-bundle.jsonl'
    if lists and log.is_file(): files.append(write_bytes(make_folder(work)/'log.jsonl', log.read_bytes()))
    return files
