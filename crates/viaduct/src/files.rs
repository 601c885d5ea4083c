//! The configuration's files.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use viaduct_model::Source;

use crate::failure::Failure;

/// Reads a file, or a directory's viaduct.toml and conf.d/*.toml in name order.
pub(crate) fn read(path: &Path) -> Result<Vec<Source>, Failure> {
    let is_directory = fs::metadata(path).map_err(|e| unreadable(path, &e))?.is_dir();
    if !is_directory {
        return Ok(vec![source(path)?]);
    }
    let main = path.join("viaduct.toml");
    let mut files = list(&path.join("conf.d"))?;
    if main.exists() {
        files.insert(0, main.clone());
    } else if files.is_empty() {
        files = list(path)?;
    }
    if files.is_empty() {
        return Err(Failure::Usage(format!(
            "there is no configuration: write {}, or name another place with --config",
            main.display()
        )));
    }
    files.iter().map(|file| source(file)).collect()
}

/// The *.toml files of a directory, in name order; none when there is no such directory.
fn list(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(directory, &error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| unreadable(directory, &e))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|e| e == "toml") && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads one file.
pub(crate) fn source(path: &Path) -> Result<Source, Failure> {
    let bytes = fs::read(path).map_err(|e| unreadable(path, &e))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name: path.display().to_string(), text }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid].iter().filter(|&&b| b == b'\n').count() + 1;
            Err(Failure::Usage(format!(
                "{}:{line}: this is not UTF-8 text; save the file as UTF-8",
                path.display()
            )))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; write it, or name another place with --config",
        io::ErrorKind::PermissionDenied => "; may this user read it?",
        _ => "",
    };
    Failure::Usage(format!("cannot read {}: {error}{hint}", path.display()))
}

/// Writes a changed file beside and renames it over the old one, whose permissions it keeps.
pub(crate) fn replace(source: &Source) -> Result<(), Failure> {
    // A link stays a link: what it points to is replaced.
    let path = fs::canonicalize(&source.name).map_err(|e| unwritable(Path::new(&source.name), &e))?;
    let beside = path.with_extension("toml.new");
    let go = || -> io::Result<()> {
        let mode = fs::metadata(&path)?.permissions().mode();
        fs::write(&beside, &source.text)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
        fs::File::open(&beside)?.sync_all()?;
        fs::rename(&beside, &path)
    };
    go().map_err(|error| {
        let _ = fs::remove_file(&beside);
        unwritable(&path, &error)
    })
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
}
