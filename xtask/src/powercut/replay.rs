//! What a disk holds after a power cut. [`Replay`] goes through the journal
//! once, keeping apart what is durable and what waits for a sync; at any point
//! it writes out the directory that would be found after the power is back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::journal::{Ack, Journal, Operation, Record};

/// Disks promise to write a sector whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What becomes of that which no sync covers.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced {
    /// All of it is lost.
    Dropped,
    /// Each write reached the disk or not, by chance; of the waiting names the
    /// first few did, because file systems journal those in order.
    Subset {
        /// Chooses; the same seed chooses the same.
        seed: u64,
        /// Whether chance decides for each sector apart.
        torn: bool,
    },
}

/// A file's identity within the replay; inode numbers are used again.
type File = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(File),
    Directory,
}

#[derive(Clone, Debug)]
enum Naming {
    Add { path: String, entry: Entry },
    Remove { path: String },
    Rename { from: String, to: String, entry: Entry },
}

impl Naming {
    fn paths(&self) -> impl Iterator<Item = &str> {
        let (one, other) = match self {
            Self::Add { path, .. } | Self::Remove { path } => (path, None),
            Self::Rename { from, to, .. } => (from, Some(to.as_str())),
        };
        std::iter::once(one.as_str()).chain(other)
    }

    fn names(&self, wanted: File) -> bool {
        match self {
            Self::Add { entry, .. } | Self::Rename { entry, .. } => *entry == Entry::File(wanted),
            Self::Remove { .. } => false,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        match self {
            Self::Add { path, entry } => {
                names.insert(path.clone(), *entry);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, .. } => {
                let inside = format!("{from}/");
                let moved: Vec<String> = names
                    .keys()
                    .filter(|path| *path == from || path.starts_with(&inside))
                    .cloned()
                    .collect();
                for path in moved {
                    if let Some(entry) = names.remove(&path) {
                        names.insert(format!("{to}{}", &path[from.len()..]), entry);
                    }
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Content {
    durable: Vec<u8>,
    /// Records that no sync covers yet, in order.
    waiting: Vec<usize>,
}

/// The state of a disk while a journal is gone through.
#[derive(Debug)]
pub struct Replay<'a> {
    journal: &'a Journal,
    position: usize,
    files: Vec<Content>,
    by_inode: HashMap<u64, File>,
    live: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
    /// Names that no sync covers yet, with the records that made them, in order.
    waiting: Vec<(usize, Naming)>,
    /// Where each sync began that has not ended.
    syncs: HashMap<u64, usize>,
    acknowledged: Vec<Ack>,
}

impl<'a> Replay<'a> {
    /// Begins before the first record. `base` is a copy of the directory as it
    /// was then, all of it durable; `None` when it was empty.
    ///
    /// # Errors
    /// When `base` cannot be read.
    pub fn new(journal: &'a Journal, base: Option<&Path>) -> Result<Self> {
        let mut files = Vec::new();
        let mut names = BTreeMap::new();
        if let Some(base) = base {
            read_tree(base, "", &mut names, &mut files)?;
        }
        Ok(Self {
            journal,
            position: 0,
            files,
            by_inode: HashMap::new(),
            live: names.clone(),
            durable: names,
            waiting: Vec::new(),
            syncs: HashMap::new(),
            acknowledged: Vec::new(),
        })
    }

    /// Goes on to the cut before record `index`; cuts are taken in order.
    ///
    /// # Errors
    /// When `index` lies behind or beyond the journal, or the journal does
    /// something that the replay does not model (a file that comes from outside).
    pub fn advance_to(&mut self, index: usize) -> Result<()> {
        ensure!(index >= self.position, "the replay is past record {index}");
        ensure!(index <= self.journal.records.len(), "there is no record {index}");
        let journal = self.journal;
        while self.position < index {
            let record = &journal.records[self.position];
            self.step(record).with_context(|| format!("record {}", self.position))?;
            self.position += 1;
        }
        Ok(())
    }

    /// The acknowledgements that may have left before the cut, in order.
    pub fn acknowledged(&self) -> &[Ack] {
        &self.acknowledged
    }

    /// Writes what the disk would hold into an empty directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_to(&self, dir: &Path, unsynced: Unsynced) -> Result<()> {
        let mut chance = match unsynced {
            Unsynced::Dropped => None,
            Unsynced::Subset { seed, torn } => {
                // The cut is part of the seed, so that each has its own luck.
                let seed = seed ^ (self.position as u64).rotate_left(32);
                Some((StdRng::seed_from_u64(seed), torn))
            }
        };
        let mut names = self.durable.clone();
        if let Some((rng, _)) = &mut chance {
            let kept = rng.random_range(0..=self.waiting.len());
            for (_, naming) in &self.waiting[..kept] {
                naming.apply(&mut names);
            }
        }
        let mut contents: HashMap<File, Vec<u8>> = HashMap::new();
        // In the order of the files, so that a seed means the same every time.
        let present: BTreeSet<File> = names
            .values()
            .filter_map(|entry| match entry {
                Entry::File(file) => Some(*file),
                Entry::Directory => None,
            })
            .collect();
        for file in present {
            let mut bytes = self.files[file].durable.clone();
            if let Some((rng, torn)) = &mut chance {
                for &record in &self.files[file].waiting {
                    self.apply_some(&mut bytes, record, rng, *torn);
                }
            }
            contents.insert(file, bytes);
        }
        for (path, entry) in &names {
            let path = dir.join(path);
            match entry {
                Entry::Directory => std::fs::create_dir_all(&path)?,
                Entry::File(file) => {
                    let parent = path.parent().context("a file lies in a directory")?;
                    std::fs::create_dir_all(parent)?;
                    std::fs::write(&path, &contents[file])?;
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, record: &Record) -> Result<()> {
        let index = self.position;
        match &record.operation {
            Operation::Start { .. } => {
                // Whatever the process before us had begun will not end.
                self.syncs.clear();
            }
            Operation::Open => {
                self.file(record);
            }
            Operation::Create => {
                let file = self.new_file(Vec::new());
                self.by_inode.insert(record.inode, file);
                self.name(Naming::Add { path: record.path.clone(), entry: Entry::File(file) });
            }
            Operation::Write { .. } | Operation::Truncate { .. } | Operation::Allocate { .. } => {
                let file = self.file(record);
                self.files[file].waiting.push(index);
            }
            Operation::Rename { to } => self.rename(record, to)?,
            Operation::Link { to } => {
                let file = self.file(record);
                self.name(Naming::Add { path: to.clone(), entry: Entry::File(file) });
            }
            Operation::Unlink | Operation::Rmdir => {
                self.name(Naming::Remove { path: record.path.clone() });
            }
            Operation::Mkdir => {
                let path = record.path.clone();
                self.name(Naming::Add { path, entry: Entry::Directory });
            }
            Operation::SyncBegin { number } => {
                self.syncs.insert(*number, index);
            }
            Operation::SyncEnd { number } => {
                let begun = self.begun(*number)?;
                let file = self.file(record);
                self.data_is_durable(file, begun);
                self.names_are_durable(begun, |naming| naming.names(file));
            }
            Operation::DirectorySyncEnd { number } => {
                let begun = self.begun(*number)?;
                let dir = record.path.clone();
                self.names_are_durable(begun, |naming| {
                    naming.paths().any(|path| path == dir || parent(path) == dir)
                });
            }
            Operation::Acknowledge(ack) => self.acknowledged.push(ack.clone()),
        }
        Ok(())
    }

    fn rename(&mut self, record: &Record, to: &str) -> Result<()> {
        if to.is_empty() {
            self.name(Naming::Remove { path: record.path.clone() });
            return Ok(());
        }
        if record.path.is_empty() {
            bail!("{to} came from outside, where nothing is recorded");
        }
        let entry = match self.live.get(&record.path) {
            Some(entry) => *entry,
            None => Entry::File(self.file(record)),
        };
        self.name(Naming::Rename { from: record.path.clone(), to: to.to_owned(), entry });
        Ok(())
    }

    fn begun(&mut self, number: u64) -> Result<usize> {
        self.syncs.remove(&number).with_context(|| format!("sync {number} ends without beginning"))
    }

    /// The file that a record speaks of: by its inode, or by its path when it
    /// was there before us. What is neither was made behind the shim's back,
    /// and counts as created here.
    fn file(&mut self, record: &Record) -> File {
        if let Some(file) = self.by_inode.get(&record.inode) {
            return *file;
        }
        let file = match self.live.get(&record.path) {
            Some(Entry::File(file)) => *file,
            _ => {
                let file = self.new_file(Vec::new());
                self.name(Naming::Add { path: record.path.clone(), entry: Entry::File(file) });
                file
            }
        };
        self.by_inode.insert(record.inode, file);
        file
    }

    fn new_file(&mut self, durable: Vec<u8>) -> File {
        self.files.push(Content { durable, waiting: Vec::new() });
        self.files.len() - 1
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.live);
        self.waiting.push((self.position, naming));
    }

    fn data_is_durable(&mut self, file: File, before: usize) {
        let waiting = std::mem::take(&mut self.files[file].waiting);
        let (covered, later): (Vec<usize>, Vec<usize>) =
            waiting.into_iter().partition(|record| *record < before);
        for record in covered {
            apply(&mut self.files[file].durable, &self.journal.records[record].operation);
        }
        self.files[file].waiting = later;
    }

    /// Makes the chosen names durable, and with them the older ones that they
    /// depend on: of the same paths, or of the directories above.
    fn names_are_durable(&mut self, before: usize, chosen: impl Fn(&Naming) -> bool) {
        let mut paths = BTreeSet::new();
        let mut taken = vec![false; self.waiting.len()];
        for (nth, (record, naming)) in self.waiting.iter().enumerate().rev() {
            let depended_on = naming.paths().any(|path| paths.contains(path));
            if *record < before && (chosen(naming) || depended_on) {
                taken[nth] = true;
                for path in naming.paths() {
                    let above = std::iter::successors(Some(path), |path| {
                        (!path.is_empty()).then(|| parent(path))
                    });
                    paths.extend(above.map(str::to_owned));
                }
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        for (taken, (record, naming)) in taken.into_iter().zip(waiting) {
            if taken {
                naming.apply(&mut self.durable);
            } else {
                self.waiting.push((record, naming));
            }
        }
    }

    fn apply_some(&self, bytes: &mut Vec<u8>, record: usize, rng: &mut StdRng, torn: bool) {
        let operation = &self.journal.records[record].operation;
        match operation {
            Operation::Write { offset, data } if torn => {
                let mut at = 0;
                while at < data.len() {
                    let position = *offset as usize + at;
                    let to_boundary = SECTOR_BYTES - position % SECTOR_BYTES;
                    let end = data.len().min(at + to_boundary);
                    if rng.random_bool(0.5) {
                        write_at(bytes, position, &data[at..end]);
                    }
                    at = end;
                }
            }
            _ => {
                if rng.random_bool(0.5) {
                    apply(bytes, operation);
                }
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write { offset, data } => write_at(bytes, *offset as usize, data),
        Operation::Truncate { length } => bytes.resize(*length as usize, 0),
        Operation::Allocate { end } => bytes.resize(bytes.len().max(*end as usize), 0),
        _ => {}
    }
}

fn write_at(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// The directory of a path, "" for what lies at the top.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn read_tree(
    base: &Path,
    below: &str,
    names: &mut BTreeMap<String, Entry>,
    files: &mut Vec<Content>,
) -> Result<()> {
    let dir: PathBuf = base.join(below);
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {dir:?}"))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a name is not UTF-8")?;
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if path.ends_with("-shm") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            names.insert(path.clone(), Entry::Directory);
            read_tree(base, &path, names, files)?;
        } else {
            let durable = std::fs::read(entry.path())?;
            names.insert(path, Entry::File(files.len()));
            files.push(Content { durable, waiting: Vec::new() });
        }
    }
    Ok(())
}
