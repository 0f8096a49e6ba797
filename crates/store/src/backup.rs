//! Backups of the embedded engine: a copy of the whole database at one moment,
//! made while it is served, in a file that says what it is and that shows when
//! a part of it is missing or changed.
//!
//! A backup is the line [`FORMAT`], a line of JSON (the [`Manifest`]), the
//! database, and a line with the BLAKE3 of all before it in hexadecimal. What a
//! restored server needs beside that, its owner's key and its settings, is
//! not in it. PostgreSQL has tools of its own; docs/operations.md has the recipe.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use agentry_domain::{Code, Error, Timestamp};
use bytes::Bytes;
use futures::Stream;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value as Json, json};

use crate::log::LOG_HEAD;
use crate::sqlite::{self, FILE_NAME, LOCK_NAME};
use crate::{Result, Store, StoreError};

/// The first line of a backup, without its end.
pub const FORMAT: &str = "agentry backup 1";
const FORMAT_NAME: &str = "agentry backup ";
/// Bytes of either of the first two lines at most.
const LINE_BYTES_MAX: u64 = 4_096;
/// The hash in hexadecimal, and the end of its line.
const TRAILER_BYTES: usize = 65;
/// Bytes that are in memory at once, for each of a few steps.
const CHUNK_BYTES: usize = 256 * 1_024;
/// How copies that are under way are called; what a crash leaves is removed at
/// the next start.
const COPY_PREFIX: &str = "backup-";
const STAGED_NAME: &str = "restore.tmp";
/// The version of the store's form since which a key's hash stands in a table of
/// its own.
const KEYS_APART_SINCE: i64 = 9;
/// The installation's key, which is not in the database.
const OWNER_KEY_NAME: &str = "owner.key";
/// The key of its sealed secrets, which is not either.
const SEALING_KEY_NAME: &str = "sealing.key";
const ASIDE_PREFIX: &str = "before-restore-";

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The newest migration that the database has seen.
    pub schema: i64,
    /// The place of the newest entry of the log: all that was acknowledged up to
    /// it is in the backup.
    pub log: i64,
    /// Bytes of the database.
    pub bytes: u64,
    /// The version of the server that made it.
    pub version: String,
    /// When it was made.
    pub made_at: Timestamp,
}

/// Why a file is no backup that can be restored, or cannot be restored here.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Something else.
    #[error("this is not a backup of agentry")]
    NotABackup,
    /// Written in a later form.
    #[error("this backup has the form {0:?}, and this version of agentry knows {FORMAT:?}")]
    NewerFormat(String),
    /// Of a later version.
    #[error(
        "this backup was made by agentry {version} with schema {found}; this version knows schema \
         {known} and older ones: restore it with that version or a later one"
    )]
    NewerSchema {
        /// The backup's.
        found: i64,
        /// The newest that this binary knows.
        known: i64,
        /// Who made it.
        version: String,
    },
    /// The end is missing.
    #[error("this backup is truncated: {0} bytes of it are missing")]
    Truncated(u64),
    /// It was changed.
    #[error("this backup is corrupt: {0}")]
    Corrupt(String),
    /// There is something already.
    #[error("{0} is not empty; --force keeps what is there aside, in a directory beside it")]
    NotEmpty(PathBuf),
    /// The file or the directory cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The store's own reason.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// What was restored.
    pub manifest: Manifest,
    /// Where what was there before is now.
    pub aside: Option<PathBuf>,
    /// Whether the key in the directory is one of the restored installation's.
    pub has_key: bool,
}

/// A backup that is ready to be read. The copy that it is made of has no name
/// any more, and is gone with this value, however the process ends.
#[derive(Debug)]
pub struct Backup {
    /// What it is.
    pub manifest: Manifest,
    copy: File,
}

impl Store {
    /// How far the backup is that is being made: bytes of the copy so far, and of
    /// the database. None when none is made.
    pub fn backup_progress(&self) -> Option<(u64, u64)> {
        let data = self.sqlite_data()?;
        let database = std::fs::metadata(data.join(FILE_NAME)).ok()?.len();
        let copies = std::fs::read_dir(data).ok()?.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            name.to_str()?.starts_with(COPY_PREFIX).then(|| entry.metadata().ok())?
        });
        let copied = copies.map(|copy| copy.len()).max()?;
        Some((copied.min(database), database))
    }

    /// Copies the whole database as it is at one moment. Reads and writes go on;
    /// the copy needs as much room in the data directory as the database.
    pub async fn backup(&self, made_at: Timestamp) -> Result<Backup> {
        let Some(data) = self.sqlite_data() else {
            return Err(StoreError::Refused(Error::new(
                Code::Conflict,
                "the state is in PostgreSQL: back it up with PostgreSQL's own tools, as \
                 docs/operations.md describes",
            )));
        };
        let one_at_a_time = self.backups().ok_or_else(|| {
            StoreError::Refused(Error::new(Code::Conflict, "a backup is being made already"))
        })?;
        let data = data.to_owned();
        tokio::task::spawn_blocking(move || {
            let made = make(&data, made_at);
            drop(one_at_a_time);
            made
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }
}

/// Copies the database in this directory, whether it is served or not.
pub fn make(data: &Path, made_at: Timestamp) -> Result<Backup> {
    let unavailable = |error: io::Error| StoreError::Unavailable(error.into());
    let path = data.join(format!("{COPY_PREFIX}{}.tmp", made_at.micros()));
    let named = Named(path.clone());
    let source = sqlite::open_reader(&data.join(FILE_NAME))?;
    source.execute("vacuum into ?1", [path.to_string_lossy().as_ref()])?;
    let (schema, log) = look(&path)?;
    let copy = File::open(&path).map_err(unavailable)?;
    drop(named);
    let bytes = copy.metadata().map_err(unavailable)?.len();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Backup { manifest: Manifest { schema, log, bytes, version, made_at }, copy })
}

/// A file that has a name only as long as this lives.
struct Named(PathBuf);

impl Drop for Named {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let mut journal = self.0.clone().into_os_string();
        journal.push("-journal");
        let _ = std::fs::remove_file(journal);
    }
}

/// Removes the copies that a process left when it was killed.
pub(crate) fn clear(data: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(data)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(COPY_PREFIX) && name.contains(".tmp") {
            std::fs::remove_file(data.join(name.as_ref()))?;
        }
    }
    Ok(())
}

/// The schema and the place in the log of a database that nobody writes to.
fn look(path: &Path) -> Result<(i64, i64)> {
    let connection = open_alone(path)?;
    let schema = sqlite::schema(&connection)?;
    let log = connection.query_row(LOG_HEAD.sqlite, [], |row| row.get(0))?;
    Ok((schema, log))
}

/// Opens a file that nobody else has open, and leaves nothing beside it.
fn open_alone(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", escaped(path));
    Ok(Connection::open_with_flags(uri, flags)?)
}

/// A path as a part of a URI, in which `%`, `?` and `#` mean something.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

impl Manifest {
    fn head(&self) -> String {
        let line = json!({
            "schema": self.schema,
            "log": self.log,
            "bytes": self.bytes,
            "version": self.version,
            "made_at": self.made_at.micros(),
        });
        format!("{FORMAT}\n{line}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let line: Json = serde_json::from_str(line).ok()?;
        Some(Self {
            schema: line["schema"].as_i64()?,
            log: line["log"].as_i64()?,
            bytes: line["bytes"].as_u64()?,
            version: line["version"].as_str()?.to_owned(),
            made_at: Timestamp::from_micros(line["made_at"].as_i64()?),
        })
    }
}

impl Backup {
    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.manifest.head().len() as u64 + self.manifest.bytes + TRAILER_BYTES as u64
    }

    /// The file, piece by piece; a piece is read when it is asked for.
    pub fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let writer = Pieces { backup: self, hasher: blake3::Hasher::new(), step: Step::Head };
        futures::stream::try_unfold(writer, |mut writer| async move {
            let read = tokio::task::spawn_blocking(move || {
                let piece = writer.next()?;
                Ok::<_, io::Error>(piece.map(|piece| (piece, writer)))
            });
            read.await.map_err(io::Error::other)?
        })
    }

    /// Writes the file.
    pub fn write(self, to: &mut impl Write) -> io::Result<()> {
        let mut pieces = Pieces { backup: self, hasher: blake3::Hasher::new(), step: Step::Head };
        while let Some(piece) = pieces.next()? {
            to.write_all(&piece)?;
        }
        Ok(())
    }
}

enum Step {
    Head,
    Database { left: u64 },
    Done,
}

struct Pieces {
    backup: Backup,
    hasher: blake3::Hasher,
    step: Step,
}

impl Pieces {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self.step {
            Step::Head => {
                let head = self.backup.manifest.head();
                self.hasher.update(head.as_bytes());
                self.step = Step::Database { left: self.backup.manifest.bytes };
                Ok(Some(head.into()))
            }
            Step::Database { left: 0 } => {
                self.step = Step::Done;
                Ok(Some(format!("{}\n", self.hasher.finalize().to_hex()).into()))
            }
            Step::Database { left } => {
                let wanted =
                    usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
                let mut piece = vec![0; wanted];
                self.backup.copy.read_exact(&mut piece)?;
                self.hasher.update(&piece);
                self.step = Step::Database { left: left - wanted as u64 };
                Ok(Some(piece.into()))
            }
            Step::Done => Ok(None),
        }
    }
}

/// Reads a backup from its beginning to its end, and writes the database in it.
/// Any fault is an error; what was written by then is worth nothing.
pub fn unpack(from: &mut impl BufRead, to: &mut impl Write) -> Result<Manifest, RestoreError> {
    let mut hasher = blake3::Hasher::new();
    let format = line(from, &mut hasher)?.ok_or(RestoreError::NotABackup)?;
    if format != FORMAT {
        let is_later = format.strip_prefix(FORMAT_NAME).is_some_and(|n| n.parse::<u64>().is_ok());
        let error =
            if is_later { RestoreError::NewerFormat(format) } else { RestoreError::NotABackup };
        return Err(error);
    }
    let described = line(from, &mut hasher)?.ok_or(RestoreError::Truncated(1))?;
    let manifest = Manifest::parse(&described)
        .ok_or_else(|| RestoreError::Corrupt("its description cannot be read".to_owned()))?;
    let known = sqlite::newest_schema();
    if manifest.schema > known {
        let (found, version) = (manifest.schema, manifest.version);
        return Err(RestoreError::NewerSchema { found, known, version });
    }
    let mut left = manifest.bytes;
    let mut piece = vec![0; CHUNK_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let read = from.read(&mut piece[..wanted])?;
        if read == 0 {
            return Err(RestoreError::Truncated(left + TRAILER_BYTES as u64));
        }
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read])?;
        left -= read as u64;
    }
    let mut trailer = Vec::new();
    from.take(TRAILER_BYTES as u64 + 1).read_to_end(&mut trailer)?;
    if trailer.len() < TRAILER_BYTES {
        return Err(RestoreError::Truncated((TRAILER_BYTES - trailer.len()) as u64));
    }
    if trailer != format!("{}\n", hasher.finalize().to_hex()).as_bytes() {
        return Err(RestoreError::Corrupt("its checksum is another one".to_owned()));
    }
    Ok(manifest)
}

/// A line without its end; none at the end of the file or when it is too long.
fn line(from: &mut impl BufRead, hasher: &mut blake3::Hasher) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    hasher.update(&line);
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(String::from_utf8(line).ok())
}

/// Looks whether a file is a whole backup.
pub fn verify(file: &Path) -> Result<Manifest, RestoreError> {
    unpack(&mut BufReader::new(File::open(file)?), &mut io::sink())
}

/// Puts the database of a backup into a data directory that nobody serves. What
/// is in the directory stays as it is until the backup was found to be whole.
///
/// `force` says to keep what is there aside; without it a directory with
/// anything in it is refused. `now` names where that is kept.
pub fn restore(
    file: &Path,
    data: &Path,
    force: bool,
    now: Timestamp,
) -> Result<Restored, RestoreError> {
    let mut from = BufReader::new(File::open(file)?);
    std::fs::create_dir_all(data)?;
    let _lock = sqlite::lock(data)?;
    let there = others(data)?;
    if !there.is_empty() && !force {
        return Err(RestoreError::NotEmpty(data.to_owned()));
    }
    let staged = data.join(STAGED_NAME);
    let named = Named(staged.clone());
    let mut to =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&staged)?;
    let manifest = unpack(&mut from, &mut to)?;
    to.seek(SeekFrom::Start(0))?;
    to.sync_all()?;
    drop(to);
    let has_key = examine(&staged, &manifest, &data.join(OWNER_KEY_NAME))?;
    let aside = if there.is_empty() { None } else { Some(set_aside(data, there, has_key, now)?) };
    std::fs::rename(&staged, data.join(FILE_NAME))?;
    File::open(data)?.sync_all()?;
    drop(named);
    Ok(Restored { manifest, aside, has_key })
}

/// What is in a data directory beside what every one has.
fn others(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name != LOCK_NAME && name != STAGED_NAME && !name.starts_with(ASIDE_PREFIX) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Looks at the database as a database; whether the key in this file is one of
/// its keys.
fn examine(staged: &Path, manifest: &Manifest, key: &Path) -> Result<bool, RestoreError> {
    let connection = open_alone(staged)?;
    let verdict: String = connection
        .query_row("pragma integrity_check(1)", [], |row| row.get(0))
        .map_err(StoreError::from)?;
    if verdict != "ok" {
        return Err(RestoreError::Corrupt(verdict));
    }
    if look(staged)? != (manifest.schema, manifest.log) {
        return Err(RestoreError::Corrupt("it is not what its description says".to_owned()));
    }
    let Ok(secret) = std::fs::read_to_string(key) else { return Ok(false) };
    let hash = blake3::hash(secret.trim().as_bytes());
    let hashes = if manifest.schema < KEYS_APART_SINCE { "api_key" } else { "key_secret" };
    let found: i64 = connection
        .query_row(
            &format!("select count(*) from {hashes} where hash = ?1"),
            [hash.as_bytes().as_slice()],
            |row| row.get(0),
        )
        .map_err(StoreError::from)?;
    Ok(found > 0)
}

fn set_aside(
    data: &Path,
    there: Vec<PathBuf>,
    has_key: bool,
    now: Timestamp,
) -> io::Result<PathBuf> {
    let aside = data.join(format!("{ASIDE_PREFIX}{}", now.micros()));
    std::fs::create_dir(&aside)?;
    for path in there {
        let Some(name) = path.file_name() else { continue };
        // The keys go on opening what they open.
        if !(has_key && (name == OWNER_KEY_NAME || name == SEALING_KEY_NAME)) {
            std::fs::rename(&path, aside.join(name))?;
        }
    }
    File::open(&aside)?.sync_all()?;
    Ok(aside)
}
