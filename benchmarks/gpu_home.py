"Bringing home what `gpu.py` has made: a few files of at most 16 MB, and the way back, made sure of by their SHA-256."
import hashlib
import json
import tarfile
from pathlib import Path

from gpu_common import MB
from lstm_video_repr.core.files import make_folder, replace_file, write_json

PIECE, ALL_PIECES = 16*MB, 64*MB # what is brought home: a file, and all of them


def digest(data: bytes) -> str: return hashlib.sha256(data).hexdigest()


def write_bytes(
    path: Path, # to write or replace
    data: bytes, # what it is to hold
) -> Path: # the same
    "All or nothing."
    with replace_file(path) as temp: temp.write_bytes(data)
    return path


def cut(
    file: Path, # to be cut
    folder: Path, # where the pieces go
    *,
    size: int = PIECE, # bytes of a piece
) -> Path: # the list of pieces: NAME.pieces.json
    "Cut a file into pieces, with a SHA-256 of each and of the whole."
    data, pieces = file.read_bytes(), []
    for old in make_folder(folder).glob(f'{file.name}.[0-9]*'): old.unlink()
    for n, start in enumerate(range(0, max(1, len(data)), size)):
        piece = data[start:start + size]
        path = write_bytes(folder/f'{file.name}.{n:02d}', piece)
        pieces.append(dict(name=path.name, bytes=len(piece), sha256=digest(piece)))
    about = dict(name=file.name, bytes=len(data), sha256=digest(data), pieces=pieces)
    return write_json(folder/f'{file.name}.pieces.json', about)


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


def pack(
    out: Path, # folder of the files
    work: Path, # folder in which the model to bring home lies
    folder: Path, # where the pieces go
):
    "All but what can be made again, as files of at most 16 MB; `unpack` is the way back. `ValueError` for too much."
    archive, model = make_folder(folder)/'gpu-results.tar.gz', work/'bundle.safetensors'
    try:
        with tarfile.open(archive, 'w:gz') as tar:
            for path in sorted(out.glob('gpu-*')) + [out/'summary.txt']:
                if path.is_file(): tar.add(path, path.name, filter=without_owner)
        files = [archive] + [model] * model.is_file()
        total, most = sum(f.stat().st_size for f in files), ALL_PIECES + 3*MB
        if total > most: raise ValueError(f'{total / MB:.0f} MB to be packed; expected at most {most / MB:.0f}')
        for file in files: cut(file, folder)
    finally: archive.unlink(missing_ok=True)


def unpack_archive(
    archive: Path, # of results; deleted afterwards
    out: Path, # where they go
) -> list[Path]: # the files
    "`OSError` for what is no plain file."
    files = []
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if not member.isfile() or Path(member.name).name != member.name:
                raise OSError(f'{archive.name} holds {member.name!r}; expected plain files')
            files.append(write_bytes(out/member.name, tar.extractfile(member).read()))
    archive.unlink()
    return files


def unpack(
    folder: Path, # with *.pieces.json and their pieces
    out: Path, # where the results go
    work: Path, # where a model goes
) -> list[Path]: # the files
    "Put together what `pack` cut. `OSError` names what is missing or damaged."
    lists, files = sorted(folder.glob('*.pieces.json')), []
    if not lists: raise FileNotFoundError(f'{str(folder)!r} has no *.pieces.json; expected a folder that --pack filled')
    make_folder(out)
    for listed in lists:
        if listed.name.startswith('gpu-results.'): files += unpack_archive(join(listed, out), out)
        else: files.append(join(listed, work))
    return files
