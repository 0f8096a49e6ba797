//! The journal of the shim `powercut`, as xtask/shims/powercut.c writes it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u32 = 0x5455_4350;
const HEAD_BYTES: usize = 48;

/// What was done. Paths are relative to the recorded directory, which is "".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A process began to record.
    Start {
        /// Its id.
        pid: u64,
    },
    /// An existing file was opened for writing.
    Open,
    /// A file was created.
    Create,
    /// Data was written.
    Write {
        /// Where in the file, in bytes.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// The length was set.
    Truncate {
        /// To this, in bytes.
        length: u64,
    },
    /// Room was made; the file grew to its end if it was shorter.
    Allocate {
        /// Where the room ends, in bytes.
        end: u64,
    },
    /// A file or directory got another name; the record's path is the old one.
    Rename {
        /// The new name.
        to: String,
    },
    /// A file got one more name; the record's path is the old one.
    Link {
        /// The new name.
        to: String,
    },
    /// A name of a file was removed.
    Unlink,
    /// A directory was made.
    Mkdir,
    /// A directory was removed.
    Rmdir,
    /// A sync of a file or directory began.
    SyncBegin {
        /// Pairs it with its end, within one process.
        number: u64,
    },
    /// A sync of a file succeeded.
    SyncEnd {
        /// Pairs it with its beginning.
        number: u64,
    },
    /// A sync of a directory succeeded.
    DirectorySyncEnd {
        /// Pairs it with its beginning.
        number: u64,
    },
    /// An HTTP answer with a 2xx status was about to leave.
    Acknowledge(Ack),
}

/// An HTTP answer with a 2xx status, handed to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its status.
    pub status: u16,
    /// Its `x-request-id`.
    pub request_id: String,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The inode, 0 where there is none.
    pub inode: u64,
    /// The path below the recorded directory; "" is the directory itself.
    pub path: String,
    /// What was done to it.
    pub operation: Operation,
}

/// Everything that was recorded, in order of effect.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The records.
    pub records: Vec<Record>,
}

impl Journal {
    /// Reads a journal. A record that is cut off at the end, because the
    /// process was killed while it wrote it, is left out.
    ///
    /// # Errors
    /// When the file cannot be read or is not such a journal.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {file:?}"))?;
        let mut left = bytes.as_slice();
        let mut records = Vec::new();
        while let Some((record, rest)) = parse(left)? {
            records.push(record);
            left = rest;
        }
        Ok(Self { records })
    }

    /// The cuts at which the durable state is about to change, and the end: the
    /// numbers of records before each. Between two of them acknowledgements
    /// only gather, so a server that lost nothing at these lost nothing at the
    /// others when everything unsynced is dropped.
    pub fn cuts_before_syncs(&self) -> Vec<usize> {
        let ends = self.records.iter().enumerate().filter(|(_, record)| {
            matches!(
                record.operation,
                Operation::SyncEnd { .. } | Operation::DirectorySyncEnd { .. }
            )
        });
        ends.map(|(index, _)| index).chain([self.records.len()]).collect()
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(Record, &[u8])>> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else {
        return Ok(None);
    };
    let u32_at = |at: usize| {
        let mut four = [0; 4];
        four.copy_from_slice(&head[at..at + 4]);
        u32::from_le_bytes(four)
    };
    let u64_at = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(eight)
    };
    ensure!(u32_at(0) == MAGIC, "a record does not begin as one");
    let (inode, offset, length) = (u64_at(8), u64_at(16), u64_at(24));
    let parts = (|| {
        let (path, rest) = rest.split_at_checked(u32_at(32) as usize)?;
        let (other, rest) = rest.split_at_checked(u32_at(36) as usize)?;
        let (data, rest) = rest.split_at_checked(usize::try_from(u64_at(40)).ok()?)?;
        Some((path, other, data, rest))
    })();
    let Some((path, other, data, rest)) = parts else {
        return Ok(None);
    };
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).context("a path or request id is not UTF-8")
    };
    let operation = match u32_at(4) {
        1 => Operation::Start { pid: inode },
        2 => Operation::Open,
        3 => Operation::Create,
        4 => Operation::Write { offset, data: data.to_vec() },
        5 => Operation::Truncate { length: offset },
        6 => Operation::Allocate { end: offset + length },
        7 => Operation::Rename { to: text(other)? },
        8 => Operation::Link { to: text(other)? },
        9 => Operation::Unlink,
        10 => Operation::Mkdir,
        11 => Operation::Rmdir,
        12 | 14 => Operation::SyncBegin { number: offset },
        13 => Operation::SyncEnd { number: offset },
        15 => Operation::DirectorySyncEnd { number: offset },
        16 => Operation::Acknowledge(Ack {
            status: u16::try_from(offset).context("a status is out of range")?,
            request_id: text(data)?,
        }),
        other => bail!("there is no operation {other}"),
    };
    Ok(Some((Record { inode, path: text(path)?, operation }, rest)))
}
