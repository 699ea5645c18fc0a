"What lies in a folder"


def contents(folder):
    "Relative name of every file -> its bytes"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
